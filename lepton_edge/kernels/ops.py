"""The op table's vocabulary: which ops there are, and which int64 fields a row of each has.

A row is `ROW` int64 fields.  The first four are the same for all ops; the others are the op's own, in the order given
here.  Kinds of field: `a` activation, `w` weight, `p` parameter (all three are addresses once bound, 0 for none),
`i` integer, `f` float32 (its bits).
"""

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = [
    "ACTIVATIONS", "ALWAYS", "BARRIER", "BY_ID", "BY_POSITION", "BY_SEGMENT", "CACHES", "CAUSAL", "COUNT", "COUNTER",
    "KERNEL", "LARGE", "MEMORY", "NEVER", "OPS", "PROBES", "RECURRENT", "ROW", "TOKENS", "WANTED", "WHOLE", "Op",
    "field",
]  # fmt: skip

ROW = 40
KERNEL, BARRIER, COUNT, COUNTER = range(4)  # address of the kernel; when to meet after it; TOKENS or WANTED; work taken
CAUSAL, WHOLE, MEMORY = range(3)  # what a token attends to: positions up to its own, all of its sequence, another one
NEVER, ALWAYS, LARGE = range(3)  # kinds of barrier; LARGE: not in a small step (see `layout.SMALL`)
BY_ID, BY_POSITION, BY_SEGMENT = range(3)  # which number of a token names its row in a table
TOKENS, WANTED = 0, 1  # which count of the batch an op runs over: all tokens, or those whose logits are wanted


@dataclass(frozen=True)
class Op:
    """One op: its name, its fields as (name, kind), and those that a row may leave out."""

    name: str
    fields: tuple[tuple[str, str], ...]
    optional: frozenset[str] = frozenset()

    def complete(self, values: Iterable[str]) -> bool:
        """Whether a row with these fields has all that it needs, and no others."""
        return set(values) | self.optional == {name for name, _ in self.fields}

    def index(self, name: str) -> int:
        """Position of a field in the row."""
        return 4 + [f for f, _ in self.fields].index(name)


def _op(name: str, spec: str) -> Op:
    """`spec` is 'name:kind …'; a word without a kind is an integer, one that ends in ? may be left out."""
    words = [word.rstrip("?").split(":") for word in spec.split()]
    optional = frozenset(word.rstrip("?").split(":")[0] for word in spec.split() if word.endswith("?"))
    return Op(name, tuple((w[0], w[1] if len(w) > 1 else "i") for w in words), optional)


PROBES = ("probe_read", "probe_dot", "probe_fma")  # kernels that are no ops: they measure the machine (`probe.py`)
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "relu2", "clamped_swiglu")
RECURRENT = {"lstm": 4, "gru": 3}  # gates of each
PLAIN, PACKED, CACHES = ("f32", "f16", "bf16"), ("q8", "q4", "mxfp4"), ("f16", "f32", "q8")

# Queries that share a key head lie `q_step` floats from the next ones, key and value heads `k_step`.  The first
# `rope_dim` numbers of a head are turned, in pairs (i, i + rope_dim / 2), or (2 i, 2 i + 1) if `paired`.  Norms of
# heads: their weights lie `norm_step` floats from head to head, and a bias `norm_bias` floats behind its weight, 0 for
# none; `norm_center`: a layer norm.
HEADS = (
    "q:a ldq q_step k:a v:a ldk k_step heads kv_heads head_dim rope_dim paired table:p layer q_norm:p k_norm:p "
    "norm_step norm_bias norm_eps:f norm_center"
)

# A product over experts: t is a place in `order`, and every weight a table of the experts' addresses.
EXPERTS = "order:a? top_k?"

