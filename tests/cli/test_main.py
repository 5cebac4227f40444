"""Exit codes and error lines, whatever the verb."""

import os
import subprocess
import sys

import pytest

from lepton_edge.cli import generate, main
from lepton_edge.errors import CheckpointError
from lepton_edge.version import __version__


def lepton(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "lepton_edge", *arguments], capture_output=True, text=True, **options)


@pytest.fixture
def failing(monkeypatch):
    """Makes `generate` raise the given error."""

    def install(error: BaseException) -> None:
        def run(arguments):
            raise error

        monkeypatch.setattr(generate, "run", run)

    return install


def test_version_and_help() -> None:
    assert lepton("--version").stdout == f"lepton {__version__}\n"
    text = lepton("--help").stdout
    for verb in ("generate", "quantize", "bench", "inspect", "doctor"):
        assert verb in text
        assert lepton(verb, "--help").stdout.startswith(f"usage: lepton {verb}")
    assert max(map(len, text.split("\n"))) <= 80


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from lepton_edge.cli import main\n"
        "try: main(['--help'])\n"
        "finally: print({'numpy', 'numba', 'llvmlite', 'tokenizers'} & set(sys.modules), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr == "set()\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "VERB"),
        (["chatter"], "chatter"),
        (["generate"], "PROMPT"),
        (["generate", "x", "-n", "many"], "many"),
        (["bench", "--shape", "giant"], "smollm2-135m"),
        (["quantize", "a"], "DST"),
        (["inspect"], "MODEL"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(arguments: list[str], said: str) -> None:
    result = lepton(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("lepton: error: ")
    assert result.stderr.count("\n") == 1
    assert said in result.stderr


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (CheckpointError("m/x.safetensors: cut\noff; expected 9 bytes"), "m/x.safetensors: cut off; expected 9 bytes"),
        (FileNotFoundError(2, "No such file or directory", "m/a"), "m/a: No such file or directory"),
        (OSError("disk is full"), "disk is full"),
        (MemoryError("9 GB"), "out of memory (9 GB); use a smaller model, format or context"),
        (KeyError("x"), "a bug in lepton: KeyError: 'x'; please report it with what --debug shows"),
    ],
)
def test_every_error_is_one_line(failing, capsys, error: Exception, line: str) -> None:
    failing(error)
    assert main(["generate", "x"]) == 2
    assert capsys.readouterr().err == f"lepton: error: {line}\n"


@pytest.mark.parametrize("arguments", [["--debug", "generate", "x"], ["generate", "x", "--debug"]])
def test_debug_shows_the_traceback(failing, capsys, arguments: list[str]) -> None:
    failing(CheckpointError("cut"))
    assert main(arguments) == 2
    lines = capsys.readouterr().err.split("\n")
    assert lines[0].startswith("Traceback")
    assert lines[-2] == "lepton: error: cut"


def test_interrupts_are_quiet(failing, capsys) -> None:
    failing(KeyboardInterrupt())
    assert main(["generate", "x"]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(os.name == "nt", reason="Windows reports a closed pipe differently")
def test_a_closed_pipe_is_quiet() -> None:
    code = (
        "import sys, time; from lepton_edge.cli import generate, main\n"
        "def run(arguments):\n"
        "    while True: print('x' * 1000, flush=True)\n"
        "generate.run = run\n"
        "sys.exit(main(['generate', 'x']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(1000)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=30) == 141


def test_a_narrow_terminal_gets_question_marks(failing) -> None:
    result = lepton("no\u2192where", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert result.returncode == 2
    assert "no?where" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows does not count what children used")
def test_help_is_quick() -> None:
    """In CPU time, beyond that of Python itself: other processes may take turns with it."""
    best = min(_seconds("-m", "lepton_edge", "--help") - _seconds("-c", "pass") for _ in range(3))
    assert best < 0.2


def _seconds(*arguments: str) -> float:
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
