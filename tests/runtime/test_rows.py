"""Every row of a program on the CPU against the reference's op on the same input: tight, and it says which row."""

import numpy as np
import pytest
from engines import FORMATS, SPECS, load, reference, tokens
from kernels.harness import ISAS, PAGE, U, pad, read_records

from lepton_edge.kernels import layout
from lepton_edge.kernels.machine import instruction_set
from lepton_edge.kernels.ops import TOKENS

# Three sequences: one in its second page, one anew, one in single tokens between the others.
LENGTHS = (125, 0, 3)
BATCH = [(0, 7), (2, 1), (1, 6), (2, 1), (0, 2)]


class Rows:
    """An engine that stops after any row, and a reference that goes on from the engine's own buffers."""

    def __init__(self, spec, format, isa):
        self.engine = engine = load(spec, format, isa=isa)
        self.run = run = reference(engine)
        self.program, self.isa = engine.program, isa
        for slot, length in enumerate(LENGTHS):
            assert engine.open() == run.open() == slot
            if length:
                engine.forward(tokens(length, spec, slot), [slot] * length, range(length), [])
            run.lengths[slot] = length
        slots = np.repeat(*np.array(BATCH).T)
        positions = [LENGTHS[slot] + int((slots[:i] == slot).sum()) for i, slot in enumerate(slots)]
        self.batch = [np.array(a, np.int64) for a in (tokens(len(slots), spec, 9), slots, positions, (0, 9, 16))]
        run.run_until(0, *self.batch)

    def buffers(self, stop):
        """What the engine's buffers hold after `stop` rows, as the reference keeps them; the sequences do not grow."""
        for slot, length in enumerate(LENGTHS):  # before, so that `cache` finds what the step leaves
            self.engine.truncate(slot, length)
        self.engine._step(self.engine._plan, stop, *self.batch)
        found = {}
        for b in self.program.buffers.values():
            count = len(self.batch[0] if b.count == TOKENS else self.batch[3])
            raw = self.engine._plan.buffers[b.name][: count * b.token_bytes]
            if b.records:
                found[b.name] = raw
            else:
                floats = raw.view(np.int32 if b.integers else np.float32).reshape(count, b.ld)
                assert not floats[:, b.columns :].any(), f"padding of {b.name}"
                found[b.name] = floats[:, : b.columns].astype(np.float64)
        return found

    def records(self, raw, groups):
        """The values that records stand for; a buffer for wider rows than these holds them at its start."""
        count = len(raw) // layout.RECORD
        tokens = next(n for n in (len(self.batch[0]), len(self.batch[3])) if count % n == 0)
        codes, scales, _ = read_records(raw[: tokens * groups * layout.RECORD], self.isa, tokens)
        return (codes * scales.astype(np.float64)[:, :, None]).reshape(tokens, -1)

    def cache(self, row, slot):
        """The engine's keys and values of a sequence in a row's layer, [positions, G, D]."""
        g, d = row.values["kv_heads"], row.values["head_dim"]
        padded, kind = pad(d, 16), np.dtype(self.program.kv_dtype.replace("f", "float"))
        keys, values = [], []
        for page in self.engine._pages._held[slot]:
            part = page[row.values["layer"] :][: g * PAGE * (d + padded) * kind.itemsize].view(kind).reshape(g, -1)
            keys.append(part[:, : PAGE * d].reshape(g, PAGE // 16, d, 16).transpose(1, 3, 0, 2).reshape(PAGE, g, d))
            values.append(part[:, PAGE * d :].reshape(g, PAGE, padded).transpose(1, 0, 2)[:, :, :d])
        end = LENGTHS[slot] + int((self.batch[1] == slot).sum())
        return [np.concatenate(parts)[:end].astype(np.float64) for parts in (keys, values)]


def bound(op, row, run, before, y):
    """How far float32 may be off, from the operands' sizes; the kernels' own tests derive the same in detail."""
    if op.startswith("matmul"):
        return product_bound(row["w"], row["bias"], row["x"], run, before[row["y"]] if row["accumulate"] else 0)
    if op.startswith("gated"):
        gate, up = (product_bound(row[w], row[bias], row["x"], run) for w, bias in (("w", "bias"), ("up_w", "up_bias")))
        # The slope of silu is at most 1.1; the product of both errors is far below each.
        u = np.abs(run.buffers[row["up"]])
        silu = np.abs(y) / np.where(u > 0, u, 1)
        return 1.1 * gate * (u + up) + silu * up + (2e-7 + 5 * U) * np.abs(y) + 1e-38
    if op.startswith("attention"):
        d, held = row["head_dim"], [run.cache[slot, row["layer"]] for slot in range(len(LENGTHS))]
        q = np.linalg.norm(before[row["q"]].reshape(-1, d), axis=1).max()
        score = q * max(np.linalg.norm(keys, axis=2).max() for keys, _ in held) * row["scale"]
        value, longest = max(np.abs(values).max() for _, values in held), max(len(keys) for keys, _ in held)
        return 2 * (2 * (d + 4) * score + 2 * longest + 30) * U * value
    if op.startswith("rope"):
        return 3 * U * 2 * np.abs(before[row["q"]]).max()
    if op == "rms_norm":
        return (row["n"] / 2 + 7) * U * np.abs(y)
    if op in ("block_peaks", "top"):
        # exp twice, a sum of 128 and few more; exponents below 20 are rounded four times.
        return (4e-7 + (80 + 140) * U) * np.where(np.isfinite(y), np.abs(y), 0)
    if op == "activate":
        return (2e-7 + 5 * U) * np.abs(y) + 1e-38
    return 0


def product_bound(w, bias, x, run, old=0):
    w = np.abs(run.weight(w))
    size = np.abs(run.buffers[x])[:, : w.shape[1]] @ w.T + np.abs(old)
    size += np.abs(run.param(bias, len(w))) if bias else 0
    return (w.shape[1] + 6) * U * size


def rounded_to_bf16(x):
    """To the nearest, ties to even: what sets that multiply pairs of bf16 make of activations."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32).astype(np.float64)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", SPECS)
def test_every_row(name, format, isa):
    rows = Rows(SPECS[name], format, isa)
    run, before = rows.run, rows.buffers(0)
    for i, row in enumerate(rows.program.rows):
        v, where = row.values, f"row {i}: {row.op} {row.label}"
        after = rows.buffers(i + 1)
        run.buffers = {name: value for name, value in before.items() if "records" not in name}
        if row.op.startswith(("rope", "attention")):
            run.cache = {(slot, v["layer"]): rows.cache(row, slot) for slot in range(len(LENGTHS))}
        if row.products and v.get("groups"):
            run.buffers[v["x"]] = rows.records(before[v["x"]], v["groups"])
        if row.op == "matmul_bf16" and instruction_set(isa).bf16_pairs:
            run.buffers[v["x"]] = rounded_to_bf16(before[v["x"]])
        run.run_row(row)
        output = next(v[name] for name in ("y", "gate", "q", "x") if name in v)
        y, found = run.buffers[output], after[output]
        with np.errstate(invalid="ignore"):
            near = np.abs(found - y) <= bound(row.op, v, run, before, y)
        assert (near | (found == y)).all(), where
        if "ids" in v:
            assert np.array_equal(after[v["ids"]], run.buffers[v["ids"]]), where
        if v.get("records"):
            codes = rows.records(after[v["records"]], pad(found.shape[1]) // 32)[:, : found.shape[1]]
            step = np.pad(np.abs(found), ((0, 0), (0, -found.shape[1] % 32))).reshape(len(found), -1, 32).max(2) / 127
            assert (np.abs(codes - found) <= 0.5001 * step.repeat(32, axis=1)[:, : found.shape[1]]).all(), where
        if row.op.startswith("rope"):
            for slot in range(len(LENGTHS)):
                for mine, theirs in zip(run.cache[slot, v["layer"]], rows.cache(row, slot), strict=True):
                    # An f16 that rounds the other way is 2^-10 of itself away, or 2^-24 below the normal ones.
                    away = 2.0**-10 * np.abs(mine) + 2.0**-24 if row.op == "rope_f16" else 6 * U * np.abs(mine).max()
                    assert (np.abs(mine - theirs) <= away).all(), where
        before = after
    rows.engine.close()
