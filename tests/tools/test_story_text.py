"""Tests of tools/story_text.py: cleaning, splitting and the restoration of capitals."""

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from story_text import CaseModel, base, key, load_stories, positions, repair, split_stories, usable  # noqa: E402

CASED = [
    f'Once upon a time, there was a {kind} named {name}. {name} liked to play.\n\n"I am {name}," said the {kind}. '
    f'"Do you want to play?" Mom said, "Yes, {name}." Then {name} and the {kind} went to the park. '
    "They were happy all day and they slept well."
    for kind in ("dog", "cat", "girl", "bird")
    for name in ("Tom", "Lily", "Ben", "Mia")
]


def test_repair_replaces_mojibake_and_spaces() -> None:
    assert repair("he said , â€œhiâ€ and donâ€™t  go.\n \nend,now") == 'he said, "hi" and don\'t go.\n\nend, now'


def test_repair_ends_a_story_with_a_full_stop_and_drops_a_doubled_one() -> None:
    assert repair('"go!".\n\nthe end') == '"go!"\n\nthe end.'
    assert repair("well... ok.") == "well... ok."


def test_split_takes_an_opening_line_as_a_new_story() -> None:
    assert split_stories("once a.\n\nb.\nonce c.\nonce d.") == ["once a.\n\nb.", "once c.", "once d."]


def test_split_joins_short_lines_as_paragraphs_and_parts_long_ones() -> None:
    assert split_stories("it was hot.\nlucy was out.") == ["it was hot.\n\nlucy was out."]
    long = "tom ran. " * 60
    assert split_stories(long + "x.\n" + long) == [long + "x.", long]


def test_usable_refuses_cut_foreign_and_unpaired_text() -> None:
    good = "tom ran. " * 30 + "end."
    assert usable(good)
    assert not usable(good + " and then")
    assert not usable(good + " é.")
    assert not usable(good + ' "oh.')
    assert not usable("tom ran.")


def test_key_ignores_case_and_punctuation() -> None:
    assert key("Tom's dog!") == key("toms  DOG") == "tomsdog"


def test_base_drops_the_possessive() -> None:
    assert base("Lily's") == "lily"
    assert base("It") == "it"


def test_positions_know_sentence_starts_and_quotes() -> None:
    kinds = [kind for _, kind in positions('tom ran. "go," he said, "up."\n\nend')]
    assert kinds == ["start", "in", 'open."', 'close,"', "in", 'open,"', "start"]


def test_case_model_restores_what_it_learned_and_new_names() -> None:
    model = CaseModel.train(CASED)
    for story in CASED:
        assert model.restore(story.lower()) == story
    new = CASED[0].replace("Tom", "Zara").replace("dog", "fox")
    assert model.restore(new.lower()) == new
    assert "I'm on TV" in model.restore("then i'm on tv.")


@given(st.text(alphabet="abi '\".,!?\n-", max_size=80))
def test_restore_changes_nothing_but_case(text: str) -> None:
    model = CaseModel({"k start": 1.0})
    assert model.restore(text).lower() == text


def test_load_stories_removes_copies_and_needs_cased_text() -> None:
    with pytest.raises(ValueError, match="no cased text"):
        load_stories([CASED[0].lower()])
    stories = load_stories(["\n".join(CASED), CASED[0].lower()])
    assert sorted(stories) == sorted(CASED)


@pytest.mark.slow
def test_capitals_of_unseen_stories_are_right(shared: Path) -> None:
    """On stories that were not learned from, at most one word in 200 has the wrong case."""
    text = (shared / "text" / "tinystories" / "tinystories_train_cased_0.9MB.txt").read_text(encoding="utf-8")
    stories = [s for s in map(repair, split_stories(text)) if s and usable(s)]
    cut = len(stories) * 4 // 5
    model = CaseModel.train(stories[:cut])
    pairs = [(a, b) for s in stories[cut:] for a, b in zip(s.split(), model.restore(s.lower()).split(), strict=True)]
    assert len(pairs) > 20000
    assert sum(a != b for a, b in pairs) < len(pairs) / 200
