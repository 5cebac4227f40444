"""Run the kernels' contract tests on x86 instruction sets that this machine lacks, under the Bochs emulator.

    python tools/x86_under_bochs.py --bochs bochs --kernel vmlinuz [-- PYTEST ARGUMENTS]

Kernels are compiled here; then a Linux that lives in memory (this Python, NumPy, llvmlite, pytest and the project,
without Numba) boots in Bochs on a Sapphire Rapids, runs pytest, prints the result on its serial line and switches off.
Exit code 0: all tests passed.  docs/extending.md says where Bochs and the kernel come from.  Linux on x86-64 only.
"""

import argparse
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("numpy", "numpy.libs", "llvmlite", "pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments",
            "hypothesis", "sortedcontainers", "tokenizers", "safetensors")  # fmt: skip
MODULES = ("py.py", "_hypothesis_globals.py", "_hypothesis_ftz_detector.py", "_hypothesis_pytestplugin.py")
VERSIONS = ("numba", "llvmlite", "numpy", "pytest", "pluggy", "hypothesis")  # whose metadata is asked for
SETS = ("avx512bf16", "avx512", "avxvnni")
# A few minutes under emulation: every format and set, exact integers, ragged shapes of two row counts, bad tokens.
DEFAULT = ("tests/kernels/test_matmul.py", "-k", "(avx512 or avxvnni) and "
           "(extreme or every_code or zeros or bad_token or (ragged and (17 or 67)))")  # fmt: skip
