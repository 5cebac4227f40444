"""What the ops with a state beside each sequence mean, in NumPy; the reference executor takes them from here.

Arrays are float64.  A `step` function takes one token and the state before it, and changes the state in place.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.layout import GROUP
from ..kernels.ops import PACKED, PLAIN
from .table import pad

if TYPE_CHECKING:
    from .reference import Reference

__all__ = ["OPS", "blocked"]

Array = NDArray[np.float64]
Values = Mapping[str, Any]


# -- parameters of channels, in blocks ------------------------------------------------------------------------------


def blocked(values: NDArray[Any]) -> NDArray[np.float32]:
    """[channels, k] as kernels read it: float32, for each block of 32 channels [k, 32], padded with zeros; flat."""
    channels, k = values.shape
    padded = np.zeros((pad(channels), k), np.float32)
    padded[:channels] = values
    return np.ascontiguousarray(padded.reshape(-1, GROUP, k).swapaxes(1, 2)).reshape(-1)


def unblocked(values: NDArray[Any], channels: int, k: int) -> Array:
    """[channels, k] of what `blocked` made."""
    found: Array = values[: pad(channels) * k].reshape(-1, k, GROUP).swapaxes(1, 2).reshape(-1, k)[:channels]
    return found.astype(np.float64)


# -- the ops ----------------------------------------------------------------------------------------------------------


def sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):
        result: Array = 1 / (1 + np.exp(-x))
    return result


def softplus(x: Array) -> Array:
    result: Array = np.logaddexp(0, x)
    return result


def scan(
    run: "Reference", row: Values, shape: tuple[int, ...], step: Callable[[int, Array], Array], back: bool = False
) -> None:
    """y[t] = step(t, state) for the tokens of each sequence in order, or from the last one on where it goes back; its
    state is zeros [shape] before position 0."""
    slots = run.batch[1]
    results: dict[int, Array] = {}
    for slot in dict.fromkeys(slots.tolist()):
        start = run.lengths[slot]
        key, here = (slot, row["state"]), np.flatnonzero(slots == slot).tolist()
        before = run.states.get(key, {}).get(start, np.zeros(shape)) if start else np.zeros(shape)
        state = before.copy()
        results |= {t: step(t, state) for t in (reversed(here) if back else here)}
        run.states[key] = {start: before, start + len(here): state}
    run.put(row["y"], np.array([results[t] for t in range(len(slots))]).reshape(len(slots), -1))
    run.put_records(row.get("records"), run.buffer(row["y"]))


def short_conv(run: "Reference", row: Values) -> None:
    """A causal convolution of each channel by itself, between two gates or before a silu."""
    n, taps = row["n"], row["taps"]
    x, at = run.buffer(row["x"]), row["at"]
    weight = unblocked(run.program.params[row["weight"]], n, taps)
    bias = 0 if row["bias"] is None else run.param(row["bias"], n)

    def gate(t: int, at: int) -> Array | float:
        return 1.0 if at < 0 else x[t, at : at + n]

    def step(t: int, state: Array) -> Array:
        state[:] = np.concatenate([state[1:], [x[t, at : at + n] * gate(t, row["gate_in"])]])
        y = (state * weight.T).sum(axis=0) + bias
        return (y * sigmoid(y) if row["silu"] else y) * gate(t, row["gate_out"])

    scan(run, row, (taps, n), step)


def selective_scan(run: "Reference", row: Values) -> None:
    """h = e^(dt A) h + dt B x and y = (C h + D x) silu(z), for each channel (arXiv:2312.00752); A is given / log 2."""
    n, states, at = row["n"], row["states"], row["at"]
    x, dt, bc = run.buffer(row["x"])[:, :n], softplus(run.buffer(row["dt"])[:, :n]), run.buffer(row["bc"])[:, at:]
    z = run.buffer(row["z"])[:, n : 2 * n]
    a, d = unblocked(run.program.params[row["a"]], n, states), run.param(row["d"], n)

    def step(t: int, h: Array) -> Array:
        b, c = bc[t, :states], bc[t, states : 2 * states]
        h[:] = np.exp2(dt[t][:, None] * a) * h + (dt[t] * x[t])[:, None] * b
        y: Array = (h @ c + d * x[t]) * z[t] * sigmoid(z[t])
        return y

    scan(run, row, (n, states), step)


def head_scan(run: "Reference", row: Values) -> None:
    """h = e^(dt A) h + dt B x and y = C h + D x, A and D for each head (arXiv:2405.21060); A is given / log 2.

    Heads share the B and C of their group; a step is softplus(dt + bias), kept between `low` and `high`.
    """
    heads, dim, groups, states = row["heads"], row["head_dim"], row["groups"], row["states"]
    n, each = heads * dim, groups * states
    rows = run.buffer(row["x"])
    x = rows[:, :n].reshape(-1, heads, dim)
    b, c = (rows[:, at : at + each].reshape(-1, groups, states).repeat(heads // groups, axis=1) for at in (n, n + each))
    at = 2 * (n + each)
    dt = softplus(run.buffer(row["dt"])[:, at : at + heads] + run.param(row["bias"], heads))
    dt = np.clip(dt, row["low"], row["high"])
    a, d = run.param(row["a"], heads), run.param(row["d"], heads)

    def step(t: int, h: Array) -> Array:
        decay = np.exp2(dt[t] * a)[:, None, None]
        h[:] = decay * h + (dt[t][:, None] * x[t])[:, :, None] * b[t][:, None]
        return np.einsum("hdn,hn->hd", h, c[t]) + d[:, None] * x[t]

    scan(run, row, (heads, dim, states), step)


def silu_rms(run: "Reference", row: Values) -> None:
    """The gate before an RMS norm of each part."""
    n = row["n"]
    x, gate = run.buffer(row["x"])[:, :n], run.buffer(row["gate"])[:, :n]
    parts = (x * gate * sigmoid(gate)).reshape(len(x), row["parts"], -1)
    parts = parts / np.sqrt((parts**2).mean(axis=2, keepdims=True) + row["eps"])
    run.put(row["y"], parts.reshape(len(x), n) * run.param(row["weight"], n))
    run.put_records(row["records"], run.buffer(row["y"]))


def token_shift(run: "Reference", row: Values) -> None:
    """The token before, minus the token."""
    x = run.buffer(row["x"])

    def step(t: int, last: Array) -> Array:
        away = last - x[t]
        last[:] = x[t]
        return away

    scan(run, row, (x.shape[1],), step)


def mix(run: "Reference", row: Values) -> None:
    """x + weight d."""
    x = run.buffer(row["x"])
    run.put(row["y"], x + run.param(row["weight"], x.shape[1]) * run.buffer(row["d"]))
    run.put_records(row["records"], run.buffer(row["y"]))


def squash(run: "Reference", row: Values) -> None:
    """y = tanh(y), or sigmoid(y)."""
    y = run.buffer(row["y"])
    run.put(row["y"], sigmoid(y) if row["logistic"] else np.tanh(y))
    run.put_records(row["records"], run.buffer(row["y"]))


def sigmoid_add(run: "Reference", row: Values) -> None:
    """y += sigmoid(gate) x."""
    run.put(row["y"], run.buffer(row["y"]) + sigmoid(run.buffer(row["gate"])) * run.buffer(row["x"]))


def wkv4(run: "Reference", row: Values) -> None:
    """sigmoid(r) times the mean of all v so far, weighted by e^(k + (tokens since) decay), the own one by e^(k + first)
    (arXiv:2305.13048, section 3.1.2); sums are kept divided by e^top, so that none overflows."""
    r, k, v = (run.buffer(row[name]) for name in "rkv")
    n = k.shape[1]
    decay, first = run.param(row["decay"], n), run.param(row["first"], n)

    def step(t: int, state: Array) -> Array:
        above, below, top = state
        top = np.where(below > 0, top, -np.inf)  # an empty sum
        highest = np.maximum(top, k[t] + first)
        old, new = np.exp(top - highest), np.exp(k[t] + first - highest)
        y = (old * above + new * v[t]) / (old * below + new)
        highest = np.maximum(top + decay, k[t])
        old, new = np.exp(top + decay - highest), np.exp(k[t] - highest)
        state[:] = old * above + new * v[t], old * below + new, highest
        result: Array = sigmoid(r[t]) * y
        return result

    scan(run, row, (3, n), step)


def wkv7_inputs(run: "Reference", row: Values) -> None:
    """What RWKV 7's recurrence takes (arXiv:2503.14456, section 4): decay, key, what is removed, direction, value."""
    w, k, a, v = (run.buffer(row[name]) for name in ("decay", "k", "a", "v"))
    n, d = k.shape[1], row["head_dim"]
    rate = sigmoid(a)
    kk = (k * run.param(row["k_k"], n)).reshape(len(k), -1, d)
    kk = (kk / np.maximum(np.sqrt((kk**2).sum(axis=2, keepdims=True)), 1e-12)).reshape(k.shape)
    run.put(row["decay"], np.exp(-np.exp(-0.5) * sigmoid(w)))
    run.put(row["k"], k * (1 + (rate - 1) * run.param(row["k_a"], n)))
    run.put(row["a"], kk * rate)
    run.put(row["kk"], kk)
    if row["mix"] is not None:
        run.put(row["v"], v + (run.buffer(row["v_first"]) - v) * sigmoid(run.buffer(row["mix"])))


