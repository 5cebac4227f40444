"""Run the contract tests on an emulated ARM CPU, where there is no real one.

    python tools/arm_under_qemu.py [--folder FOLDER] [--cpu CPU] [PYTEST ARGUMENT …]

Without such arguments: tests/kernels on every instruction set that the CPU has, then tests/models on those of ARM.
tests/kernels/test_library.py, which is about the cache and compiles for seven minutes there, is left out.
Needs an x86 Debian with qemu-user-static, network the first time, and an environment with numba and pip.

An arm64 Python and the wheels of this environment's versions go into FOLDER.  The kernels are cross-compiled here,
into the cache that the arm64 Python looks in: Numba runs there only for the tests of single words.
"""

import argparse
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from lepton_edge.kernels.library import cache_folder  # noqa: E402
from lepton_edge.kernels.ops import OPS, PROBES  # noqa: E402

SUITE, PYTHON = "bookworm", "3.11"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
PACKAGES = (f"python{PYTHON}", "libstdc++6")
SAME = ("numpy", "numba", "llvmlite")  # the kernels' cache is keyed by two of these versions
WHEELS = ("pytest", "hypothesis", "tokenizers", "safetensors")
PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_26", "manylinux_2_27", "manylinux_2_28")
ARM_SETS = ("neon", "i8mm")
NOT_HERE = "--ignore=tests/kernels/test_library.py"


class Emulator:
    """An arm64 Python in a folder, and how to run it."""

    def __init__(self, folder: Path, cpu: str) -> None:
        self.folder, self.cpu, self.root = folder, cpu, folder / "root"
        self.packages = self.root / "usr/lib/python3/dist-packages"
        self.python = folder / f"python-{cpu}"

    def install(self) -> None:
        """Fetch what is missing; a folder that was filled only in part is filled again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        done = self.folder / "installed"
        wanted = " ".join((SUITE, *PACKAGES, *self.requirements()))
        if not done.exists() or done.read_text() != wanted:
            self.fetch_debian()
            self.fetch_wheels()
            done.write_text(wanted)
        self.python.write_text(f'#!/bin/sh\nexec qemu-aarch64-static -cpu {self.cpu} -L "{self.root}" '
                               f'"{self.root}/usr/bin/python{PYTHON}" "$@"\n')  # fmt: skip
        self.python.chmod(0o755)
        # The kernel does not start arm64 programs: processes that tests start must go through the script as well.
        line = 'import os, sys; sys.executable = os.environ.get("LEPTON_ARM_PYTHON", sys.executable)\n'
        (self.packages / "lepton_arm.pth").write_text(line)

    def requirements(self) -> list[str]:
        return [*(f"{name}=={version(name)}" for name in SAME), *WHEELS]

    def fetch_debian(self) -> None:
        """Debian's arm64 packages, with their dependencies, by an apt that knows of nothing on this machine."""
        apt = self.folder / "apt"
        for part in ("state/lists/partial", "cache/archives/partial"):
            (apt / part).mkdir(parents=True, exist_ok=True)
        source = f"deb [signed-by={KEYRING}] http://deb.debian.org/debian {SUITE} main\n"
        (apt / "sources.list").write_text(source)
        settings = {
            "APT::Architecture": "arm64", "APT::Architectures": "arm64", "Dir::State": apt / "state",
            "Dir::State::status": "/dev/null", "Dir::Cache": apt / "cache",
            "Dir::Etc::sourcelist": apt / "sources.list", "Dir::Etc::sourceparts": "-",
        }  # fmt: skip
        get = ["apt-get", "-q", "-y", *(f"-o{name}={value}" for name, value in settings.items())]
        subprocess.run([*get, "update"], check=True)
        subprocess.run([*get, "install", "--download-only", "--no-install-recommends", *PACKAGES], check=True)
        for package in sorted((apt / "cache/archives").glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", package, self.root], check=True)

    def fetch_wheels(self) -> None:
        tags = [option for platform in PLATFORMS for option in ("--platform", f"{platform}_aarch64")]
        pip = [sys.executable, "-m", "pip", "install", "-q", "--upgrade", "--target", self.packages]
        kind = ["--python-version", PYTHON, "--only-binary=:all:", *tags]
        subprocess.run([*pip, *kind, *self.requirements()], check=True)

    def environment(self, **more: str) -> dict[str, str]:
        kernels = {"LEPTON_CACHE": str(self.folder / "kernels"), "LEPTON_ARM_PYTHON": str(self.python)}
        return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | kernels | more

    def ask(self, code: str) -> list[str]:
        """The lines that a piece of Python prints there."""
        command, environment = [self.python, "-c", code], self.environment()
        run = subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        return run.stdout.splitlines()

    def test(self, *arguments: str, **more: str) -> str:
        """Runs pytest, showing what it prints; -> its last line, which counts the tests."""
        command = [self.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        pipe = subprocess.PIPE
        last = ""
        with subprocess.Popen(command, cwd=REPOSITORY, env=self.environment(**more), stdout=pipe, text=True) as run:
            assert run.stdout is not None
            for line in run.stdout:
                print(line, end="", flush=True)
                last = line.strip() or last
        return f"{last} (exit code {run.returncode})"


def cross_compile(emulator: Emulator) -> list[str]:
    """All kernels of every instruction set that the emulated CPU has, where they are missing; -> the sets' names."""
    question = """
from lepton_edge.kernels.library import object_folder
from lepton_edge.kernels.machine import available
for isa in available():
    print(isa, object_folder(isa))"""
    build = "import sys; from lepton_edge.kernels import build; build.main(*sys.argv[1:], machine='aarch64')"
    names = []
    for line in emulator.ask(question):
        isa, place = line.split(" ", 1)
        folder = Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        missing = [op for op in (*OPS, "walk", *PROBES) if not (folder / f"{op}.o").exists()]
        if missing:
            print(f"compiling {len(missing)} kernels for {isa}", flush=True)
            subprocess.run([sys.executable, "-c", build, isa, folder, *missing], cwd=REPOSITORY, check=True)
        names.append(isa)
    return names


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=cache_folder() / "arm64", help="where the arm64 Python is kept")
    parser.add_argument("--cpu", default="max", help="the CPU to emulate, by qemu's name (default: max, which has all)")
    arguments, pytest = parser.parse_known_args()
    emulator = Emulator(arguments.folder.resolve(), arguments.cpu)
    emulator.install()
    sets = cross_compile(emulator)
    if pytest:
        results = {" ".join(pytest): emulator.test(*pytest)}
    else:
        results = {f"tests/kernels on {', '.join(sets)}": emulator.test("tests/kernels", NOT_HERE)}
        for isa in (name for name in ARM_SETS if name in sets):
            results[f"tests/models on {isa}"] = emulator.test("tests/models", LEPTON_ISA=isa)
    print(f"\nemulated CPU {arguments.cpu}: {', '.join(sets)}")
    for what, result in results.items():
        print(f"{what}: {result}")
    return 0 if all("(exit code 0)" in result for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
