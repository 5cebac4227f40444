"""The program of a decoder: its rows, its buffers, and what it refuses."""

import numpy as np
import pytest
from engines import ODD, PLAIN, WINDOWS, Weights

from lepton_edge.checkpoint.store import Weight
from lepton_edge.errors import CheckpointError
from lepton_edge.kernels.ops import BARRIER, COUNT, KERNEL, LARGE, NEVER, OPS, WANTED
from lepton_edge.program import build_program

BLOCK = ["rms_norm", "matmul", "matmul", "matmul", "rope_f16", "attention_f16", "matmul"]
BLOCK += ["rms_norm", "matmul", "matmul", "activate", "matmul"]


def build(spec, format="f32", kv_dtype="f16", context=None):
    return build_program(spec, Weights(spec, format).weight, kv_dtype, context or spec.context)


@pytest.mark.parametrize("format", ["f32", "bf16", "q4"])
def test_rows_of_a_decoder(format):
    program = build(PLAIN, format)
    block = [f"{op}_{format}" if op == "matmul" else op for op in BLOCK]
    if format == "q4":
        block[-4:-1] = ["gated_q4"]
    head = ["gather", "rms_norm", f"matmul_{format}", "block_peaks", "top"]
    assert [row.op for row in program.rows] == [f"embed_{format}", *block, *block, *head]
    assert [row.count for row in program.rows][-6:] == [0, *[WANTED] * 5]
    assert program.rows[program.logits_rows - 1].values["y"] == "logits"
    assert program.logits_rows == len(program.rows) - 2
    free = [row.label for row in program.rows if row.barrier == NEVER]
    assert free == [f"layer {i} {part}" for i in (0, 1) for part in ("q", "k", *["gate"][format == "q4" :])]
    large = [row.op for row in program.rows if row.barrier == LARGE]
    assert large == [*["rms_norm", "rope_f16", "rms_norm"] * 2, "rms_norm"]


def test_heads_that_are_no_whole_groups_are_quantized_apart():
    """Two heads of 8 share a key head in WINDOWS."""
    attention, quantize = build(WINDOWS, "q4").rows[6:8]
    assert (attention.op, attention.values["records"], quantize.op) == ("attention_f16", None, "quantize")
    assert build(PLAIN, "q4").rows[6].values["records"] == "att_records"


def test_threads_have_copies_of_what_norms_write():
    assert build(PLAIN, "q4").copied() == {"h", "h_records", "last_h", "last_h_records"}
    assert build(PLAIN, "f32").copied() == {"h", "last_h"}


def test_what_is_read_and_written_at_once_lies_apart():
    row = next(row for row in build(PLAIN, "q8").rows if row.op == "gated_q8")
    assert (row.values["x"], row.values["records"]) == ("h_records", "gate_records")
    assert row.products == [f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up")]


def test_parameters_are_float32_padded_with_zeros():
    program = build(ODD)
    bias = program.params["model.layers.0.self_attn.q_proj.bias"]
    assert bias.dtype == np.float32 and bias.shape == (128,) and bias[:120].all() and not bias[120:].any()
    assert program.params["model.norm.weight"].shape == (96,)


def test_one_table_serves_both_ends_of_a_tied_model():
    program = build(ODD, "q8")
    head = program.rows[program.logits_rows - 1]
    assert program.rows[0].values["w"] == head.values["w"] == "model.embed_tokens.weight"
    assert program.step_bytes == program.weight_bytes == sum(w.data.nbytes for w in program.weights.values())
    untied = build(PLAIN)
    assert untied.step_bytes == untied.weight_bytes - PLAIN.vocab * PLAIN.hidden * 4


def test_windows_are_the_layers():
    windows = [row.values["window"] for row in build(WINDOWS).rows if row.op == "attention_f16"]
    assert windows == [9, 0, 130]


# Keys as they are and values padded to 16; codes of both padded to 32, with a scale of two bytes.
@pytest.mark.parametrize("kv_dtype,size", [("f16", (10 + 16) * 2), ("f32", (10 + 16) * 4), ("q8", 2 * (32 + 2))])
def test_layers_share_a_page(kv_dtype, size):
    program = build(WINDOWS, kv_dtype=kv_dtype)
    layer = 3 * 128 * size
    assert program.page_bytes == 3 * layer
    assert [row.values["layer"] for row in program.rows if row.op.startswith("rope")] == [0, layer, 2 * layer]


def test_bind_puts_names_in_their_places():
    program = build(PLAIN)
    addresses = {}
    table = program.bind({op: 1000 + i for i, op in enumerate(OPS)},
                         lambda kind, name: addresses.setdefault((kind, name), 10_000 + len(addresses)))  # fmt: skip
    for line, row in zip(table, program.rows, strict=True):
        assert line[KERNEL] == 1000 + list(OPS).index(row.op)
        assert (line[BARRIER], line[COUNT]) == (row.barrier, row.count)
        for name, kind in OPS[row.op].fields:
            value, found = row.values.get(name), line[OPS[row.op].index(name)]
            if value is None:
                assert found == 0
            elif kind == "f":
                assert np.int32(found).view(np.float32) == np.float32(value)
            else:
                assert found == (value if kind == "i" else addresses[kind, value])


@pytest.mark.parametrize("format", ["f32", "q4"])
def test_a_weight_of_another_shape_is_refused(format):
    good = Weights(PLAIN, format)

    def weight(name):
        found = good.weight(name)
        if "down" in name:
            return Weight(name, format, found.shape, found.data[:-64])
        return found

    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.down_proj\.weight"):
        build_program(PLAIN, weight, "f16", 256)
