"""What a model's two executors give of the same input: the CPU's, and the GPU's or the simulator's.

    NUMBA_ENABLE_CUDASIM=1 python tests/runtime/cuda/on_cuda.py decoder NAME FORMAT KV | KIND NAME …

prints, for each, how far apart they are, relative; for `decoder` also whether the summary is that of its logits.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from engines import SPECS, Weights, feed, reference, relative, tokens
from engines import decoder as decoder_spec
from golden import adapters, encoders, families, recipe, seq2seq

from lepton_edge.adapters import read_adapter
from lepton_edge.checkpoint import Checkpoint
from lepton_edge.models.registry import spec_of
from lepton_edge.models.spec import ModelSpec
from lepton_edge.program.summary import summarise
from lepton_edge.runtime import Engine, engine_for
from lepton_edge.runtime.pair import PairEngine

if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    from runtime.cuda.simulator import Simulator

    from lepton_edge.runtime.cuda import engine as cuda_engine

    cuda_engine.open_device = Simulator

# Small enough for the simulator: sizes that are multiples of nothing, biases, a window, one table.
SPECS["tiny"] = decoder_spec(38, 45, 4, 2, 10, 41, windows=(3,), biases=(1, 1, 1), tied=True)
SPECS["tiniest"] = decoder_spec(32, 32, 2, 1, 16, 33, windows=(None,))
KINDS: dict[str, Any] = {"adapter": adapters, "family": families, "encoder": encoders, "pair": seq2seq, "llama": recipe}


def decoder(
    spec: ModelSpec, format: str, kv: str, length: int, sequences: int = 1, steps: int = 2
) -> tuple[float, bool]:  # fmt: skip
    """(the largest distance from the reference in prompts of `sequences` sequences and in steps, whether the summary of
    the last step is right)."""
    engine = engine_for("cuda").load(Weights(spec, format), spec, threads=1, kv_dtype=kv)
    slow = reference(engine)
    pairs = [(engine.open(), slow.open()) for _ in range(sequences)]
    lengths = [max(1, length - 3 * i) for i in range(sequences)]
    ids = [tokens(n + steps + 1, spec, i) for i, n in enumerate(lengths)]

    def both(parts: list[np.ndarray], starts: list[int]) -> float:
        counts = [len(part) for part in parts]
        positions = np.concatenate([first + np.arange(n) for first, n in zip(starts, counts, strict=True)])
        slots = [np.repeat([pair[which] for pair in pairs], counts) for which in (0, 1)]
        rest = positions, np.arange(len(positions))
        given = np.concatenate(parts)
        return relative(*(each.forward(given, slots[i], *rest) for i, each in enumerate((engine, slow))))

    found = [both([row[:n] for row, n in zip(ids, lengths, strict=True)], [0] * sequences)]
    for step in range(steps):
        found.append(both([row[n + step : n + step + 1] for row, n in zip(ids, lengths, strict=True)],
                          [n + step for n in lengths]))  # fmt: skip
    said = engine.step([1], [pairs[0][0]], [lengths[0] + steps], [0], [0.7])
    right = summarise(np.asarray(said.logits), [0.7])
    exact = all(np.array_equal(getattr(said, name), getattr(right, name)) for name in ("ids", "values", "peaks"))
    near = all(np.allclose(getattr(said, name), getattr(right, name), rtol=1e-4, atol=1e-6)
               for name in ("sums", "heated", "shares"))  # fmt: skip
    engine.close()
    return max(found), exact and near


def stored(kind: str, name: str, root: Path, few: bool = False) -> float:
    """How far the executors are apart for a golden model, by the kind of its table and its name.

    few: of some tokens only, for the simulator.
    """
    table = KINDS[kind]
    case = table.BY_NAME[name]
    write = adapters.write_base if kind == "adapter" else table.write_folder
    where = write(name if kind == "llama" else case, root / name)
    with Checkpoint.open(where) as checkpoint:
        engines = [engine_for(device).load(checkpoint, spec_of(checkpoint), threads=1) for device in ("cpu", "cuda")]
        try:
            if kind == "adapter":
                folder, spec = adapters.write_adapter(case, root / f"{name} adapter"), spec_of(checkpoint)
                adapter, ids = read_adapter(folder, spec, spec.names), case.tokens[: 4 if few else 20]
                return relative(*(adapted(engine, adapter, ids) for engine in engines[::-1]))
            return relative(*(outputs(engine, table, name, few) for engine in engines[::-1]))
        finally:
            for engine in engines:
                engine.close()


def adapted(engine: Engine, adapter: Any, ids: np.ndarray) -> np.ndarray:
    """The logits of all tokens with an adapter, the last one's by a step and its summary, and of that one without."""
    plan, slot, n = engine.add_adapter(adapter), engine.open(), len(ids) - 1
    first = engine.forward(ids[:n], [slot] * n, range(n), range(n), plan)
    last = np.asarray(engine.step(ids[n:], [slot], [n], [0], plan=plan).logits).copy()
    alone = engine.open()
    return np.concatenate([first, last, np.asarray(engine.step(ids[:1], [alone], [0], [0]).logits)])


def outputs(engine: Engine, table: Any, name: str, few: bool) -> np.ndarray:
    """All that an engine gives of a golden model's input, as one vector."""
    case = table.BY_NAME[name]
    if isinstance(engine, PairEngine):
        sources, ids = seq2seq.sources(case), seq2seq.target(case)[: 3 if few else None]
        memories = engine.remember([ids[:4] for ids in sources[:2]] if few else sources)
        found = []
        for memory in memories:
            slot = engine.open_with(memory)
            found.append(engine.forward(ids, [slot] * len(ids), range(len(ids)), range(len(ids))))
        return np.concatenate(found).reshape(-1)
    if not engine.spec.causal:
        ids, kinds = encoders.sequences(case), encoders.segments(case)
        if few:
            ids, kinds = [row[:4] for row in ids[:2]], kinds and [row[:4] for row in kinds[:2]]
        return np.concatenate([row.reshape(-1) for row in engine.encode(ids, kinds, engine.spec.head is None)])
    ids, slot = table.token_ids(case), engine.open()
    first, last = (3, 4) if few else (9, 13)
    return np.concatenate([feed(engine, slot, ids[:first]), feed(engine, slot, ids[first:last], chunk=1)]).reshape(-1)


def main(kind: str, *names: str) -> None:
    if kind == "decoder":
        name, format, kv = names
        print(*decoder(SPECS[name], format, kv, 4, steps=1))
        return
    with tempfile.TemporaryDirectory() as root:
        for name in names:
            print(name, stored(kind, name, Path(root), few=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
