"""The CUDA executor on a GPU; skipped where there is none.  What the simulator cannot run is here: the tensor cores'
kernels, graphs, memory."""

import contextlib
import gc
from pathlib import Path

import numpy as np
import pytest
from engines import ODD, PLAIN, SPECS, Weights, decoder, feed, tokens, tolerance
from processes import finish, start_python
from runtime.cuda import on_cuda

import lepton_edge
from lepton_edge.errors import MachineError, RequestError
from lepton_edge.kernels.machine import choose
from lepton_edge.runtime import Engine, engine_for
from lepton_edge.runtime.cuda.device import Device, open_device
from lepton_edge.runtime.cuda.plan import CudaPlan


def gpu() -> Device | None:
    with contextlib.suppress(MachineError):
        return open_device()
    return None


pytestmark = pytest.mark.skipif(gpu() is None, reason="needs an NVIDIA GPU, its driver, and numba-cuda")

HEADS = [(32, 4, 2), (64, 9, 3), (64, 14, 2), (64, 8, 2), (96, 3, 3), (128, 4, 1)]  # numbers, heads, key heads
SMALL = [(name, format, kv) for name in SPECS for format in ("f32", "f16", "bf16", "q8", "q4")
         for kv in ("f32", "f16", "q8")]  # fmt: skip


def wide(d: int, heads: int, kv_heads: int) -> "on_cuda.ModelSpec":
    """A decoder whose heads the tensor cores' attention takes."""
    return decoder(272, 208, heads, kv_heads, d, 656, windows=(None, 70), context=1024)  # an odd number of blocks


@pytest.mark.parametrize("case", SMALL, ids="-".join)
def test_small_decoders_are_the_reference(case: tuple[str, str, str]) -> None:
    name, format, kv = case
    error, summary = on_cuda.decoder(SPECS[name], format, kv, 20, sequences=2)
    assert error <= tolerance(format, kv, "avx2") and summary


@pytest.mark.parametrize("head", HEADS, ids=str)
@pytest.mark.parametrize("format", ["q4", "q8", "f16", "bf16", "f32"])
def test_tensor_cores_are_the_reference(head: tuple[int, int, int], format: str) -> None:
    """One long prompt, so that products and attention have many tokens; then many sequences, so that they have some."""
    for length, sequences in ((150, 1), (45, 13)):
        error, summary = on_cuda.decoder(wide(*head), format, "f16", length, sequences)
        assert error <= tolerance(format, "f16", "avx2") and summary


def test_positions_are_split_over_blocks() -> None:
    """Past some hundred positions several blocks attend for a token, and the last one merges what they found."""
    spec = decoder(128, 192, 4, 2, 64, 5000, context=4096)
    error, summary = on_cuda.decoder(spec, "f16", "f16", 1500, steps=3)
    assert error <= tolerance("f16", "f16", "avx2") and summary


@pytest.mark.parametrize("kind", on_cuda.KINDS)
def test_every_model_is_what_it_is_on_the_cpu(kind: str, tmp_path: Path) -> None:
    """f32 on both; TF32 in parts leaves 2^-22 of each product.  bf16 and f16 models have their own tolerance."""
    found = {name: on_cuda.stored(kind, name, tmp_path) for name in on_cuda.KINDS[kind].BY_NAME}
    most = {"llama_bf16": tolerance("bf16", "f16", choose(None)), "llama_f16": tolerance("f16", "f16")}
    assert {name: error for name, error in found.items() if not error <= most.get(name, 1e-5)} == {}


def test_many_greedy_tokens_of_a_trained_model() -> None:
    """2,000 tokens of the stories model: as on the CPU, or another only where two logits were as good as equal.

    Both caches in f32, so that rounding is the order of sums alone, and the int8 codes that it tips.
    """
    models = [lepton_edge.load("stories", kv_dtype="f32", device=device) for device in ("cpu", "cuda")]
    cpu, cuda = (model.engine for model in models)
    ids, seeds = [1], 0
    for _ in range(2000):
        if len(ids) + 1 >= cpu.context:
            seeds += 1
            ids = [1, 2 + seeds]
        rows = []
        for engine in (cpu, cuda):
            slot = engine.open()
            rows.append(feed(engine, slot, ids, wanted=[len(ids) - 1])[0])
            engine.close_slot(slot)
        best = [int(row.argmax()) for row in rows]
        if best[0] != best[1]:
            gap = rows[0][best[0]] - rows[0][best[1]]
            assert gap <= 2 * np.abs(rows[0] - rows[1]).max(), (len(ids), best, gap)
        ids.append(best[0])
    for model in models:
        model.close()


def test_memory_stays_flat() -> None:
    """Steps and graphs keep no memory once they have been run; a closed engine gives all of it back."""
    device = open_device()
    gc.collect()
    before = device.allocated
    engine = engine_for("cuda").load(Weights(PLAIN, "q4"), PLAIN, threads=1)
    slot = engine.open()
    feed(engine, slot, tokens(60, PLAIN), chunk=1)
    middle = device.allocated
    for _ in range(20):
        engine.truncate(slot, 0)
        feed(engine, slot, tokens(60, PLAIN), chunk=1)
    assert device.allocated == middle
    engine.close()
    gc.collect()
    assert device.allocated <= before


def test_graphs_are_used_again() -> None:
    engine = engine_for("cuda").load(Weights(PLAIN, "q4"), PLAIN, threads=1)
    slot = engine.open()
    feed(engine, slot, tokens(20, PLAIN), chunk=1)
    plan = engine._plan
    assert isinstance(plan, CudaPlan) and len(plan._graphs) == 1
    engine.close()


def test_out_of_memory_is_an_error_of_ours() -> None:
    with pytest.raises(MachineError, match=r"out of memory on .*MB are not to be had; .* free; use a smaller"):
        open_device().allocate(1 << 50)
    assert on_cuda.decoder(ODD, "q8", "f16", 9)[1], "the device works on"


def test_two_processes_at_once() -> None:
    both = [start_python(on_cuda.__file__, "decoder", "tiny", "q4", "f16") for _ in range(2)]
    for process in both:
        error, summary = finish(process).split()
        assert float(error) <= tolerance("q4", "f16", "avx2") and summary == "True"


def test_sequences_that_fork_and_shrink_are_themselves() -> None:
    """A page that another sequence has had, and one that is shared, hold what they should."""
    cpu, cuda = (engine_for(device).load(Weights(PLAIN), PLAIN, threads=1) for device in ("cpu", "cuda"))
    ids, rows = tokens(140, PLAIN), []
    for engine in (cpu, cuda):
        slot = engine.open()
        feed(engine, slot, ids)
        engine.truncate(slot, 100)
        rows.append(feed(engine, slot, ids[50:60]))
        engine.close_slot(slot)
    assert np.linalg.norm(rows[0] - rows[1]) <= 1e-5 * np.linalg.norm(rows[0])
    for engine in (cpu, cuda):
        engine.close()


def test_profiles_are_of_the_cpu() -> None:
    engine: Engine = engine_for("cuda").load(Weights(PLAIN), PLAIN, threads=1)
    with pytest.raises(RequestError, match="ncu"), engine.profile():
        pass
    engine.close()