def wkv7(run: "Reference", row: Values) -> None:
    """S = S diag(w) - (S kk) a^T + v k^T and y = S r, for each head [values, keys] (arXiv:2503.14456, equation 15)."""
    heads, d = row["heads"], row["head_dim"]
    r, w, k, v, kk, a = (run.buffer(row[name]).reshape(-1, heads, d) for name in ("r", "decay", "k", "v", "kk", "a"))

    def step(t: int, s: Array) -> Array:
        removed = (s @ kk[t][:, :, None]) * a[t][:, None]
        s[:] = s * w[t][:, None] - removed + v[t][:, :, None] * k[t][:, None]
        y: Array = (s @ r[t][:, :, None])[:, :, 0]
        return y

    scan(run, row, (heads, d, d), step)


def wkv7_output(run: "Reference", row: Values) -> None:
    """Each head's own layer norm, the token's own value, the gate."""
    heads, d = row["heads"], row["head_dim"]
    n = heads * d
    y, r, k, v = (run.buffer(row[name]).reshape(-1, heads, d) for name in "yrkv")
    y = y - y.mean(axis=2, keepdims=True)
    y = y / np.sqrt((y**2).mean(axis=2, keepdims=True) + row["eps"])
    own = (r * k * run.param(row["r_k"], n).reshape(heads, d)).sum(axis=2, keepdims=True) * v
    normed = y.reshape(-1, n) * run.param(row["weight"], n) + run.param(row["bias"], n)
    run.put(row["y"], (normed + own.reshape(-1, n)) * run.buffer(row["gate"]))
    run.put_records(row["records"], run.buffer(row["y"]))


