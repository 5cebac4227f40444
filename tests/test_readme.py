"""The README's commands and example are the ones that work."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_two_commands_stand_alone_and_ci_finds_the_second() -> None:
    commands = blocks("sh")[0].strip().split("\n")
    assert len(commands) == 2
    assert all(re.match(r"python3 -m venv \S+ && ", command) for command in commands)
    assert commands[0].endswith('lepton generate "Once upon a time"')
    pattern = re.search(r"grep -m 1 -E '(.*?)' README.md", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert pattern is not None
    found = [line for line in README.split("\n") if re.search(pattern[1], line)]
    assert found == [commands[1]]


def said(example: str) -> str:
    """What an example of the README prints; the first is of decoders, the second of tasks."""
    assert len(example.strip().split("\n")) <= 12
    result = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, timeout=300,
                            env={**os.environ, "PYTHONUTF8": "1"})  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout.decode()


def test_the_first_example_runs() -> None:
    printed = said(blocks("python")[0])
    assert re.search(r"\(3, \d+\) \[\d+", printed)
    assert len(printed) > 300


def test_the_example_of_tasks_runs() -> None:
    _, example = blocks("python")
    languages, answer = said(example).strip().split("\n")
    assert re.findall("'label': '(..)'", languages) == ["de", "es"]
    assert "'customer_id': '123456'" in answer and "'risk_level': 'high'" in answer


def test_the_table_of_families_is_that_of_the_code() -> None:
    result = subprocess.run([sys.executable, "tools/family_table.py", "--check"], cwd=ROOT, timeout=60)
    assert result.returncode == 0, "run `python tools/family_table.py`"


def test_the_family_of_the_docs_runs(tmp_path: Path) -> None:
    """The worked example of docs/extending.md, and a folder of its kind that the program then runs."""
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(# nano\.py\n.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(example.splitlines()) < 60
    (tmp_path / "nano.py").write_text(example, encoding="utf-8")
    result = subprocess.run([sys.executable, "nano.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300,
                            env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"\(5, 50\) True\n", result.stdout)


def test_every_verb_is_explained() -> None:
    from lepton_edge.cli.main import VERBS

    for verb in VERBS:
        assert f"`lepton {verb} " in README or f"`lepton {verb}`" in README


def test_links_lead_somewhere() -> None:
    for file in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", file.read_text(encoding="utf-8")):
            assert (file.parent / link).exists(), f"{file.name}: {link}"


def test_the_files_that_the_documents_name_exist() -> None:
    for file in (ROOT / "docs" / "architecture.md", ROOT / "docs" / "extending.md"):
        text = file.read_text(encoding="utf-8")
        for name in re.findall(r"`([a-z_]+(?:/[a-z0-9_]+)*/[a-z0-9_]+\.(?:py|md|npz))`", text):
            if "yours" not in name:
                assert (ROOT / name).exists() or (ROOT / "lepton_edge" / name).exists(), f"{file.name}: {name}"
