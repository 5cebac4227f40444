"""Write Chinese sentences about bank customers, labelled `risk` or `normal`, for the demonstration model.

    python tools/make_risk_rows.py [--part train|dev|known|held] > rows.tsv

Nothing here is data about anybody: names, amounts and sentences are drawn with a fixed seed from the lists of
risk_statements.txt. A sentence joins who, when, one to three statements and often a closing remark. It is `risk` when a
statement reports a sign of fraud or of trouble to pay, and nothing says that it was explained; it is `normal` when all
statements are ordinary, when a sign is denied ("未发现异地登录") or when it was looked into and explained
("经核实为本人出差").
Every fourth statement of each list is kept for the part `held`, which has one such statement in each sentence, so that
its figures are about statements that training has not seen; `known` has new sentences of the statements of training.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

__all__ = ["COUNTS", "EXAMPLE", "PARTS", "main", "rows"]


def read_lists(path: Path) -> dict[str, list[str]]:
    """The lists of a file: a title in brackets, then words with spaces between them."""
    lists: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            lists[line.strip("[]")] = words = []
        else:
            words.extend(line.split())
    return lists


COUNTS = {"train": 6000, "dev": 600, "known": 1200, "held": 1200}
PARTS = tuple(COUNTS)
SEED = 7
EVERY = 4  # of the statements of a list, one is held out

SURNAMES = "王李张刘陈杨黄赵周吴徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘蒋蔡余"
LISTS = read_lists(Path(__file__).with_name("risk_statements.txt"))
EXAMPLE = "张三最近频繁异地登录，消费金额波动较大，可能存在风险"  # of the documentation; in no part
COMMAS = ["，", "，", "，", "，并且", "，同时", "，而且", "；"]


def rows(part: str) -> list[tuple[str, str]]:
    """(label, text) of a part of `PARTS`: the same ones each time, no text twice, labels in equal shares."""
    if part not in COUNTS:
        raise ValueError(f"part is {part!r}; expected one of {', '.join(PARTS)}")
    earlier = {EXAMPLE} | {text for p in PARTS[: PARTS.index(part)] for _, text in rows(p)}
    rng = random.Random(f"{SEED} {part}")
    found: dict[str, str] = {}
    while len(found) < COUNTS[part]:
        label = ("normal", "risk")[len(found) % 2]
        text = _text(label, part, rng)
        if text.rstrip("。！") not in earlier and text not in earlier:
            found.setdefault(text, label)
    return [(label, text) for text, label in found.items()]


def _text(label: str, part: str, rng: random.Random) -> str:
    """A sentence; of a held-out one the first statement is new to training."""
    known, own = "train", part
    if label == "risk":
        parts = [_sign(own, rng)]
        for _ in range(rng.choice([0, 1, 1, 2])):
            other = rng.choice(
                ["states that are signs", "states that are signs", "signs", "ordinary states", "denials"]
            )
            parts.append(_denied(known, rng) if other == "denials" else _pick(other, known, rng))
        if rng.random() < 0.3:
            rng.shuffle(parts)
        end = rng.choice(LISTS["risk, at the end"])
    else:
        kind = rng.random()
        if kind < 0.55:
            parts = [_pick(rng.choice(["ordinary", "ordinary states"]), own, rng)]
        elif kind < 0.8:
            parts = [_denied(own, rng)]
        else:
            parts = [_sign(own, rng), rng.choice(LISTS["explanations"])]
        for _ in range(rng.choice([0, 1, 1, 2])):
            parts.append(_pick(rng.choice(["ordinary", "ordinary states"]), known, rng))
        end = rng.choice(LISTS["no risk, at the end"])
    return _joined(parts + [end] * (rng.random() < 0.5), rng)


def _pick(title: str, part: str, rng: random.Random) -> str:
    """One statement of a list, of those that belong to a part, its blanks filled in."""
    held = part == "held"
    text = rng.choice([s for i, s in enumerate(LISTS[title]) if (i % EVERY == EVERY - 1) == held])
    return (
        text.replace("{city}", rng.choice(LISTS["cities"]))
        .replace("{money}", str(rng.randint(2, 99) * rng.choice([1000, 5000, 10000])))
        .replace("{small}", str(rng.randint(5, 900)))
        .replace("{days}", str(rng.randint(3, 180)))
    )


def _sign(part: str, rng: random.Random) -> str:
    if rng.random() < 0.6:
        return rng.choice(["", *LISTS["how often"]]) + _pick("signs", part, rng)
    return _pick("states that are signs", part, rng)


def _denied(part: str, rng: random.Random) -> str:
    return rng.choice(LISTS["denials"]).replace("{sign}", _pick("signs", part, rng))


def _joined(parts: list[str], rng: random.Random) -> str:
    who = rng.choice(SURNAMES) + rng.choice(LISTS["given"]) if rng.random() < 0.6 else rng.choice([*LISTS["who"], ""])
    when = rng.choice(["", *LISTS["when"]])
    text = who + when + parts[0] if rng.random() < 0.8 or not who else when + "，" * bool(when) + who + parts[0]
    for part in parts[1:]:
        text += rng.choice(COMMAS) + part
    return text + rng.choice(["", "。", "。", "！"])


def main() -> None:
    """Prints the rows of a part: label, tab, text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, default="train")
    for label, text in rows(parser.parse_args().part):
        print(f"{label}\t{text}")


if __name__ == "__main__":
    main()
