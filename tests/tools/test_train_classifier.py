"""The rows, tokenizers and figures of tools/train_classifier.py; training itself needs torch and minutes."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import classifier_data  # noqa: E402
import make_risk_rows  # noqa: E402
from classifier_card import Figures, card, table  # noqa: E402
from classifier_data import fragment, key, split_rows  # noqa: E402
from train_classifier import RECIPES, train_tokenizer  # noqa: E402

FACTS = dict(layers=2, hidden=128, heads=4, feed_forward=256, length=192, epochs=3, seed=1, parameters=1, vocab=2,
             rows=3, cpu=4.2, reads="texts as they are")  # fmt: skip


def test_key_ignores_case_punctuation_and_the_values_of_numbers() -> None:
    assert key("Call 0906-170 NOW!!") == key("call 1-22, now") == "call 0 0 now"
    assert key("call now") != key("call me now")


def test_split_drops_duplicates_and_rows_whose_labels_differ() -> None:
    rows = [("a", "x 1"), ("a", "X 2!"), ("a", "y"), ("b", "Y"), ("b", "z")]
    parts = split_rows(rows, 0.0, 0.0)
    assert sorted(parts.train) == [("a", "x 1"), ("b", "z")] and parts.dev == parts.held == []


def test_split_keeps_the_shares_of_labels_and_is_the_same_each_time() -> None:
    rows = [("a" if i % 10 else "b", f"text {chr(97 + i // 26)}{chr(97 + i % 26)}") for i in range(400)]
    parts = split_rows(rows, 0.1, 0.2)
    assert [len(part) for part in parts] == [280, 40, 80]
    assert [sum(label == "b" for label, _ in part) for part in parts] == [28, 4, 8]
    assert sorted(parts.train + parts.dev + parts.held) == sorted(rows)
    assert split_rows(reversed(rows), 0.1, 0.2) == parts
    assert split_rows(rows, 0.1, 0.2, seed=1) != parts


def test_read_sms_names_the_line_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_text("ham\tHi you\nspam\t win \n", encoding="utf-8")
    assert classifier_data.read_sms(path) == [("ham", "Hi you"), ("spam", "win")]
    path.write_text("ham\tHi\nhum\tx\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"rows:2: 'hum\\tx'; expected 'ham' or 'spam', a tab and a message"):
        classifier_data.read_sms(path)


@pytest.mark.parametrize("name", ["sms_spam", "language_id"])
def test_no_held_out_text_is_trained_on(name: str, shared: Path) -> None:
    parts = RECIPES[name].rows(shared)
    train, dev, held = ({key(text) for _, text in part} for part in parts)
    assert len(held) > 900 and not held & (train | dev) and not train & dev
    assert {label for label, _ in parts.held} == set(RECIPES[name].labels)
    assert parts == RECIPES[name].rows(shared)


def test_fragment_is_neighbouring_words() -> None:
    rng, text = random.Random(3), "The quick brown fox jumps over the lazy dog at noon"
    made = [fragment(text, rng) for _ in range(200)]
    assert all(part.lower() in text.lower() for part in made)
    assert 70 < sum(part.lower() == text.lower() for part in made) < 130
    assert {len(part.split()) for part in made} == {2, 3, 4, 5, 6, 7, 8, 11}
    assert text.upper() in made and text.lower() in made


def test_risk_rows_are_seeded_distinct_and_balanced() -> None:
    parts = {part: make_risk_rows.rows(part) for part in make_risk_rows.PARTS}
    assert {part: len(rows) for part, rows in parts.items()} == make_risk_rows.COUNTS
    assert parts["dev"] == make_risk_rows.rows("dev")
    texts = [text for rows in parts.values() for _, text in rows]
    assert len(set(texts)) == len(texts)
    assert not any(make_risk_rows.EXAMPLE in text for text in texts)
    assert all(sum(label == "risk" for label, _ in rows) == len(rows) // 2 for rows in parts.values())
    assert not any(mark in text for mark in "{}" for text in texts)
    with pytest.raises(ValueError, match="part is 'test'; expected one of train, dev, known, held"):
        make_risk_rows.rows("test")


def test_every_held_out_risk_row_has_a_statement_that_training_lacks() -> None:
    titles = ("signs", "states that are signs", "ordinary", "ordinary states")
    new = [s.split("{")[0] for title in titles for s in make_risk_rows.LISTS[title][make_risk_rows.EVERY - 1 :: 4]]
    new = [s for s in new if len(s) > 2]
    assert all(any(s in text for s in new) for _, text in make_risk_rows.rows("held"))
    others = [text for part in ("train", "dev", "known") for _, text in make_risk_rows.rows(part)]
    assert not any(s in text for s in new for text in others)


def test_risk_labels_follow_from_what_is_said() -> None:
    signs = ("参与网络赌博充值", "存在洗钱嫌疑", "担保人失联")
    for label, text in make_risk_rows.rows("train"):
        calm = any(word in text for word in ("未", "没有", "不存在", "并无", "从未"))
        explained = any(remark in text for remark in make_risk_rows.LISTS["explanations"])
        if explained or (any(sign in text for sign in signs) and not calm):
            assert label == ("normal" if explained else "risk"), text
        if any(end in text for end in make_risk_rows.LISTS["no risk, at the end"]):
            assert label == "normal", text


def test_tokenizers_read_any_text() -> None:
    texts = ["call 0906 now to win", "please call me now"] * 5
    tokenizer = train_tokenizer(texts, RECIPES["sms_spam"])
    assert tokenizer.encode("call 0906 now").ids == tokenizer.encode("call 1234 now").ids
    assert tokenizer.encode("now").tokens == ["[CLS]", "Ġnow", "[SEP]"]
    unseen = tokenizer.encode("ꙮ🦔").ids
    assert len(unseen) == 2 + 1 + 3 + 4 and None not in unseen
    pair = tokenizer.encode("now", "now")
    assert pair.tokens == ["[CLS]", "Ġnow", "[SEP]", "Ġnow", "[SEP]"] and pair.type_ids == [0, 0, 0, 1, 1]


def test_chinese_characters_are_words() -> None:
    tokenizer = train_tokenizer(["异地登录风险"] * 5, RECIPES["financial_risk_detection"])
    assert len(tokenizer.encode("登录风险").ids) == 4 + 2
    assert len(tokenizer.encode("险").ids) == 1 + 2


def test_figures_and_their_table() -> None:
    figures = Figures(("ham", "spam"), np.array([[90, 2], [1, 7]]))
    assert (figures.rows, figures.accuracy) == (100, 0.97)
    assert figures.recall(1) == 7 / 8 and figures.precision(1) == 7 / 9
    lines = table({"held-out messages": figures}).splitlines()
    assert "| held-out messages | 100 | 0.9700 | 3 |" in lines
    assert "| spam | 8 | 0.8750 | 0.7778 |" in lines


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_cards_can_be_filled_in(name: str) -> None:
    labels = RECIPES[name].labels
    figures = Figures(labels, np.eye(len(labels), dtype=np.int64))
    text = card(name, FACTS, {"held-out rows": figures}, figures, 1234)
    assert f"# {name}" in text and "1,234 bytes" in text and "| held-out rows |" in text
    assert "demonstration" in text or name != "financial_risk_detection"
