"""What rows must do at the least, counted by hand for small decoders."""

import numpy as np
import pytest
from engines import PLAIN, WINDOWS, Weights

from lepton_edge.program import build_program
from lepton_edge.program.cost import costs


def by_row(spec, format, kv_dtype, tokens, slots, positions, wanted):
    """{(op, part): (bytes, operations)} of the first layer's rows and of those outside of layers."""
    program = build_program(spec, Weights(spec, format).weight, kv_dtype, spec.context)
    batch = tuple(np.array(values, np.int64) for values in ([1] * tokens, slots, positions, wanted))
    found = {}
    for row, cost in zip(program.rows, costs(program, batch).tolist(), strict=True):
        found.setdefault((row.op, row.part), tuple(cost))
    return found


def test_products_read_their_weight_once_whatever_the_tokens():
    one = by_row(PLAIN, "bf16", "f16", 1, [0], [0], [0])
    four = by_row(PLAIN, "bf16", "f16", 4, [0] * 4, range(4), [1, 3])
    size = 96 * 64 * 2
    assert one["matmul_bf16", "gate"] == (size, 2 * 96 * 64) == one["matmul_bf16", "head"]
    assert four["matmul_bf16", "gate"] == (size, 4 * 2 * 96 * 64)
    assert four["matmul_bf16", "head"] == (size, 2 * 2 * 96 * 64), "of the wanted tokens only"
    # q4: 16 rows of 32 columns take 256 bytes of codes and 32 of scales, and 16 rows a multiple of 64.
    assert by_row(PLAIN, "q4", "f16", 1, [0], [0], [0])["matmul_q4", "down"] == (4 * (3 * 288 + 32), 2 * 64 * 96)
    both = by_row(PLAIN, "q4", "f16", 2, [0, 0], [0, 1], [0])["gated_q4", "gate up"]
    assert both == (2 * 6 * 2 * 288, 2 * 2 * 2 * 96 * 64), "two weights, two tokens"


def test_a_head_that_nobody_wants_costs_nothing():
    none = by_row(PLAIN, "f32", "f32", 2, [0, 0], [0, 1], [])
    assert {none[key] for key in (("matmul_f32", "head"), ("gather", "head"), ("rms_norm", "final_norm"))} == {(0, 0)}


@pytest.mark.parametrize("kv_dtype,size", [("f16", 2), ("f32", 4)])
def test_attention_reads_what_is_seen_once_for_each_sequence(kv_dtype, size):
    """2 heads of 16 keys and 16 values a position, 4 heads that multiply and add each of them."""
    found = by_row(PLAIN, "q8", kv_dtype, 5, [0, 0, 0, 3, 3], [7, 8, 9, 0, 1], [])[f"attention_{kv_dtype}", ""]
    assert found == ((10 + 2) * 2 * 32 * size, (8 + 9 + 10 + 1 + 2) * 4 * 4 * 16)


def test_a_window_bounds_what_attention_sees():
    """A window of 9 in the first layer; heads of 10 columns, whose values are padded to 16."""
    found = by_row(WINDOWS, "f32", "f32", 3, [0, 0, 1], [19, 20, 4], [])["attention_f32", ""]
    assert found == ((10 + 5) * 3 * (10 + 16) * 4, (9 + 9 + 5) * 4 * 6 * 10)


def test_small_rows_move_their_activations():
    found = by_row(PLAIN, "q8", "f16", 3, [0] * 3, range(3), [2])
    # 64 columns: 256 bytes as floats, 80 as records; 96 columns: 384 and 120.
    assert found["rms_norm", "attn_norm"] == (3 * (256 + 256 + 80), 0)
    assert by_row(PLAIN, "f32", "f16", 3, [0] * 3, range(3), [2])["activate", ""] == (3 * (384 + 384 + 384), 0)
    assert found["gather", "head"] == (512, 0)
    assert found["embed_q8", "embed"] == (3 * (256 + 2 * 544 // 16), 0), "and a row of the table"
    one = by_row(PLAIN, "q8", "f16", 2, [0, 1], [0, 7], [])
    assert one["rope_f16", ""] == (0, 0), "of a small step, attention does that"
    # q, k and v of 64, 32 and 32 columns, and the position's keys and values in the cache.
    assert found["rope_f16", ""] == (3 * (256 + 128 + 128 + 2 * 32 * 2), 0)
