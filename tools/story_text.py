"""Clean the TinyStories text: split it into stories, repair characters, restore upper case.

Most of the text is lower-cased. Where capitals go is learned from the cased part with an averaged perceptron
(Collins 2002) over the word, its neighbours, the punctuation before it and how the word is used in the whole story.
"""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

# UTF-8 punctuation that was once decoded as Windows-1252; the longest forms come first.
MOJIBAKE = (
    ("â€œ", '"'), ("â€˜", "'"), ("â€™", "'"), ("â€¦", "..."), ("â€“", " - "), ("â€”", " - "), ("â€", '"'),
    ("“", '"'), ("”", '"'), ("‘", "'"), ("’", "'"), ("…", "..."), ("–", " - "), ("—", " - "),
)  # fmt: skip
OPENING = re.compile(r"(once\b|there (was|were|once)\b)", re.IGNORECASE)
WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*")
NAMING = re.compile(r"\b(?:named|called|name was|name is|names were)\s+\"?([a-z]+)(?: and ([a-z]+))?", re.IGNORECASE)
DETERMINERS = frozenset(
    {"a", "an", "the", "his", "her", "their", "my", "your", "our", "its"}
    | {"this", "that", "some", "any", "every", "no", "each"}
)
ENOUGH = 400  # characters that a text needs before it counts as a story of its own


def repair(text: str) -> str:
    """`text` with plain ASCII punctuation, paragraphs parted by one blank line and single spaces elsewhere."""
    for wrong, right in MOJIBAKE:
        text = text.replace(wrong, right)
    paragraphs = []
    for paragraph in re.split(r"\s*\n\s*", text.strip()):
        paragraph = re.sub(r"\s+", " ", paragraph)
        paragraph = re.sub(r" +([,.!?;:])", r"\1", paragraph)
        paragraph = re.sub(r"([a-z][,;!?])(?=[A-Za-z])", r"\1 ", paragraph)
        paragraph = re.sub(r"([.!?])([.!?,])(?![.])(?<![.][.])", r"\1", paragraph)
        paragraph = re.sub(r"([.!?]\")\.(?!\.)", r"\1", paragraph)
        paragraphs.append(paragraph.strip())
    story = "\n\n".join(p for p in paragraphs if p)
    return story + "." if story.lower().endswith("the end") else story


def split_stories(text: str) -> list[str]:
    """The stories of a file in which a single line break ends a story and a blank line ends a paragraph.

    Some stories use single line breaks between paragraphs too: a break counts as the end of a story only before a
    line that opens one ("Once…"), or when the text on both sides is long enough and no blank ends the line.
    """
    stories: list[str] = []
    for block in re.split(r"(?<!\n)\n(?!\s*\n)", text.replace("\r\n", "\n")):
        new = not stories or OPENING.match(block.strip()) is not None
        if not new and not stories[-1].endswith(" "):
            new = len(stories[-1]) >= ENOUGH and len(block) >= ENOUGH
        if new:
            stories.append(block)
        else:
            stories[-1] += "\n\n" + block
    return stories


def usable(story: str) -> bool:
    """Whether a repaired story is ASCII, complete, of a fair length, and has its quotes in pairs."""
    paired = all(paragraph.count('"') % 2 == 0 for paragraph in story.split("\n\n"))
    return story.isascii() and 200 <= len(story) <= 3000 and story[-1] in '.!?"' and paired


def key(story: str) -> str:
    """What two copies of a story have in common: its letters, lower-cased."""
    return re.sub(r"[^a-z]", "", story.lower())


@dataclass(frozen=True)
class Usage:
    """How one lower-cased story uses its words: names given, occurrences, and occurrences after a determiner."""

    named: frozenset[str]
    count: Counter[str]
    determined: Counter[str]

    @classmethod
    def of(cls, story: str) -> Usage:
        words = [base(m.group()) for m in WORD.finditer(story)]
        named = {name for match in NAMING.findall(story) for name in match if name} - DETERMINERS
        determined = Counter(w for before, w in itertools.pairwise(words) if before in DETERMINERS)
        return cls(frozenset(named), Counter(words), determined)


def base(word: str) -> str:
    """The lower-cased word without a possessive ending."""
    return word.lower().removesuffix("'s")


