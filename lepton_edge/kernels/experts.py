"""Mixtures of experts: which experts a token goes to, products with the weights of only those, and their sum.

A *pair* is a token and one of its `top_k` experts.  `route` sorts a batch's pairs by expert, so that an expert's tokens
are neighbours: `dispatch` lays their activations out in that order, and the product with an expert's weights is the
ordinary product over a few rows, which reads them once for all of them.  Experts that no token chose are not read.
`combine` adds what a token's experts made of it, in the order in which it chose them, whatever the batch.
"""

from collections.abc import Callable

from .common import F0, F1, at, copy_of, count, each_token, quantize_row, scratch_of, small, take
from .layout import GROUP, PAIR, RECORD, THREADS
from .ops import field
from .simd.words import (
    add,
    div,
    exp,
    fma,
    get_f32,
    get_i32,
    get_i64,
    jit,
    load_f32,
    mul,
    put_f32,
    put_i32,
    put_i64,
    reduce_add,
    splat,
    store_f32,
    sub,
    within,
)

EXPERT, FIRST, STOP = 4, 8, 12  # byte offsets in a pair, behind its number: its expert, and where that one's pairs lie

ROUTE_X, ROUTE_LDX, ROUTE_EXPERTS, ROUTE_TOP_K, ROUTE_NORMALISE, ROUTE_SHARES, ROUTE_PLACES, ROUTE_ORDER = (
    field("route", f) for f in ("x", "ldx", "experts", "top_k", "normalise", "shares", "places", "order")
)
DISPATCH_X, DISPATCH_LDX, DISPATCH_OWN, DISPATCH_ORDER, DISPATCH_TOP_K, DISPATCH_SORTED, DISPATCH_Y = (
    field("dispatch", f) for f in ("x", "ldx", "own", "order", "top_k", "sorted", "y")
)
DISPATCH_RECORDS = field("dispatch", "records")
COMBINE_X, COMBINE_LDX, COMBINE_SHARES, COMBINE_PLACES, COMBINE_TOP_K, COMBINE_Y, COMBINE_ADD = (
    field("combine", f) for f in ("x", "ldx", "shares", "places", "top_k", "y", "accumulate")
)
SHARED, SHARED_GATE, SHARED_LD = (field("combine", f) for f in ("shared", "shared_gate", "ldg"))


@jit
def own(context, thread):
    """The number of a thread's copy of what `route` and `dispatch` write: in a small step each has its own."""
    return thread if small(context) else 0


# -- route ---------------------------------------------------------------------------------------------------------


@jit
def choose(logits, experts, top_k, normalise, taken, mark, weights, shares, chosen):
    """The experts with a token's largest logits, equal ones by number, and their shares of the softmax.

    `taken` has an int64 for each expert, none of them `mark` yet; `weights` room for a float for each.
    """
    for j in range(top_k):
        best, top = -1, F0
        for e in range(experts):
            value = get_f32(logits + 4 * e)
            if get_i64(taken + 8 * e) != mark and (best < 0 or value > top):
                best, top = e, value
        put_i64(taken + 8 * best, mark)
        put_i32(chosen + 4 * j, best)
    peak, total = splat(get_f32(logits + 4 * get_i32(chosen))), splat(F0)
    for e in range(0, experts, 16):
        weight = within(exp(sub(load_f32(logits + 4 * e), peak)), e, 0, experts - 1, F0)
        store_f32(weights + 4 * e, weight)
        total = add(total, weight)
    whole = reduce_add(total)
    if normalise != 0:
        whole = F0
        for j in range(top_k):
            whole += get_f32(weights + 4 * get_i32(chosen + 4 * j))
    for j in range(top_k):
        put_f32(shares + 4 * j, get_f32(weights + 4 * get_i32(chosen + 4 * j)) / whole)


@jit
def sort_pairs(pairs, experts, counts, places, order):
    """Sort pairs by expert, then token: `places` holds each one's expert, and then where it is in `order`."""
    for e in range(experts):
        put_i64(counts + 8 * e, 0)
    for p in range(pairs):
        here = counts + 8 * get_i32(places + 4 * p)
        put_i64(here, get_i64(here) + 1)
    start = 0
    for e in range(experts):
        n = get_i64(counts + 8 * e)
        put_i64(counts + 8 * e, start)
        start += n
    for p in range(pairs):
        e = get_i32(places + 4 * p)
        place = get_i64(counts + 8 * e)
        put_i64(counts + 8 * e, place + 1)
        put_i32(order + PAIR * place, p)
        put_i32(order + PAIR * place + EXPERT, e)
        put_i32(places + 4 * p, place)
    first = stop = 0
    for place in range(pairs):
        if place == stop:
            first, stop = place, get_i64(counts + 8 * get_i32(order + PAIR * place + EXPERT))
        put_i32(order + PAIR * place + FIRST, first)
        put_i32(order + PAIR * place + STOP, stop)


@jit
def route(row, context, thread):
    """All tokens by one thread, or by each for itself: choosing 8 of 64 experts takes a token about a microsecond."""
    tokens, experts, top_k = count(row, context), at(row, ROUTE_EXPERTS), at(row, ROUTE_TOP_K)
    if not small(context) and take(row, context, 1) != 0:
        return
    pairs = tokens * top_k
    first = own(context, thread) * pairs
    shares, places = at(row, ROUTE_SHARES) + 4 * first, at(row, ROUTE_PLACES) + 4 * first
    counts = scratch_of(context, thread)
    weights = counts + 8 * experts
    for e in range(experts):
        put_i64(counts + 8 * e, -1)
    for t in range(tokens):
        choose(at(row, ROUTE_X) + t * at(row, ROUTE_LDX) * 4, experts, top_k, at(row, ROUTE_NORMALISE), counts, t,
               weights, shares + 4 * t * top_k, places + 4 * t * top_k)  # fmt: skip
    sort_pairs(pairs, experts, counts, places, at(row, ROUTE_ORDER) + PAIR * first)


