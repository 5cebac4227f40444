"""Which words of a text made a classifier say what it says.

Its probability without each of them (arXiv:1612.08220), or how attention flows from them to what the head reads, layer
after layer (rollout, arXiv:2005.00928)."""

from __future__ import annotations

import html
import reprlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lepton_edge.errors import RequestError
from lepton_edge.generate.params import whole
from lepton_edge.tasks.classification import probabilities
from lepton_edge.tasks.texts import encode, fits, need_head, run
from lepton_edge.tasks.tracing import trace_ids
from lepton_edge.text.pairs import Encoded

if TYPE_CHECKING:
    from lepton_edge.tasks.mixin import Tasks

__all__ = ["METHODS", "explain", "page"]

METHODS = ("leave-one-out", "rollout")

Span = tuple[int, int, list[int]]  # first and last + 1 character, places of the tokens


def explain(
    model: Tasks, text: str, label: str | None, method: str, batch_size: int, progress: Any
) -> dict[str, Any]:  # fmt: skip
    """See `Tasks.explain`."""
    head = need_head(model, "classes", "explain")
    if method not in METHODS:
        raise RequestError(f"method is {reprlib.repr(method)}; expected 'leave-one-out' or 'rollout'")
    batch_size = whole("batch_size", batch_size, 1)
    if not isinstance(text, str):
        raise RequestError(f"text is {reprlib.repr(text)}; expected a string")
    if label is not None and label not in head.labels:
        raise RequestError(f"label is {reprlib.repr(label)}; expected one of {', '.join(head.labels[:20])}")
    found = fits(model, encode(model, text), "shorten it")
    whole_text = probabilities(model, np.stack(run(model, [found])))[0]
    i = int(whole_text.argmax()) if label is None else head.labels.index(label)
    words, weights = _words(found), list[float]()
    if method == "rollout":
        shares = rollout(model, found, head.pool)
        weights = [float(shares[places].sum()) for _, _, places in words]
    else:
        for start in range(0, len(words), batch_size):
            scores = _without(model, found, words[start : start + batch_size])
            weights += (whole_text[i] - scores[:, i]).tolist()
            if progress is not None:
                progress(len(weights), len(words))
    made = [{"word": text[first:last], "start": first, "end": last, "weight": weight}
            for (first, last, _), weight in zip(words, weights, strict=True)]  # fmt: skip
    return {"text": text, "label": head.labels[i], "score": float(whole_text[i]), "words": made}


def _without(model: Tasks, found: Encoded, words: Sequence[Span]) -> NDArray[np.float32]:
    """The labels' probabilities without each of the words, [words, labels]."""
    without = [found.take([at for at in range(len(found)) if at not in places]) for _, _, places in words]
    return probabilities(model, np.stack(_run_some(model, without)))


def rollout(model: Tasks, found: Encoded, pool: str) -> NDArray[np.float32]:
    """How much of what the head reads comes from each token: float32 [T], of the sum 1.

    A layer's output is thought of as half its input and half what its heads, which count alike, attend to.
    pool: the state that the head reads, see `Head`.
    """
    types = found.types if model.token_types else None
    layers = trace_ids(model, np.asarray(found.ids, np.int32), types, None, False, True).attentions
    if not layers:
        raise RequestError(f"{model.spec.family} models attend to nothing; expected method='leave-one-out'")
    shares: NDArray[np.float32] = np.full((1, len(found)), 1 / len(found), np.float32)
    if pool != "mean":
        shares = np.eye(len(found), dtype=np.float32)[-1 if pool == "last" else 0][None]
    for heads in reversed(layers):
        mixed = heads.mean(axis=0)
        shares = (shares + shares @ (mixed / mixed.sum(axis=1, keepdims=True))) / 2
    return shares[0]


def _run_some(model: Tasks, items: Sequence[Encoded]) -> list[Any]:
    if not all(len(item) for item in items):
        raise RequestError("the text is a single word, and nothing of it is left without that; expected a longer text")
    return run(model, items)


def _words(found: Encoded) -> list[Span]:
    """The words of a text, in order; tokens that are in no word stand alone."""
    spans: list[Span] = []
    last: int | None = None
    for i, owner in enumerate(found.texts):
        if owner is None:
            continue
        start, end = found.offsets[i]
        if spans and found.words[i] is not None and found.words[i] == last:
            first, before, places = spans[-1]
            spans[-1] = (first, max(before, end), [*places, i])
        else:
            spans.append((start, end, [i]))
        last = found.words[i]
    return spans


STYLE = "body{font:1.1em/2 sans-serif;max-width:45em;margin:2em auto}span{padding:.15em 0;border-radius:.2em}"


def page(explanations: Sequence[Mapping[str, Any]]) -> str:
    """An HTML page: words that speak for the label on green, those against it on red, the stronger the more."""
    parts = []
    for item in explanations:
        most = max((abs(word["weight"]) for word in item["words"]), default=0) or 1
        pieces, at = [], 0
        for word in item["words"]:
            pieces.append(html.escape(item["text"][at : word["start"]]))
            colour = "0,150,60" if word["weight"] > 0 else "210,40,40"
            shade = f"rgba({colour},{abs(word['weight']) / most:.2f})"
            pieces.append(
                f'<span style="background:{shade}" title="{word["weight"]:+.4f}">'
                f"{html.escape(item['text'][word['start'] : word['end']])}</span>"
            )
            at = word["end"]
        pieces.append(html.escape(item["text"][at:]))
        parts.append(f"<h2>{html.escape(item['label'])} {item['score']:.4f}</h2>\n<p>{''.join(pieces)}</p>")
    return (
        f'<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>lepton explain</title><style>{STYLE}</style></head>'
        f"\n<body>\n{chr(10).join(parts)}\n</body></html>\n"
    )
