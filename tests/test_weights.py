"""The embedded models: each loads, is small, has a card, and gives plain sentences the label that they have."""

import json
from collections.abc import Iterator

import numpy as np
import pytest

import lepton_edge
from lepton_edge import embedded

CLASSIFIERS = ("financial_risk_detection", "language_id", "sms_spam")
LIMIT = 4_000_000  # bytes of a folder
SENTENCES = {
    "sms_spam": [
        ("ham", "Are we still meeting for lunch tomorrow? I will be a bit late."),
        ("ham", "Ok, call me when you get home"),
        ("ham", "Happy birthday! Have a great day with your family"),
        ("spam", "WINNER!! You have been selected to receive a £900 prize. Call 09061701461 now to claim."),
        ("spam", "FREE ringtone! Text TONE to 87021 now. 150p/msg, to stop send STOP"),
        ("spam", "URGENT! Your mobile number has won a £2000 bonus. Claim code K52. Call 09058094597"),
    ],
    "language_id": [
        ("de", "Ich habe gestern ein neues Fahrrad gekauft."),
        ("de", "wo ist der bahnhof"),
        ("en", "Could you please send me the report by Friday?"),
        ("en", "where is the train station"),
        ("es", "El perro duerme debajo de la mesa."),
        ("es", "¿dónde está la estación?"),
        ("fr", "Nous irons à la plage s'il fait beau."),
        ("fr", "où est la gare"),
    ],
    "financial_risk_detection": [
        ("risk", "张三最近频繁异地登录，消费金额波动较大，可能存在风险"),
        ("risk", "客户近期多次向陌生账户转账，资金来源无法说明。"),
        ("risk", "借款人贷款已逾期90天，担保人失联"),
        ("normal", "李娜按时还款，信用记录良好。"),
        ("normal", "该用户本月领取工资，账户余额充足，一切正常"),
        ("normal", "系统未检测到异地登录，交易记录正常。"),
    ],
}


@pytest.fixture(scope="module", params=CLASSIFIERS)
def model(request: pytest.FixtureRequest) -> Iterator[lepton_edge.Model]:
    with lepton_edge.load(request.param, threads=1) as found:
        yield found


def labels(model: lepton_edge.Model, texts: list[str]) -> list[str]:
    scores = model.run([model.tokenizer.encode(text) for text in texts])
    assert all(np.isfinite(row).all() and row.shape == (len(model.spec.head.labels),) for row in scores)
    return [model.spec.head.labels[row.argmax()] for row in scores]


def test_these_are_embedded_and_stories_is_the_default() -> None:
    assert embedded.names() == sorted([*CLASSIFIERS, "stories"])
    assert embedded.model_folder(None).name == "stories"


@pytest.mark.parametrize("name", [*CLASSIFIERS, "stories"])
def test_each_has_a_card(name: str) -> None:
    card = (embedded.model_folder(name) / "README.md").read_text(encoding="utf-8")
    assert f"\n# {name}\n" in card and "\nlicense: " in card
    assert "\n## Data and licence\n" in card and "\n## Limits\n" in card and "held-out" in card
    assert "{" not in card.replace("inference({", "")  # no blank of the template is left


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_card_has_the_figures_that_are_asked_for(name: str) -> None:
    card = (embedded.model_folder(name) / "README.md").read_text(encoding="utf-8")
    row = next(line for line in card.splitlines() if line.startswith("| held-out"))
    wanted = {"sms_spam": 0.985, "language_id": 0.97, "financial_risk_detection": 0.8}
    assert float(row.split("|")[3]) >= wanted[name]
    assert f"measure {name}" in card


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_each_is_small_and_packed(name: str) -> None:
    files = {path.name: path.stat().st_size for path in embedded.model_folder(name).iterdir()}
    assert set(files) == {"README.md", "config.json", "lepton.json", "model.safetensors", "tokenizer.json",
                          "tokenizer_config.json"}  # fmt: skip
    assert sum(files.values()) <= LIMIT


def test_the_packed_format_is_q8(model: lepton_edge.Model) -> None:
    assert model.format == "q8" and model.spec.family == "bert" and model.context == 512


def test_plain_sentences_get_their_label(model: lepton_edge.Model) -> None:
    rows = SENTENCES[model.folder.name]
    assert labels(model, [text for _, text in rows]) == [label for label, _ in rows]


@pytest.mark.parametrize("unseen", ["🦔", "ꙮ"])
def test_a_character_it_never_saw_does_not_hide_the_rest(model: lepton_edge.Model, unseen: str) -> None:
    rows = SENTENCES[model.folder.name]
    assert labels(model, [f"{text} {unseen}" for _, text in rows]) == [label for label, _ in rows]


def test_a_text_as_long_as_the_context_is_read(model: lepton_edge.Model) -> None:
    """The cards say that repeated text can mislead; one sentence of language_id does, from its eighth copy on."""
    wrong = []
    for label, text in SENTENCES[model.folder.name]:
        ids = model.tokenizer.encode(" ".join([text] * 100))
        scores = model.run([ids[: model.context - 1] + ids[-1:]])[0]
        if model.spec.head.labels[scores.argmax()] != label:
            wrong.append(text)
    assert wrong == (["El perro duerme debajo de la mesa."] if model.folder.name == "language_id" else [])


def test_the_answers_of_lepton_json_name_labels_of_the_model(model: lepton_edge.Model) -> None:
    about = json.loads((model.folder / "lepton.json").read_text(encoding="utf-8"))
    assert about["version"] == 1 and about["task"] == "classify" and about["truncate"] is True
    assert {field["label"] for field in about["fields"].values() if "label" in field} <= set(model.spec.head.labels)


def test_the_risk_model_answers_with_score_and_probability() -> None:
    about = json.loads((embedded.model_folder("financial_risk_detection") / "lepton.json").read_text(encoding="utf-8"))
    assert about["fields"]["risk_score"] == {"value": "probability", "label": "risk", "scale": 100, "digits": 1}
    assert about["fields"]["risk_probability"] == {"value": "probability", "label": "risk", "digits": 4}
    assert about.get("text", "text") == "text" and about.get("pass", True) is True
