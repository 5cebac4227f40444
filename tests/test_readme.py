"""The README's commands and example are the ones that work."""

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


def test_the_example_runs() -> None:
    (example,) = blocks("python")
    assert len(example.strip().split("\n")) <= 12
    result = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert re.search(r"\(3, \d+\) \[\d+", result.stdout)
    assert len(result.stdout) > 300


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