def positions(story: str) -> Iterator[tuple[re.Match[str], str]]:
    """Each word of a story and the kind of place it has: "start", "quote,", "after.", "plain" and so on."""
    opened, end = False, 0
    for match in WORD.finditer(story):
        gap = story[end : match.start()]
        if end == 0 or "\n" in gap:
            opened, kind = '"' in gap, "start"
        elif '"' in gap:
            opened = not opened if gap.count('"') % 2 else opened
            mark = re.sub(r"\s", "", gap)
            kind = ("open" if opened else "close") + mark
        else:
            kind = "in" + re.sub(r"\s", "", gap) + ("q" if opened and gap.strip() else "")
        end = match.end()
        yield match, kind


def features(story: str) -> Iterator[tuple[re.Match[str], list[str]]]:
    """Each word of a lower-cased story with the names of its features; the first three name the word itself."""
    usage = Usage.of(story)
    places = list(positions(story))
    words = [base(match.group()) for match, _ in places]
    for i, (match, kind) in enumerate(places):
        word = words[i]
        before = words[i - 1] if i else "<s>"
        after = words[i + 1] if i + 1 < len(words) else "</s>"
        mark = story[match.end() : match.end() + 1].strip() or "_"
        how = f"{word in usage.named}{min(usage.count[word], 3)}{usage.determined[word] > 0}"
        yield match, [
            f"w {word}", f"wk {word} {kind}", f"wb {word} {before}", f"wa {word} {after}", f"wh {word} {how}",
            f"k {kind}", f"kb {kind} {before}", f"ka {kind} {after}", f"ba {before} {after}", f"h {how}",
            f"hk {how} {kind}", f"hb {how} {before}", f"ha {how} {after}", f"b {before}", f"a {after}",
            f"s {word[-3:]}", f"p {match.group() != word} {mark} {kind[:2]}", f"d {before in DETERMINERS}",
        ]  # fmt: skip


LEXICAL = 5  # the leading features that name the word
ABBREVIATIONS = {"ok": "OK", "tv": "TV"}


@dataclass
class CaseModel:
    """Decides which words of a lower-cased story begin with a capital. `weights` has "w WORD" for every word seen."""

    weights: dict[str, float] = field(default_factory=dict)

    @classmethod
    def train(cls, stories: Iterable[str], epochs: int = 4, seed: int = 0) -> CaseModel:
        """Learns from cased stories. A fifth of the words is shown without its identity, as a new name would be."""
        rng = random.Random(seed)
        examples = []
        for story in stories:
            for match, names in features(story.lower()):
                examples.append((names, story[match.start()].isupper()))
        weights: dict[str, float] = defaultdict(float)
        totals: dict[str, float] = defaultdict(float)
        step = 0
        for _ in range(epochs):
            rng.shuffle(examples)
            for names, upper in examples:
                step += 1
                shown = names[LEXICAL:] if rng.random() < 0.2 else names
                if (sum(weights.get(name, 0.0) for name in shown) > 0) != upper:
                    change = 1.0 if upper else -1.0
                    for name in shown:
                        weights[name] += change
                        totals[name] += change * step
        mean = {name: w - totals[name] / step for name, w in weights.items()}
        seen = {names[0]: 0.0 for names, _ in examples}
        return cls(seen | mean)

    def restore(self, story: str) -> str:
        """The lower-cased, repaired `story` with its capitals.

        A word that the cased text never showed is decided once for the whole story, outside sentence starts.
        """
        scored = [(match, self._score(names), f"w {base(match.group())}") for match, names in features(story)]
        shared: dict[str, float] = defaultdict(float)
        for _, score, name in scored:
            if name not in self.weights:
                shared[name] += score
        out, end = [], 0
        for match, score, name in scored:
            word = match.group()
            upper = score > 0 or shared.get(name, 0.0) > 0 or word.split("'")[0] == "i"
            cased = ABBREVIATIONS.get(word) or (word[0].upper() + word[1:] if upper else word)
            out += [story[end : match.start()], cased]
            end = match.end()
        return "".join(out) + story[end:]

    def _score(self, names: list[str]) -> float:
        return sum(self.weights.get(name, 0.0) for name in names)


def load_stories(texts: Iterable[str]) -> list[str]:
    """The distinct usable stories of several files' texts, cased; lower-cased ones are restored.

    A file counts as lower-cased when it has no capital at all; at least one file must be cased.
    """
    cased: dict[str, str] = {}
    lowered: dict[str, str] = {}
    for text in texts:
        target = lowered if text == text.lower() else cased
        for story in map(repair, split_stories(text)):
            if story and usable(story):
                target.setdefault(key(story), story)
    if not cased:
        raise ValueError("no cased text to learn capitals from: expected at least one file with upper-case letters")
    model = CaseModel.train(cased.values())
    restored = (model.restore(story) for name, story in lowered.items() if name not in cased)
    return [*cased.values(), *restored]
