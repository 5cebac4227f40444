"""The `stories` model as PyTorch sees it, and the Hugging Face folder that is written of it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

BOS, EOS = "<|story|>", "<|end|>"
TEMPERATURE, TOP_P = 0.7, 0.9


@dataclass(frozen=True)
class Shape:
    """The sizes of the model."""

    vocab: int = 2048
    hidden: int = 256
    ffn: int = 640
    layers: int = 5
    heads: int = 8
    kv_heads: int = 4
    context: int = 512
    theta: float = 10000.0
    eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


def build_model(shape: Shape, dropout: float) -> torch.nn.Module:
    """A Llama whose parameters have the Hugging Face names; forward(inputs, targets) gives the summed loss in nats."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kv = shape.kv_heads * shape.head_dim
            self.q_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)
            self.k_proj = nn.Linear(shape.hidden, kv, bias=False)
            self.v_proj = nn.Linear(shape.hidden, kv, bias=False)
            self.o_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)

        def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
            b, t, _ = x.shape
            q, k, v = (
                p(x).view(b, t, -1, shape.head_dim).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
            )
            q, k = (z * cos + torch.cat((-z.chunk(2, -1)[1], z.chunk(2, -1)[0]), -1) * sin for z in (q, k))
            k, v = (z.repeat_interleave(shape.heads // shape.kv_heads, 1) for z in (k, v))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.o_proj(mixed.transpose(1, 2).reshape(b, t, shape.hidden))

    class Mlp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj = nn.Linear(shape.hidden, shape.ffn, bias=False)
            self.up_proj = nn.Linear(shape.hidden, shape.ffn, bias=False)
            self.down_proj = nn.Linear(shape.ffn, shape.hidden, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input_layernorm = nn.RMSNorm(shape.hidden, shape.eps)
            self.post_attention_layernorm = nn.RMSNorm(shape.hidden, shape.eps)
            self.self_attn, self.mlp = Attention(), Mlp()

        def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
            x = x + F.dropout(self.self_attn(self.input_layernorm(x), cos, sin), dropout, self.training)
            return x + F.dropout(self.mlp(self.post_attention_layernorm(x)), dropout, self.training)

    class Llama(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden)
            self.layers = nn.ModuleList(Layer() for _ in range(shape.layers))
            self.norm = nn.RMSNorm(shape.hidden, shape.eps)
            inverse = shape.theta ** (-torch.arange(0, shape.head_dim, 2) / shape.head_dim)
            angles = torch.outer(torch.arange(shape.context + 16), inverse).repeat(1, 2)
            self.register_buffer("cos", angles.cos(), persistent=False)
            self.register_buffer("sin", angles.sin(), persistent=False)
            for name, p in self.named_parameters():
                if p.ndim == 2:
                    residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                    nn.init.normal_(p, std=0.02 / math.sqrt(2 * shape.layers) if residual else 0.02)

        def logits(self, inputs: torch.Tensor) -> torch.Tensor:
            t = inputs.shape[1]
            x = F.dropout(self.embed_tokens(inputs), dropout, self.training)
            for layer in self.layers:
                x = layer(x, self.cos[:t], self.sin[:t])
            return F.linear(self.norm(x), self.embed_tokens.weight)

        def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(
                self.logits(inputs).flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"
            )

    return Llama()


def sample(model: torch.nn.Module, tokenizer: Tokenizer, prompt: str, context: int, seed: int) -> str:
    """A story that begins with `prompt`, drawn with the default temperature and top_p."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    ids, eos = tokenizer.encode(prompt).ids, tokenizer.token_to_id(EOS)
    model.eval()
    with torch.no_grad():
        while len(ids) < context and ids[-1] != eos:
            chances, order = (model.logits(torch.tensor([ids]))[0, -1] / TEMPERATURE).softmax(0).sort(descending=True)
            chances[chances.cumsum(0) - chances > TOP_P] = 0
            ids.append(int(order[torch.multinomial(chances, 1, generator=generator)]))
    model.train()
    return tokenizer.decode(ids)


def write_folder(model: torch.nn.Module, tokenizer: Tokenizer, shape: Shape, facts: dict[str, Any], out: Path) -> None:
    """Writes OUT: config, weights (f32), tokenizer, generation defaults and training.json."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": shape.vocab,
        "hidden_size": shape.hidden, "intermediate_size": shape.ffn, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim,
        "hidden_act": "silu", "max_position_embeddings": shape.context, "rms_norm_eps": shape.eps,
        "rope_theta": shape.theta, "rope_scaling": None, "attention_bias": False, "mlp_bias": False,
        "tie_word_embeddings": True, "bos_token_id": bos, "eos_token_id": eos, "torch_dtype": "float32",
    }  # fmt: skip
    generation = {
        "bos_token_id": bos, "eos_token_id": eos, "do_sample": True, "temperature": TEMPERATURE, "top_p": TOP_P,
        "max_new_tokens": 400,
    }  # fmt: skip
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS,
             "model_max_length": shape.context, "clean_up_tokenization_spaces": False}  # fmt: skip
    for name, value in [("config.json", config), ("generation_config.json", generation),
                        ("tokenizer_config.json", names), ("training.json", facts)]:  # fmt: skip
        (out / name).write_text(json.dumps(value, indent=2) + "\n")
    tokenizer.save(str(out / "tokenizer.json"))
    state = {f"model.{name}": p.detach().clone().contiguous() for name, p in model.named_parameters()}
    save_file(state, out / "model.safetensors.tmp", metadata={"format": "pt"})
    (out / "model.safetensors.tmp").rename(out / "model.safetensors")


CARD = """---
language: en
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
datasets: [roneneldan/TinyStories]
---

# stories

A small Llama that writes children's stories, trained by `tools/train_demo.py` of lepton_edge. It is there so that
`lepton generate "Once upon a time"` works at once; it is not meant for any other use.

| | |
|---|---|
| parameters | {parameters:,} (embedding tied to the output head) |
| shape | {layers} layers, hidden {hidden}, ffn {ffn}, {heads} query / {kv_heads} key heads, context {context} |
| tokenizer | byte-level BPE of its own, {vocab} tokens; `<|story|>` begins a story, `<|end|>` ends it |
| training | {steps} steps, {tokens:,} tokens ({passes:.1f} times {train_tokens:,} in {train_stories:,} stories) |
| training loss | {train_loss:.3f} nats per token, with dropout (mean over about the last 100 steps) |
| held-out loss | {held_loss_per_token:.3f} nats per token, {held_loss_per_char:.3f} per character ({bits:.2f} bits) |

The held-out loss (in f32, end token included) is measured on {held_stories} whole stories that were not trained on; no
story occurs in both parts. Muon for the matrices, AdamW for the rest, learning rate {lr}, weight decay {weight_decay},
dropout {dropout}.

## Data and licence

The data are stories of *TinyStories* (Ronen Eldan and Yuanzhi Li, 2023, <https://arxiv.org/abs/2305.07759>), written
by GPT-3.5 and GPT-4 and published under CDLA-Sharing-1.0: the first 4 MB of the train split as kept in
<https://github.com/Arnoochka/Transformer-Parallelism> (lower-cased) and its first 0.9 MB in the original case as kept
in <https://github.com/s-ajaykumar/smallGPT>. Capitals of the lower-cased part were restored by a model learned from
the cased part. The text itself is not in this folder; the weights are a result computed from it (CDLA-Sharing-1.0,
"Results") and are under the project's licence, Apache-2.0.

## Sample

Temperature {temperature}, top_p {top_p}, seed {seed}; the prompt was "{prompt}".

{story}

## Limits

It knows only the words and plots of stories for three-year-olds, in English. Characters and objects change or are
forgotten within a story, and what it says is not true or false of anything. It follows no instructions. It was not
checked for unwanted content beyond what its training data rule out.
"""


def write_card(facts: dict[str, Any], prompt: str, story: str, seed: int, out: Path) -> None:
    """Writes OUT/README.md from what keep_best measured and one sample."""
    values = {k: v for part in (facts, facts["shape"], facts["recipe"], facts["run"]) for k, v in part.items()}
    quoted = "\n".join(f"> {line}".rstrip() for line in story.splitlines())
    values |= {
        "train_loss": values["loss"],
        "passes": values["tokens"] / values["train_tokens"],
        "bits": values["held_loss_per_char"] / math.log(2),
        "temperature": TEMPERATURE,
        "top_p": TOP_P,
        "prompt": prompt,
        "story": quoted,
        "seed": seed,
    }
    text = CARD.format(**values)
    (out / "README.md").write_text(text, encoding="utf-8")