def of_state(run: "Reference", row: Values, h: Array) -> Array:
    """What the state says of the gates: w h + bias; a packed weight meets int8 groups."""
    w = run.weight(row["w"])
    y: Array = w @ run.as_read(row["w"], h[None])[0]
    return y if row["bias"] is None else y + run.param(row["bias"], len(w))


def lstm(run: "Reference", row: Values) -> None:
    """c = f c + i g and h = o tanh(c), with PyTorch's order of gates: i, f, g, o (Hochreiter & Schmidhuber 1997)."""
    n, x = row["n"], run.buffer(row["x"])

    def step(t: int, state: Array) -> Array:
        i, f, g, o = np.split(x[t, : 4 * n] + of_state(run, row, state[0]), 4)
        state[1] = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
        state[0] = sigmoid(o) * np.tanh(state[1])
        return state[0].copy()

    scan(run, row, (2, n), step, bool(row["back"]))


def gru(run: "Reference", row: Values) -> None:
    """h = (1 - z) n + z h, and r weighs what the state says of n, its bias included (PyTorch's; arXiv:1406.1078)."""
    n, x = row["n"], run.buffer(row["x"])

    def step(t: int, state: Array) -> Array:
        of_x, of_h = np.split(x[t, : 3 * n], 3), np.split(of_state(run, row, state[0]), 3)
        r, z = sigmoid(of_x[0] + of_h[0]), sigmoid(of_x[1] + of_h[1])
        state[0] = (1 - z) * np.tanh(of_x[2] + r * of_h[2]) + z * state[0]
        return state[0].copy()

    scan(run, row, (1, n), step, bool(row["back"]))


def ends(run: "Reference", row: Values) -> None:
    """y[m] = the first `split` numbers of x of the sequence's last token, the others of its first one, wanted[m]."""
    _, slots, _, wanted = run.batch
    x, split = run.buffer(row["x"]), row["split"]
    last = [np.flatnonzero(slots == slots[first])[-1] for first in wanted]
    run.put(row["y"], np.concatenate([x[last, :split], x[wanted, split:]], axis=1))


OPS: dict[str, Callable[["Reference", Values], None]] = {
    function.__name__: function
    for function in (
        short_conv, selective_scan, head_scan, silu_rms, token_shift, mix, squash, sigmoid_add, wkv4, wkv7_inputs,
        wkv7, wkv7_output, ends,
    )
}  # fmt: skip
OPS |= {f"{cell.__name__}_{name}": cell for cell in (lstm, gru) for name in PLAIN + PACKED}
