"""Small encoders of every family and head, as data: their configs, and no more (see `families.py`, `recipe.py`).

tools/make_golden.py stores what transformers gives of them in encoders.npz; it refuses a folder whose tensors are not
exactly those that transformers asks for, but for poolers that nothing reads.
"""

import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge.models.registry import spec_from_config
from lepton_edge.models.spec import ModelSpec

from .recipe import GOLDEN, _hash, _normal, _write_safetensors

LENGTHS = (1, 4, 10, 7)
LONG = (3, 150, 40)  # beyond windows and distances, for heads that give little
FIRST = 3  # ids below are left out: transformers counts no position for a padding token
BUCKETS = ((256, 512), (16, 200), (32, 100), (64, 200), (4, 8))  # DeBERTa's, and how far they reach
LOUD = {"query", "key", "q_lin", "k_lin", "query_proj", "key_proj", "q", "k", "Wqkv"}
LABELS = {str(i): word for i, word in enumerate(("red", "green", "blue"))}


@dataclass(frozen=True)
class Encoder:
    """One model.  stored: ends of tensors' names, and what its folder has instead; `bare`: it lacks the prefix.

    twice: names of tensors that it has besides, each with that of one of the same shape.
    """

    name: str
    config: dict[str, Any]
    lengths: tuple[int, ...] = LENGTHS
    bare: bool = False
    stored: tuple[tuple[str, str], ...] = ()
    twice: tuple[tuple[str, str], ...] = ()

    @property
    def architecture(self) -> str:
        """As transformers calls the class."""
        return str(self.config["architectures"][0])

    @property
    def spec(self) -> ModelSpec:
        """As the config says, whatever the folder calls the tensors."""
        return spec_from_config(self.config, self.name)

    @property
    def each(self) -> bool:
        """Whether there is an output for each token."""
        return "SequenceClass" not in self.architecture


def _sizes(hidden: int, ffn: int, heads: int, vocab: int = 41, layers: int = 2, positions: int = 200) -> dict[str, Any]:
    """Under BERT's names."""
    return {
        "hidden_size": hidden, "intermediate_size": ffn, "num_attention_heads": heads, "vocab_size": vocab,
        "num_hidden_layers": layers, "max_position_embeddings": positions,
    }  # fmt: skip


HEADS = {"Model": LENGTHS, "ForSequenceClassification": LONG, "ForTokenClassification": LONG,
         "ForQuestionAnswering": LONG, "ForMaskedLM": LENGTHS}  # fmt: skip


def _family(name: str, kind: str, *sizes: dict[str, Any], heads: str = "Model classes tokens span mask",
            **fields: Any) -> list[Encoder]:
    """A model with each of the heads: NAME, NAME_classes, ..."""
    found = []
    for head, (end, lengths) in zip(("Model", "classes", "tokens", "span", "mask"), HEADS.items(), strict=True):
        if head not in heads:
            continue
        config = {"architectures": [name + end], "model_type": kind}
        for part in (*sizes, fields):
            config |= part
        if head in ("classes", "tokens"):
            config |= {"id2label": LABELS, "label2id": {word: int(i) for i, word in LABELS.items()}}
        found.append(Encoder(f"{name.lower()}_{head.lower()}", config, lengths, bare=head == "Model"))
    return found


def _other(name: str, of: str, lengths: tuple[int, ...] | None = None, stored: tuple[tuple[str, str], ...] = (),
           bare: bool = False, twice: tuple[tuple[str, str], ...] = (), **fields: Any) -> Encoder:
    """Another model like one above, with other fields or names of tensors."""
    like = next(encoder for encoder in ENCODERS if encoder.name == of)
    return Encoder(name, like.config | fields, lengths or like.lengths, bare, stored, twice)


DISTILLED = {"dim": 48, "hidden_dim": 70, "n_heads": 3, "n_layers": 2, "vocab_size": 41, "max_position_embeddings": 200}
MODERN = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2,
          "local_attention": 9}  # fmt: skip
