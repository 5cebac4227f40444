"""A trained GPT-2 of 85,000 weights that sorts letters, against every activation that its authors stored.

minGPT's linear maps are stored as [outputs, inputs]; the folder that is made here has them as GPT-2's checkpoints do.
The files are float32, and so is the engine: what a project promises of logits, 1e-5 relative, is asked of each.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lepton_edge.checkpoint.safetensors import Entry, write_safetensors
from lepton_edge.checkpoint.store import Checkpoint
from lepton_edge.models.registry import spec_of
from lepton_edge.runtime import Engine

TOLERANCE = 1e-5
CONFIG = {
    "architectures": ["GPT2LMHeadModel"], "n_layer": 3, "n_head": 3, "n_embd": 48, "vocab_size": 3, "n_positions": 11,
    "activation_function": "gelu_new", "tie_word_embeddings": False,
}  # fmt: skip


def arrays(path: Path) -> dict[str, np.ndarray]:
    """The float32 arrays of one of the JSON files."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: np.frombuffer(base64.b64decode(entry["data"]), "<f4").reshape(entry["shape"])
        for name, entry in stored.items()
        if name != "config"
    }


def write_folder(weights: dict[str, np.ndarray], folder: Path) -> Path:
    entries = []
    for name, values in weights.items():
        if name.endswith(".attn.bias"):  # the causal mask
            continue
        turned = values.T if values.ndim == 2 and ".h." in name else values
        data = np.ascontiguousarray(turned).reshape(-1).view(np.uint8)
        entries.append(Entry(name, "F32", turned.shape, lambda data=data: iter([data])))
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    write_safetensors(folder / "model.safetensors", entries, {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def stored(shared: Path) -> dict[str, np.ndarray]:
    return arrays(shared / "models" / "gpt_nano_sort" / "gpt-nano-sort-t0-partials.json")


@pytest.fixture(scope="module")
def engine(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    weights = arrays(shared / "models" / "gpt_nano_sort" / "gpt-nano-sort-model.json")
    folder = write_folder(weights, tmp_path_factory.mktemp("nano") / "model")
    with Checkpoint.open(folder) as checkpoint:
        engine = Engine.load(checkpoint, spec_of(checkpoint), threads=1)
        yield engine
        engine.close()


def after(engine: Engine, label: str, buffer: str, ids: np.ndarray) -> np.ndarray:
    """A buffer as the last row with that label leaves it, of three sequences of 11 tokens: [3, 11, columns]."""
    stop = max(i for i, row in enumerate(engine.program.rows) if row.label == label) + 1
    slots = [engine.open() for _ in ids]
    batch = (ids.reshape(-1), np.repeat(slots, 11), np.tile(np.arange(11), 3), np.zeros(0, np.int64))
    engine._step(engine._plan, stop, *(np.asarray(part, np.int64) for part in batch))
    for slot in slots:
        engine.close_slot(slot)
    held = engine.program.buffers[buffer]
    raw = engine._plan.buffers[buffer][: 33 * held.token_bytes].view(np.float32).reshape(33, -1)
    return raw[:, : held.columns].astype(np.float64).reshape(3, 11, -1)


def check(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.linalg.norm(found - expected) <= TOLERANCE * np.linalg.norm(expected.astype(np.float64))


def test_every_stored_activation(engine: Engine, stored: dict[str, np.ndarray]) -> None:
    ids = stored["idx"].astype(np.int64)
    embedded, x = after(engine, "embed", "x", ids), after(engine, "positions", "x", ids)
    check(embedded, stored["tok_emb"])
    check(x, stored["x"])
    check(x - embedded, np.repeat(stored["pos_emb"], 3, 0))
    check(after(engine, "layer 0 attn_norm", "h", ids), stored["ln1"])
    qkv = after(engine, "layer 0 qkv", "qkv", ids)
    check(qkv, stored["qkv"])
    heads = qkv.reshape(3, 11, 3, 3, 16).transpose(2, 0, 3, 1, 4)  # q k v, sequence, head, token, column
    for name, part in zip("qkv", heads, strict=True):
        check(part, stored[name])
    scores = heads[0] @ heads[1].swapaxes(-1, -2) / 4
    seen = np.tril(np.ones((11, 11), bool))
    check(np.where(seen, scores, 0), np.where(seen, stored["att"], 0))
    weights = np.where(seen, np.exp(scores), 0)
    check(weights / weights.sum(-1, keepdims=True), stored["attSm"])
    check(after(engine, "layer 0", "att", ids), stored["y"])
    residual = after(engine, "layer 0 o", "x", ids)
    check(residual, stored["attnResid"])
    check(residual - x, stored["yProj"])
    check(after(engine, "layer 0 ffn_norm", "h", ids), stored["ln2"])
    check(after(engine, "layer 0 up", "gate", ids), stored["fc"])
    check(after(engine, "layer 0", "gate", ids), stored["gelu"])
    down = after(engine, "layer 0 down", "x", ids)
    check(down, stored["mlpResid"])
    check(down - residual, stored["mlp"])
    for i in range(3):
        check(after(engine, f"layer {i} down", "x", ids), stored[f"block{i}"])


def test_logits_and_what_it_sorts(engine: Engine, stored: dict[str, np.ndarray]) -> None:
    """The last norm is read back through the head: three logits of 48 numbers say no more."""
    for ids, expected, probabilities in zip(stored["idx"], stored["lm_head"], stored["probs"], strict=True):
        slot, tokens = engine.open(), ids.astype(np.int64)
        logits = engine.forward(tokens, [slot] * 11, range(11), range(11)).astype(np.float64)
        engine.close_slot(slot)
        check(logits, expected)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        check(weights / weights.sum(-1, keepdims=True), probabilities)
    head = engine.program.weights["lm_head.weight"].to_f32()
    check(stored["ln_f"] @ head.T, stored["lm_head"])


def test_it_sorts(engine: Engine) -> None:
    """Six letters, then the same in order, chosen greedily: 32 lists."""
    rng = np.random.default_rng(0)
    for _ in range(32):
        letters = rng.integers(0, 3, 6)
        slot = engine.open()
        answer = [int(engine.forward(letters, [slot] * 6, range(6), [5])[0].argmax())]
        while len(answer) < 6:
            answer.append(int(engine.forward(answer[-1:], [slot], [5 + len(answer)], [0])[0].argmax()))
        engine.close_slot(slot)
        assert answer == sorted(letters.tolist())
