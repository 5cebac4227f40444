"""What AMX's words compute, without its registers: sums lie in memory, and loops add to them."""

from typing import Any

from llvmlite import ir

from .portable import I64, VI, Portable, Value, constant

__all__ = ["GRID_WORDS"]

SIXTEEN = ir.Constant(I64, 16)


def _none(isa: Portable, *_: Any) -> None:
    pass


def _at(isa: Portable, address: Value, i: Value, step: int | Value) -> Value:
    return isa.b.add(address, isa.b.mul(i, i.type(step) if isinstance(step, int) else step))


def grid_codes(
    isa: Portable, x: Value, x_step: int, w: Value, w_step: int, i: Value, count: Value, to: Value
) -> None:
    for n in range(-2, 2):
        group = isa.offset(i, n)
        with isa.b.if_then(isa.b.icmp_unsigned("<", group, count)):
            xs, ws, sums = isa.offset(x, n * x_step), isa.offset(w, n * w_step), isa.offset(to, 1024 * n)

            def token(t: Value, xs: Value = xs, ws: Value = ws, sums: Value = sums) -> None:
                sum_at = _at(isa, sums, t, 64)
                isa.store(sum_at, 0, constant(0, VI))

                def four(c: Value) -> None:
                    codes, four_x = isa.load_i32(_at(isa, ws, c, 64)), _at(isa, _at(isa, xs, t, 32), c, 4)
                    total = signed_dot4(isa, isa.load_i32(sum_at), codes, isa.broadcast_i32(four_x))
                    isa.store(sum_at, 0, total)

                isa.repeat(I64(8), four)

            isa.repeat(SIXTEEN, token)


def signed_dot4(isa: Portable, total: Value, a: Value, b: Value) -> Value:
    """total[lane] + the sum over the lane's four signed bytes of a * b."""
    for shift in (0, 8, 16, 24):
        left, right = (isa.b.ashr(isa.b.shl(v, constant(24 - shift, VI)), constant(24, VI)) for v in (a, b))
        total = isa.b.add(total, isa.b.mul(left, right))
    return total


def add_outer(isa: Portable, column: Value, rows: Value, row_step: int | Value, sums: Value, ld: int | Value) -> None:
    """To 16 x 16 sums: at `column` 16 pairs of bf16 times a pair of each row."""
    across = isa.load(column, 0, ir.VectorType(ir.FloatType(), 16))

    def row(r: Value) -> None:
        at, pair = _at(isa, sums, r, ld), isa.broadcast_i32(_at(isa, rows, r, row_step))
        isa.store(at, 0, isa.dot_bf16(isa.load_f32(at), isa.b.bitcast(pair, across.type), across))

    isa.repeat(SIXTEEN, row)


def grid_pairs(isa: Portable, x: Value, w: Value, tokens: int, rows: int, apart: Value, steps: Value, sums: Value,
               ld: Value) -> None:  # fmt: skip
    for t in range(tokens):
        for r in range(rows):
            xs, ws = (isa.b.add(a, apart) if n else a for a, n in ((x, t), (w, r)))
            at = isa.b.add(isa.offset(sums, 64 * r), isa.b.mul(ld, ld.type(16 * t)))

            def step(i: Value, xs: Value = xs, ws: Value = ws, at: Value = at) -> None:
                xi, wi = _at(isa, xs, i, 1024), _at(isa, ws, i, 1024)
                isa.repeat(SIXTEEN, lambda k: add_outer(isa, _at(isa, wi, k, 64), _at(isa, xi, k, 4), 64, at, ld))

            isa.repeat(steps, step)


def grid_rows(
    isa: Portable, w: Value, ldw: Value, lots: int, ahead: Value, x: Value, steps: Value, sums: Value
) -> None:
    for n in range(lots):
        ws, at = isa.b.add(w, isa.b.mul(ldw, ldw.type(16 * n))), isa.offset(sums, 1024 * n)

        def step(i: Value, ws: Value = ws, at: Value = at) -> None:
            xi, wi = _at(isa, x, i, 1024), _at(isa, ws, i, 64)
            isa.repeat(SIXTEEN, lambda k: add_outer(isa, _at(isa, xi, k, 64), _at(isa, wi, k, 4), ldw, at, 64))

        isa.repeat(steps, step)


GRID_WORDS = dict(
    open_grid=_none, close_grid=_none, grid_codes=grid_codes, grid_pairs=grid_pairs, grid_rows=grid_rows
)