OPS: dict[str, Op] = {
    op.name: op
    for op in (
        # y[t] (+)= scale * row token[t] of w; by: row position[t] + offset, or segment[t] + offset
        *(_op(f"embed_{f}", "w:w y:a ldy n groups block_bytes scale:f by offset accumulate")
          for f in PLAIN + PACKED),
        # y[t] (+)= x[t] / rms(x[t]) * weight (+ bias), and as int8 groups where `records` is given; own: each thread
        # has its own y and records in a small step, one behind the other; layer_norm takes x less its mean
        *(_op(f"{kind}_norm", "x:a ldx weight:p bias:p y:a ldy n eps:f accumulate records:a groups own")
          for kind in ("rms", "layer")),
        # records[t] = x[t] as int8 groups of 32 with scale and sum
        _op("quantize", "x:a ldx records:a groups"),
        # y[t] (+)= w x[t] (+ bias); own: of the thread's own x
        *(_op(f"matmul_{f}", f"x:a w:w y:a ldy rows bias:p accumulate own blocks groups block_bytes {EXPERTS}")
          for f in PACKED),
        *(_op(f"matmul_{f}", f"x:a w:w y:a ldy rows bias:p accumulate own ldx columns {EXPERTS}") for f in PLAIN),
        # gate[t] = w x[t] (+ bias), the same for `up` where it has a weight, then `activate` of both into `gate`
        *(_op(f"gated_{f}", "x:a w:w up_w:w gate:a up:a ldy bias:p up_bias:p activation records:a own blocks groups "
              f"block_bytes {EXPERTS}") for f in PACKED),
        # the experts of the top_k largest logits in x[t], their shares of the softmax, and all (token, expert) pairs by
        # expert: places[pair] = where it is in `order` (see `layout.PAIR`); all flat, each thread's own in a small step
        _op("route", "x:a ldx experts top_k normalise shares:a places:a order:a"),
        # y[place] = x[token of the pair there], and as int8 groups where `records` is given; each thread's own in a
        # small step.  own: x is a norm's output; sorted: x has a row for each place, and all threads share the result
        _op("dispatch", "x:a ldx own order:a top_k sorted y:a records:a"),
        # y[t] (+)= the sum of share * x[place] over its pairs (+ sigmoid(shared_gate[t]) * shared[t])
        _op("combine", "x:a ldx shares:a places:a top_k y:a accumulate shared:a shared_gate:a ldg"),
        # norm heads of q and k where they have norms, rotate them by their positions; k and v go into the cache
        *(_op(f"rope_{c}", HEADS) for c in CACHES),
        # y[t] = softmax(q k / scale) v over the sequence's cache, and as int8 groups where `records` is given; in a
        # small step it does what rope does, too
        # cap: scores become cap * tanh(scores / cap); slopes: of each head, times the distance, is added (ALiBi);
        # sinks: a score of each query head that has its share of the softmax, and no value
        # sight: see CAUSAL; a window then reaches as far behind as before.  distances: for each query head what is
        # added at distances -span..span, the ends repeated (see `layout.EDGE`), as logarithms to base 2
        # q_terms, k_terms: scale * (q_terms[t] + k_terms[key's t]) is added, each at index[distance + span] of the
        # head's `ldh` numbers (DeBERTa); distances are position seen - own one
        *(_op(f"attention_{c}", f"{HEADS} y:a ldy scale:f window cap:f slopes:p records:a sinks:p? sight? "
              "distances:p? span? q_terms:a? k_terms:a? ldr? ldh? index:p?") for c in CACHES),
        # y[t] = activation(gate[t]) (* up[t]), and as int8 groups where `records` is given; see ACTIVATIONS
        _op("activate", "gate:a up:a ldx y:a ldy n activation records:a groups"),
        # x[t] = x[t] within +-limit; soft: limit * tanh(x[t] / limit)
        _op("limit", "x:a ldx n limit:f soft"),
        # x[t] *= table[position[t] // every]
        _op("grow", "x:a ldx n table:p every"),
        # Ops with a state beside each sequence: `state` is where a row's part of it begins, in bytes.
        # y[t] = the causal convolution of x[t] (times what lies at `gate_in` of the same row), through silu or times
        # what lies at `gate_out`; offsets in floats, -1 for no gate; and as int8 groups where `records` is given
        _op("short_conv", "x:a ldx at gate_in gate_out silu n taps weight:p bias:p state y:a ldy records:a"),
        # y[t] = a selective scan of x[t] with steps softplus(dt[t]), times silu of the gate at z[t]; B and C lie
        # at `at` of bc[t]; y may be x; and as int8 groups where `records` is given
        _op("selective_scan", "x:a dt:a y:a ld bc:a ldbc at z:a ldz a:p d:p n states state records:a"),
        # y[t] = the same with one decay for each head; x, B and C lie side by side in x[t], steps end the row dt[t]
        _op("head_scan", "x:a ldx dt:a lddt y:a a:p d:p bias:p heads head_dim groups states state low:f high:f"),
        # y[t] = x[t] * silu(gate[t]), each of `parts` parts of it normalised, * weight; gates begin their rows
        _op("silu_rms", "x:a ldx gate:a ldg weight:p y:a ldy n parts eps:f records:a"),
        # y[t] = x of the token before - x[t]
        _op("token_shift", "x:a y:a ld state"),
        # y[t] = x[t] + weight * d[t], and as int8 groups where `records` is given
        _op("mix", "x:a d:a weight:p y:a ld records:a"),
        # y[t] = tanh(y[t]), or sigmoid(y[t]) where `logistic`, and as int8 groups where `records` is given
        _op("squash", "y:a ld n logistic records:a"),
        # y[t] += sigmoid(gate[t]) * x[t]
        _op("sigmoid_add", "gate:a x:a y:a ld"),
        # y[t] = sigmoid(r[t]) * the mean of all v up to t, weighted by e^k and what is left of it; RWKV 4
        _op("wkv4", "r:a k:a v:a y:a ld decay:p first:p state records:a"),
        # in place, for each head: the decay, k = the key, a = what it removes, kk = its direction, v mixed with
        # that of the first layer (by `mix`, where given); RWKV 7
        _op("wkv7_inputs", "decay:a k:a a:a kk:a v:a v_first:a mix:a ld k_k:p k_a:p heads head_dim"),
        # y[t] = S r[t], S being S diag(decay[t]) - (S kk[t]) a[t]^T + v[t] k[t]^T
        _op("wkv7", "r:a decay:a k:a v:a kk:a a:a y:a ld heads head_dim state"),
        # y[t] = (norm of each head of y[t] * weight + bias + (r k r_k) v) * gate
        _op("wkv7_output", "y:a r:a k:a v:a gate:a ld r_k:p weight:p bias:p heads head_dim eps:f records:a"),
        # y[t] = the state of n numbers after token t, by the gates x[t] + w (the state before) + bias, side by side;
        # back: from a sequence's last token to its first, where its tokens are neighbours
        *(_op(f"{cell}_{f}", "x:a ldx w:w bias:p y:a ldy n back state blocks groups block_bytes")
          for cell in RECURRENT for f in PACKED),
        *(_op(f"{cell}_{f}", "x:a ldx w:w bias:p y:a ldy n back state") for cell in RECURRENT for f in PLAIN),
        # y[m] = x[wanted[m]]
        _op("gather", "x:a ldx y:a ldy n"),
        # y[m] = the mean of x over the sequence that begins with token wanted[m]
        _op("average", "x:a ldx y:a ldy n"),
        # y[m] = the first `split` numbers of x of that sequence's last token, then the others of its first token
        _op("ends", "x:a ldx y:a ldy n split"),
        # y[m] = the largest of each block of x[m], then the sums of exp(x[m] - largest) of each chunk, plain and heated
        _op("block_peaks", "x:a ldx n y:a ldy"),
        # y[m] = the TOP largest of x[m], falling, its two sums, the second by chunks; ids[m] = where they are
        _op("top", "x:a ldx n peaks:a ldp y:a ldy ids:a"),
    )
}


def field(op: str, name: str) -> int:
    """Byte offset of a field in a row of `op`."""
    return 8 * OPS[op].index(name)
