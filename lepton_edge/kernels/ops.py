"""The op table's vocabulary: which ops there are, and which int64 fields a row of each has.

A row is `ROW` int64 fields.  The first four are the same for all ops; the others are the op's own, in the order given
here.  Kinds of field: `a` activation, `w` weight, `p` parameter (all three are addresses once bound, 0 for none),
`i` integer, `f` float32 (its bits).
"""

from dataclasses import dataclass

__all__ = [
    "ALWAYS", "BARRIER", "CACHES", "COUNT", "COUNTER", "KERNEL", "LARGE", "NEVER", "OPS", "PROBES", "ROW", "TOKENS",
    "WANTED", "Op", "field",
]  # fmt: skip

ROW = 20
KERNEL, BARRIER, COUNT, COUNTER = range(4)  # address of the kernel; when to meet after it; TOKENS or WANTED; work taken
NEVER, ALWAYS, LARGE = range(3)  # kinds of barrier; LARGE: not in a small step (see `layout.SMALL`)
TOKENS, WANTED = 0, 1  # which count of the batch an op runs over: all tokens, or those whose logits are wanted


@dataclass(frozen=True)
class Op:
    """One op: its name, and its fields as (name, kind)."""

    name: str
    fields: tuple[tuple[str, str], ...]

    def index(self, name: str) -> int:
        """Position of a field in the row."""
        return 4 + [f for f, _ in self.fields].index(name)


def _op(name: str, spec: str) -> Op:
    """`spec` is 'name:kind …'; a word without a kind is an integer."""
    words = [word.split(":") for word in spec.split()]
    return Op(name, tuple((w[0], w[1] if len(w) > 1 else "i") for w in words))


PROBES = ("probe_read", "probe_dot", "probe_fma")  # kernels that are no ops: they measure the machine (`probe.py`)
PLAIN, PACKED, CACHES = ("f32", "f16", "bf16"), ("q8", "q4"), ("f16", "f32", "q8")

OPS: dict[str, Op] = {
    op.name: op
    for op in (
        # y[t] = row token[t] of w
        *(_op(f"embed_{f}", "w:w y:a ldy n groups block_bytes") for f in PLAIN + PACKED),
        # y[t] = x[t] / rms(x[t]) * weight, and as int8 groups where `records` is given; own: each thread has its own y
        # and records in a small step, one behind the other
        _op("rms_norm", "x:a ldx weight:p y:a ldy n eps:f records:a groups own"),
        # records[t] = x[t] as int8 groups of 32 with scale and sum
        _op("quantize", "x:a ldx records:a groups"),
        # y[t] (+)= w x[t] (+ bias); own: of the thread's own x
        *(_op(f"matmul_{f}", "x:a w:w y:a ldy rows bias:p accumulate own blocks groups block_bytes")
          for f in PACKED),
        *(_op(f"matmul_{f}", "x:a w:w y:a ldy rows bias:p accumulate own ldx columns") for f in PLAIN),
        # up[t] = w x[t] (+ bias), the same for `gate`, then swiglu of both into `gate`
        *(_op(f"gated_{f}", "x:a w:w up_w:w gate:a up:a ldy bias:p up_bias:p records:a own blocks groups block_bytes")
          for f in PACKED),
        # rotate q and k by their positions; k and v go into the cache
        *(_op(f"rope_{c}", "q:a ldq k:a v:a ldk heads kv_heads head_dim rope_dim table:p layer") for c in CACHES),
        # y[t] = softmax(q k / scale) v over the sequence's cache, and as int8 groups where `records` is given; in a
        # small step it does what rope does, too
        *(_op(f"attention_{c}", "q:a ldq k:a v:a ldk heads kv_heads head_dim rope_dim table:p layer y:a ldy scale:f "
              "window records:a") for c in CACHES),
        # y[t] = silu(gate[t]) * up[t], and as int8 groups where `records` is given
        _op("swiglu", "gate:a up:a ldx y:a ldy n records:a groups"),
        # y[m] = x[wanted[m]]
        _op("gather", "x:a ldx y:a ldy n"),
        # y[m] = the largest of each block of x[m], then the sums of exp(x[m] - largest) of each chunk, plain and heated
        _op("block_peaks", "x:a ldx n y:a ldy"),
        # y[m] = the TOP largest of x[m], falling, its two sums, the second by chunks; ids[m] = where they are
        _op("top", "x:a ldx n peaks:a ldp y:a ldy ids:a"),
    )
}


def field(op: str, name: str) -> int:
    """Byte offset of a field in a row of `op`."""
    return 8 * OPS[op].index(name)
