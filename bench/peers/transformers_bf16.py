"""transformers in bf16 with random weights at a model's shape; runs in an interpreter that has torch and it."""

import torch
import transformers

from bench.peers.protocol import main
from lepton_edge.cli.shapes import SHAPES


class Transformers:
    """A model called through its forward: what generate() adds to that is not measured."""

    def __init__(self, shape: str, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        torch.manual_seed(1)
        fields = dict(SHAPES[shape])
        config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
        self.model = _random_model(config)
        self.vocab = config.vocab_size
        self.version = f"{transformers.__version__}, torch {torch.__version__}"

    def reset(self, room: int) -> None:
        self.cache = transformers.StaticCache(self.model.config, max_cache_len=room)
        self.length = 0

    def feed(self, tokens: list[int]) -> None:
        self._run(torch.tensor([tokens]))

    def step(self) -> None:
        self._run(self.next)

    def _run(self, tokens: torch.Tensor) -> None:
        """Runs tokens int64 [1, T] and picks the most likely one after them."""
        where = torch.arange(self.length, self.length + tokens.shape[1])
        out = self.model(tokens, past_key_values=self.cache, position_ids=where[None], logits_to_keep=1)
        self.length += tokens.shape[1]
        self.next = out.logits[:, -1].argmax(-1, keepdim=True)


def _random_model(config: transformers.PretrainedConfig) -> torch.nn.Module:
    """The model with random weights in memory of its own: its own initialization takes a minute for 1B parameters."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.to_empty(device="cpu")
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its angles are a buffer, computed when it is made
    block = torch.randn(1 << 20).bfloat16()
    for weight in model.parameters():
        flat = weight.view(-1)
        flat.copy_(block.repeat(-(-len(flat) // len(block)))[: len(flat)] / weight.shape[-1] ** 0.5)
        if weight.dim() == 1:
            weight.fill_(1.0)
    return model.eval()


if __name__ == "__main__":
    main(Transformers, "shape")
