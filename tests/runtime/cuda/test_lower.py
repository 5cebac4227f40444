"""Which rows become which launches: decided by numbers, so it is tested without a GPU."""

from pathlib import Path

import pytest
from engines import PLAIN, WINDOWS, Weights, decoder
from golden import encoders, families

from lepton_edge.checkpoint import Checkpoint
from lepton_edge.kernels.ops import OPS
from lepton_edge.models.registry import spec_of
from lepton_edge.program import Program, build_program
from lepton_edge.runtime.cuda.lower import ON_DEVICE, Call, Sizes, lower, query_tile
from lepton_edge.runtime.cuda.plan import away_ops

ONE = Sizes(tokens=1, wanted=1, tiles=1, seen=256, processors=132)
PROMPT = Sizes(tokens=2048, wanted=1, tiles=512, seen=2048, processors=132)


def program(spec=PLAIN, format: str = "q4") -> Program:
    return build_program(spec, Weights(spec, format).weight, "f16", spec.context)


def calls(held: Program, fast: bool = True) -> list[Call]:
    (part,) = lower(held, fast)
    assert isinstance(part, list)
    return part


def launches(held: Program, sizes: Sizes) -> list[tuple[str, int, int, tuple[int, int, int, int]]]:
    """(kernel, tokens, `more`, shape) of a step."""
    found = [launch for call in calls(held) for launch in call.launch(0, 0, 0, sizes)]
    return [(name, extra & 0xFFFFFFFF, extra >> 32, shape) for name, _, _, extra, shape in found]


def test_a_layer_is_nine_launches() -> None:
    """q, k and v are one, so are gate and up; a single token's attention writes its own int8 groups."""
    layer = ["rms_norm", "matmul_q4_1", "rope_f16", "attention_f16", "attention_records", "matmul_q4_1", "rms_norm",
             "gated_q4_1", "activate_q4", "matmul_q4_1"]  # fmt: skip
    ends = ["gather", "rms_norm", "matmul_q4_1", "block_peaks", "top"]
    assert [name for name, *_ in launches(program(), ONE)] == ["embed_q4", *layer * 2, *ends]
    fast = launches(program(decoder(64, 96, 4, 2, 32, 96)), ONE)
    assert [name for name, *_ in fast][1:10] == [
        *layer[:3], "attention_split32", *layer[5:],
    ]  # fmt: skip


def test_every_block_of_rows_has_its_thread_block() -> None:
    """4 + 2 + 2 blocks of 16 rows in q, k and v; a prompt has two blocks a warp, and 64 tokens."""
    one = {name: (more, shape) for name, _, more, shape in launches(program(), ONE)[:9]}
    assert one["gated_q4_1"] == (2, (12, 1, 1, 256))
    (products,) = [launch for launch in launches(program(), ONE) if launch[2] == 3][:1]
    assert products == ("matmul_q4_1", 1, 3, (8, 1, 1, 256))
    (products,) = [launch for launch in launches(program(), PROMPT) if launch[2] == 3][:1]
    assert products == ("matmul_q4_wide", 2048, 3, (1, 32, 1, 128))


@pytest.mark.parametrize("tokens, shape", [(1, "1"), (8, "1"), (9, "2"), (17, "4"), (33, "8"), (64, "8"), (65, "wide")])
def test_the_shape_follows_the_tokens(tokens: int, shape: str) -> None:
    sizes = Sizes(tokens, tokens, tokens, 256, 132)
    assert launches(program(), sizes)[2][0] == f"matmul_q4_{shape}"


def test_long_sequences_are_split() -> None:
    """Over thread blocks: each warp has at least two chunks of 32 positions, and a window bounds them."""
    held = program(decoder(64, 96, 4, 2, 64, 96, windows=(None, 300)))
    for seen, parts in ((256, 1), (1024, 2), (4096, 8), (1 << 20, 64)):
        found = [shape for name, _, _, shape in launches(held, ONE._replace(seen=seen)) if name == "attention_split64"]
        assert [shape[2] for shape in found] == [parts, 1]
    many = Sizes(400, 400, 400, 1 << 20, 132)
    assert {shape[2] for name, _, _, shape in launches(held, many) if name == "attention_split64"} == {1}


def test_tiles_fit_the_warps() -> None:
    """16 query rows: of a token those that share a key head."""
    assert [query_tile(program(spec)) for spec in (PLAIN, WINDOWS, decoder(64, 96, 7, 1, 8, 96))] == [8, 8, 2]


def test_what_has_no_kernel_stays_with_the_cpu(tmp_path: Path) -> None:
    with Checkpoint.open(families.write_folder(families.BY_NAME["gpt_oss"], tmp_path / "experts")) as checkpoint:
        held = build_program(spec_of(checkpoint), checkpoint.weight, "f32", 64)
    stays = {i for part in lower(held, True) if isinstance(part, range) for i in part}
    assert set(away_ops(held)) == {"route", "dispatch", "matmul_f32", "combine"}
    assert stays == {i for i, row in enumerate(held.rows) if row.op not in ON_DEVICE or row.values.get("order")}


def test_an_encoder_is_on_the_device(tmp_path: Path) -> None:
    with Checkpoint.open(encoders.write_folder(encoders.BY_NAME["bert_classes"], tmp_path / "bert")) as checkpoint:
        held = build_program(spec_of(checkpoint), checkpoint.weight, "f32", 64)
    assert away_ops(held) == []


def test_every_op_on_the_device_is_one() -> None:
    assert set(OPS) >= ON_DEVICE