# Linux does not accept the AMX state of Bochs 3.0; the other features only make the emulation slower.
BOCHS = """\
cpu: model=sapphire_rapids, exclude_features="amx, amx_int8, amx_bf16, cet, la57, pku", ips=200000000
memory: guest={memory}, host={memory}
romimage: file={bios}, options=fastboot
vgaromimage: file={vgabios}
ata0-master: type=cdrom, path={folder}/boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev={folder}/serial.txt
display_library: nogui
log: {folder}/bochs.log
panic: action=fatal
"""
BOOT = """\
DEFAULT linux
LABEL linux
 KERNEL /vmlinuz
 APPEND initrd=/initrd.img console=ttyS0,115200 quiet loglevel=1 mitigations=off nokaslr lpj=1000000 \
clearcpuid=erms,fsrm,smap random.trust_cpu=on
"""
INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t tmpfs tmp /tmp
/bin/busybox ifconfig lo 127.0.0.1 up
cd /project
export PATH=/bin HOME=/tmp LEPTON_CACHE=/cache PYTHONDONTWRITEBYTECODE=1 OPENBLAS_NUM_THREADS=1 LD_LIBRARY_PATH=/lib
{python} -m pytest -q --color=no -p no:cacheprovider {arguments}
/bin/busybox echo "pytest's exit code: $?"
/bin/busybox poweroff -f
"""


def compile_kernels(isas: Iterable[str]) -> list[Path]:
    """The folders of the compiled kernels of each set; none of them runs here."""
    from lepton_edge.kernels.library import kernels, object_folder
    from lepton_edge.kernels.ops import OPS, PROBES

    for isa in isas:
        kernels([*OPS, "walk", *PROBES], isa, print)
    return [object_folder(isa) for isa in isas]


def copy(source: Path, root: Path) -> None:
    """A file or folder to the same path below `root`, with its bytecode: compiling takes seconds under emulation."""
    target = root / source.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        skipped = shutil.ignore_patterns("test", "tests", "idlelib", "tkinter", "ensurepip", "lib2to3", "site-packages",
                                         "config-*", "*.a", "*.pyi")  # fmt: skip
        shutil.copytree(source, target, ignore=skipped, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)


def copy_libraries(root: Path) -> None:
    """Shared libraries that anything below `root` needs, at their own paths."""
    needed: set[Path] = set()
    found = [path for path in root.rglob("*") if path.is_file() and (".so" in path.name or os.access(path, os.X_OK))]
    for path in found:
        output = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
        needed.update(Path(word) for word in output.split() if word.startswith("/") and not word.startswith(str(root)))
    for library in needed:
        if not (root / library.relative_to("/")).exists():
            copy(library, root)


def fill(root: Path, folders: Iterable[Path], arguments: list[str]) -> None:
    """Everything that the emulated machine has."""
    python, site = Path(sys.executable).resolve(), Path(sysconfig.get_path("purelib"))
    copy(python, root)
    copy(Path(sysconfig.get_path("stdlib")), root)
    target = root / sysconfig.get_path("stdlib").lstrip("/") / "site-packages"
    for name in (*PACKAGES, *MODULES):
        if (site / name).is_dir():
            shutil.copytree(site / name, target / name, ignore=shutil.ignore_patterns("tests", "*.pyi", "*.h", "*.a"))
        elif (site / name).exists():
            shutil.copy2(site / name, target / name)
    for name in VERSIONS:
        files = importlib.metadata.distribution(name).files or []
        for file in files:
            if file.name in ("METADATA", "entry_points.txt") and file.parent.suffix == ".dist-info":
                (target / file.parent).mkdir(exist_ok=True)
                shutil.copy2(file.locate(), target / file)
    for folder in folders:
        shutil.copytree(folder, root / "cache" / folder.name)
    for name in ("lepton_edge", "tests", "pyproject.toml"):
        source, place = ROOT / name, root / "project" / name
        shutil.copytree(source, place) if source.is_dir() else shutil.copy2(source, place)
    copy_libraries(root)
    for name in ("bin", "proc", "sys", "dev", "tmp"):
        (root / name).mkdir(exist_ok=True)
    shutil.copy2(shutil.which("busybox") or "busybox", root / "bin" / "busybox")
    quoted = " ".join(f"'{argument}'" for argument in arguments)
    (root / "init").write_text(INIT.format(python=python, arguments=quoted))
    (root / "init").chmod(0o755)


def make_disc(folder: Path, root: Path, kernel: Path, isolinux: Path) -> None:
    """folder/boot.iso: the kernel, and `root` as its initramfs."""
    iso = folder / "iso"
    (iso / "isolinux").mkdir(parents=True)
    shutil.copy2(kernel, iso / "vmlinuz")
    shutil.copy2(isolinux / "ISOLINUX" / "isolinux.bin", iso / "isolinux")
    shutil.copy2(isolinux / "syslinux" / "modules" / "bios" / "ldlinux.c32", iso / "isolinux")
    (iso / "isolinux" / "isolinux.cfg").write_text(BOOT)
    pack = f"cd '{root}' && find . | cpio -o -H newc --quiet | lz4 -l -q - '{iso}/initrd.img'"
    subprocess.run(["sh", "-c", pack], check=True)
    subprocess.run(["genisoimage", "-quiet", "-o", folder / "boot.iso", "-b", "isolinux/isolinux.bin", "-c",
                    "isolinux/boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", iso],
                   check=True)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bochs", default="bochs", help="the emulator, 3.0 or later, built with --enable-evex")
    parser.add_argument("--kernel", type=Path, required=True, help="a Linux kernel (vmlinuz)")
    parser.add_argument("--bios", type=Path, default=Path("/usr/share/bochs/BIOS-bochs-latest"))
    parser.add_argument("--vgabios", type=Path, default=Path("/usr/share/vgabios/vgabios.bin"))
    parser.add_argument("--isolinux", type=Path, default=Path("/usr/lib"), help="holds ISOLINUX/ and syslinux/")
    parser.add_argument("--memory", type=int, default=1536, help="MiB of the emulated machine")
    parser.add_argument("--timeout", type=int, default=3600, help="seconds")
    parser.add_argument("pytest", nargs="*", default=list(DEFAULT), help="arguments of pytest")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = folder / "root"
        # The tests load the sets that the emulated CPU has, and these are all of them.
        fill(root, compile_kernels((*SETS, "avx2", "generic")), arguments.pytest)
        make_disc(folder, root, arguments.kernel, arguments.isolinux)
        shutil.rmtree(root)
        settings = dict(memory=arguments.memory, bios=arguments.bios, vgabios=arguments.vgabios, folder=folder)
        (folder / "bochsrc").write_text(BOCHS.format(**settings))
        try:
            subprocess.run([arguments.bochs, "-q", "-f", folder / "bochsrc"], stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=arguments.timeout)  # fmt: skip
        except subprocess.TimeoutExpired:
            print(f"stopped after {arguments.timeout} seconds")
        serial = folder / "serial.txt"
        said = serial.read_text(errors="replace") if serial.exists() else "(nothing on the serial line)"
    print(said)
    return 0 if "pytest's exit code: 0" in said else 1


if __name__ == "__main__":
    sys.exit(main())
