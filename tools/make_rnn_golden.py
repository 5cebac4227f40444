"""Writes tests/golden/rnn.npz: what torch.nn's LSTM and GRU compute for the models of tests/golden/rnn.py.

Run it with an interpreter that has torch (of lepton_edge, only the specs are used):

    python tools/make_rnn_golden.py

For each model: logits of all tokens, a row for each sequence where its head is for one, or hidden states; of an
encoder-decoder the logits of `written` after each text, and `NAME greedy`, what it writes itself, -1 behind the end.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from golden import rnn  # noqa: E402


class Stack(torch.nn.Module):
    """An embedding and layers."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(config["vocab_size"], config["embedding_size"])
        kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[config["cell"]]
        self.rnn = kind(config["embedding_size"], config["hidden_size"], config["num_layers"],
                        bias=config.get("bias", True), batch_first=True,
                        bidirectional=config.get("bidirectional", False))  # fmt: skip

    def forward(self, ids: np.ndarray, state: Any = None) -> tuple[torch.Tensor, Any]:
        """-> [T, hidden], and the last states."""
        y, state = self.rnn(self.embedding(torch.from_numpy(ids)[None]), state)
        return y[0], state


def build(name: str, dtype: torch.dtype) -> dict[str, Any]:
    """The modules of a model with its tensors, loaded strictly."""
    config, tensors = rnn.CONFIGS[name], rnn.tensors(name)
    outputs = len(tensors["head.weight"]) if "head.weight" in tensors else config["vocab_size"]
    width = config["hidden_size"] * (2 if config.get("bidirectional") else 1)
    modules: dict[str, Any] = {"head": torch.nn.Linear(width, outputs, bias="head.bias" in tensors)}
    if "encoder.embedding.weight" in tensors:
        own = {"vocab_size": config["target_vocab_size"]}
        own["embedding_size"] = config.get("target_embedding_size", config["embedding_size"])
        modules |= {"encoder": Stack(config), "decoder": Stack(config | own)}
    else:
        modules |= {"": Stack(config)}
    if config.get("tie_word_embeddings"):
        tensors["head.weight"] = tensors["embedding.weight"]
    if config["architectures"] == [rnn.MODEL]:
        del modules["head"]
    rest = dict(tensors)
    for part, module in modules.items():
        prefix = f"{part}." if part else ""
        own = {key: torch.from_numpy(rest.pop(prefix + key)) for key in module.state_dict()}
        module.load_state_dict(own)
        module.to(dtype).eval()
    assert not rest, f"{name}: torch has no {sorted(rest)}"
    return modules


def pooled(name: str, y: torch.Tensor) -> torch.Tensor:
    """What the head reads of y [T, hidden]."""
    config = rnn.CONFIGS[name]
    if config["architectures"] != [rnn.CLASSES]:
        return y
    kind, half = config.get("pooling", "last"), config["hidden_size"]
    if kind == "last":
        return torch.cat([y[-1:, :half], y[:1, half:]], dim=1)  # the last state of each direction
    return y.mean(dim=0, keepdim=True) if kind == "mean" else y[:1]


@torch.no_grad()
def run(name: str, dtype: torch.dtype) -> np.ndarray:
    """float64 [rows, N]."""
    modules, rows = build(name, dtype), []
    for ids in rnn.sequences(name):
        if "encoder" in modules:
            _, state = modules["encoder"](ids)
            y, _ = modules["decoder"](rnn.written(name), state)
        else:
            y, _ = modules[""](ids)
        rows.append(modules["head"](pooled(name, y)) if "head" in modules else y)
    return torch.cat(rows).double().numpy()


@torch.no_grad()
def greedy(name: str) -> np.ndarray:
    """What an encoder-decoder writes, int64 [sequences, most]."""
    modules, config = build(name, torch.float64), rnn.CONFIGS[name]
    found = np.full((len(rnn.LENGTHS), config["max_new_tokens"]), -1)
    for line, ids in zip(found, rnn.sequences(name), strict=True):
        _, state = modules["encoder"](ids)
        token = config["decoder_start_token_id"]
        for i in range(len(line)):
            y, state = modules["decoder"](np.array([token]), state)
            token = int(modules["head"](y)[0].argmax())
            if token == config["eos_token_id"]:
                break
            line[i] = token
    return found


def main() -> None:
    """Makes them all."""
    torch.set_num_threads(1)
    stored = {}
    for name, config in rnn.CONFIGS.items():
        single, double = (run(name, dtype) for dtype in (torch.float32, torch.float64))
        noise = float(np.linalg.norm(single - double) / np.linalg.norm(double))
        print(f"{name:16} {single.shape} rms {np.sqrt((single**2).mean()):.3f} noise {noise:.1e}")
        stored[name] = single.astype(np.float32)
        stored[f"{name} about"] = np.array([noise, rnn.checksum(name)])
        if config["architectures"] == [rnn.SEQ2SEQ]:
            stored[f"{name} greedy"] = greedy(name)
            print(stored[f"{name} greedy"])
    np.savez_compressed(rnn.GOLDEN / "rnn.npz", **stored)


if __name__ == "__main__":
    main()