# -- activations in the order of the experts -----------------------------------------------------------------------


@jit
def dispatch_pair(x, order, place, ldx, y, records):
    """x, the activations of the pair at a place, to that place of y, or as records of its expert's tokens."""
    if records != 0:
        first, stop = get_i32(order + PAIR * place + FIRST), get_i32(order + PAIR * place + STOP)
        groups = ldx // GROUP
        quantize_row(x, records + first * groups * RECORD, groups, 0, groups, place - first, stop - first)
    if y != 0:
        for i in range(0, ldx * 4, 64):
            store_f32(y + place * ldx * 4 + i, load_f32(x + i))


@jit
def dispatch(row, context, thread):
    """y[place] = x[token of the pair there], by each thread for itself in a small step; or x[place], where sorted."""
    tokens, top_k, ldx = count(row, context), at(row, DISPATCH_TOP_K), at(row, DISPATCH_LDX)
    pairs, mine, ordered = tokens * top_k, own(context, thread), at(row, DISPATCH_SORTED)
    order, alone = at(row, DISPATCH_ORDER) + mine * pairs * PAIR, ordered == 0 and small(context)
    x, y, records = at(row, DISPATCH_X), at(row, DISPATCH_Y), at(row, DISPATCH_RECORDS)
    if ordered == 0:
        x += copy_of(row, DISPATCH_OWN, context, thread) * tokens * ldx * 4
        y += mine * pairs * ldx * 4 if y != 0 else 0
        records += mine * pairs * (ldx // GROUP) * RECORD if records != 0 else 0
    share = pairs if alone else max(1, pairs // (at(context, THREADS) * 8))
    start = 0 if alone else take(row, context, share)
    while start < pairs:
        for place in range(start, min(pairs, start + share)):
            source = place if ordered != 0 else get_i32(order + PAIR * place) // top_k
            dispatch_pair(x + source * ldx * 4, order, place, ldx, y, records)
        start = pairs if alone else take(row, context, share)


# -- products --------------------------------------------------------------------------------------------------------


@jit
def later(order, pairs, first, steps):
    """Where the pairs of the expert begin that comes `steps` after the one whose pairs begin at `first`; or `pairs`."""
    for _ in range(steps):
        if first >= pairs:
            break
        first = get_i32(order + PAIR * first + STOP)
    return first


@jit
def weight_of(table, order, place):
    """The address of the weight of the expert that the pair at a place goes to."""
    return get_i64(table + 8 * get_i32(order + PAIR * place + EXPERT))


@jit
def row_of(bias, order, place, ldy):
    """The address of its bias; 0 for none."""
    return bias + get_i32(order + PAIR * place + EXPERT) * ldy if bias != 0 else 0


def each_expert(body: Callable, parts: Callable) -> Callable:
    """Share out the experts that have tokens, in `parts(row)` parts of their rows each.

    `body(row, context, thread, order, x, place, tokens, part, then, part_then)`: the pairs of the part's expert are
    `tokens` from `place` on; then, part_then: place and part of what the thread does next, taken so early that its
    weights can be fetched, or the same again where there is no more.
    """

    @jit
    def run(row, context, thread, order, x, pairs):
        order += own(context, thread) * pairs * PAIR
        split, item = parts(row), take(row, context, 1)
        place = later(order, pairs, 0, item // split)
        while place < pairs:
            following = take(row, context, 1)
            then = later(order, pairs, place, following // split - item // split)
            more, tokens = then < pairs, get_i32(order + PAIR * place + STOP) - place
            body(row, context, thread, order, x, place, tokens, item % split, then if more else place,
                 following % split if more else item % split)  # fmt: skip
            place, item = then, following

    return run


# -- the sum -----------------------------------------------------------------------------------------------------------


@jit
def combine(row, context, thread, t, tokens):
    """y[t] (+)= the sum of share * x[place] over the token's pairs (+ sigmoid(shared_gate[t]) * shared[t])."""
    top_k, ldx = at(row, COMBINE_TOP_K), at(row, COMBINE_LDX) * 4
    first = own(context, thread) * tokens * top_k + t * top_k
    shares, places = at(row, COMBINE_SHARES) + 4 * first, at(row, COMBINE_PLACES) + 4 * first
    y, shared, accumulate = at(row, COMBINE_Y) + t * ldx, at(row, SHARED), at(row, COMBINE_ADD)
    sigmoid = splat(F0)
    if shared != 0:
        gate = splat(get_f32(at(row, SHARED_GATE) + t * at(row, SHARED_LD) * 4))
        sigmoid = div(splat(F1), add(splat(F1), exp(sub(splat(F0), gate))))
    for i in range(0, ldx, 64):
        total = mul(sigmoid, load_f32(shared + t * ldx + i)) if shared != 0 else splat(F0)
        for j in range(top_k):
            x = at(row, COMBINE_X) + get_i32(places + 4 * j) * ldx
            total = fma(splat(get_f32(shares + 4 * j)), load_f32(x + i), total)
        store_f32(y + i, add(total, load_f32(y + i)) if accumulate != 0 else total)


KERNELS = {
    "route": lambda: route,
    "dispatch": lambda: dispatch,
    "combine": lambda: each_token(combine),
}