DISENTANGLED = {
    "relative_attention": True, "position_buckets": 16, "max_relative_positions": -1, "share_att_key": True,
    "pos_att_type": "p2c|c2p", "norm_rel_ebd": "layer_norm", "position_biased_input": False, "type_vocab_size": 0,
}  # fmt: skip
NOMIC = {  # as nomic-embed-text-v1.5 writes its config
    "architectures": ["NomicBertModel"], "n_embd": 64, "n_inner": 96, "n_head": 4, "n_layer": 2, "n_positions": 256,
    "vocab_size": 41,
    "layer_norm_epsilon": 1e-12, "activation_function": "swiglu", "causal": False, "prenorm": False,
    "qkv_proj_bias": False, "rotary_emb_base": 500, "rotary_emb_fraction": 1.0, "rotary_scaling_factor": None,
    "type_vocab_size": 2,
}  # fmt: skip
ENCODERS = [
    *_family("Bert", "bert", _sizes(48, 70, 3)),
    *_family("Roberta", "roberta", _sizes(48, 70, 3), layer_norm_eps=1e-5, type_vocab_size=1),
    *_family("XLMRoberta", "xlm-roberta", _sizes(48, 64, 4), type_vocab_size=1),
    *_family("Camembert", "camembert", _sizes(60, 64, 5)),
    *_family("DistilBert", "distilbert", DISTILLED, sinusoidal_pos_embds=True),
    *_family("Electra", "electra", _sizes(48, 64, 3), embedding_size=20),
    *_family("MPNet", "mpnet", _sizes(48, 70, 3)),
    *_family("Albert", "albert", _sizes(48, 64, 3), embedding_size=24),
    *_family("ModernBert", "modernbert", _sizes(48, 64, 3, layers=4), MODERN, global_rope_theta=900.0,
             local_rope_theta=70.0),
    *_family("NomicBert", "nomic_bert", _sizes(48, 64, 3), heads="Model classes tokens mask"),
    *_family("DebertaV2", "deberta-v2", _sizes(48, 70, 3), DISENTANGLED),
]  # fmt: skip
ENCODERS += [
    _other("bert_prefix", "bert_model", hidden_size=60, num_attention_heads=5, hidden_act="gelu_new"),
    _other("bert_old", "bert_mask",
           stored=(("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"),
                   ("predictions.decoder.bias", "predictions.bias"))),
    _other("bert_untied", "bert_mask", tie_word_embeddings=False, hidden_act="relu",
           twice=(("cls.predictions.bias", "cls.predictions.decoder.bias"),)),
    _other("bert_both", "bert_mask", stored=(("predictions.decoder.bias", "predictions.bias"),),
           twice=(("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),)),
    _other("bert_one_label", "bert_classes", id2label={"0": "score"}, label2id={"score": 0}, type_vocab_size=4),
    _other("modernbert_mean", "modernbert_classes", classifier_pooling="mean", classifier_activation="relu",
           classifier_bias=True, local_attention=8, global_attn_every_n_layers=2),
    _other("modernbert_biases", "modernbert_mask", norm_bias=True, attention_bias=True, mlp_bias=True,
           decoder_bias=False, hidden_activation="silu", num_attention_heads=2),
    _other("modernbert_new", "modernbert_model", bare=True, layer_types=["sliding_attention", "full_attention"] * 2,
           rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 500.0},
                            "sliding_attention": {"rope_type": "default", "rope_theta": 50.0}}),
    _other("deberta_raw", "debertav2_tokens", position_buckets=-1, max_relative_positions=100, norm_rel_ebd="none",
           position_biased_input=True, type_vocab_size=2, pos_att_type=["c2p"]),
    _other("deberta_keys", "debertav2_tokens", pos_att_type=["p2c"], position_buckets=32, max_relative_positions=100),
    _other("deberta_new_head", "debertav2_mask", stored=(("lm_head.decoder.bias", "lm_head.bias"),), legacy=False),
    _other("deberta_plain", "debertav2_span", relative_attention=False, position_biased_input=True,
           norm_rel_ebd="none"),
    _other("roberta_padding", "roberta_tokens", pad_token_id=2),
    _other("electra_wide", "electra_mask", embedding_size=48),
    _other("albert_wide", "albert_model", embedding_size=48, num_hidden_layers=3, hidden_act="gelu"),
]  # fmt: skip
BY_NAME = {encoder.name: encoder for encoder in ENCODERS}


def sequences(encoder: Encoder) -> list[np.ndarray]:
    """The tokens of the golden run, int32, without those that may stand for padding."""
    vocab = encoder.config["vocab_size"] - FIRST
    return [(_hash(f"{encoder.name}/{n}", n) % np.uint64(vocab)).astype(np.int32) + FIRST for n in encoder.lengths]


def segments(encoder: Encoder) -> list[np.ndarray] | None:
    """Their segments, where the model knows more than one."""
    kinds = encoder.spec.segments
    if kinds < 2:
        return None
    return [(_hash(f"{encoder.name}/segments {n}", n) % np.uint64(kinds)).astype(np.int64) for n in encoder.lengths]


def tensors(encoder: Encoder) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of the folder, float32.

    Weights have a variance of about 1/inputs, norms lie around 1; what becomes q and k is larger, so that attention is
    uneven and errors in positions or windows show, and so are tables of distances.
    """
    spec = encoder.spec
    prefix = spec.names.modules["embed"].partition(".")[0] + "."
    shapes = spec.tensors()
    for name, shape in (shapes | {name: shapes[like] for name, like in encoder.twice}).items():
        normal = _normal(f"{encoder.name}/{name}", math.prod(shape)).reshape(shape)
        if name.endswith("bias"):
            values = 0.3 * normal
        elif len(shape) == 1:
            values = 1.0 + 0.2 * normal
        elif "relative_attention_bias" in name:
            values = normal
        else:
            loud = 5.0 if "rel_embeddings" in name else 1.7 if name.split(".")[-2] in LOUD else 1.0
            values = normal * (loud / math.sqrt(shape[-1]))
        for end, other in encoder.stored:
            if name.endswith(end):
                name = name.removesuffix(end) + other
        yield name.removeprefix(prefix) if encoder.bare else name, values.astype(np.float32)


def checksum(encoder: Encoder) -> int:
    """CRC-32 of all that the golden outputs depend on."""
    total = zlib.crc32(json.dumps(encoder.config, sort_keys=True).encode())
    for values in (*sequences(encoder), *(segments(encoder) or ())):
        total = zlib.crc32(values.astype("<i8").tobytes(), total)
    for name, values in tensors(encoder):
        total = zlib.crc32(name.encode() + values.astype("<f4").tobytes(), total)
    return total


def load() -> dict[str, np.ndarray]:
    """What make_golden.py stored: for each name, NAME float32 [rows of all sequences, N], and `NAME about`, [noise,
    checksum]."""
    with np.load(GOLDEN / "encoders.npz") as stored:
        return dict(stored)


def write_folder(encoder: Encoder, path: Path) -> Path:
    """Writes the model as a Hugging Face folder (config and weights) to `path` and returns it."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(encoder.config, indent=1), encoding="utf-8")
    _write_safetensors(path / "model.safetensors", dict(tensors(encoder)), "F32")
    return path
