"""The CPU's name on the systems that we know."""

import pathlib
import sys

import pytest

from lepton_edge.cli import cpu


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor\t: 0\nmodel\t\t: 97\nmodel name\t: AMD Ryzen 9\n", "AMD Ryzen 9"),
        ("processor\t: 0\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 5 Model B\n", "Raspberry Pi 5 Model B"),
        ("processor\t: 0\n", "riscv64"),
    ],
)
def test_linux(monkeypatch, text: str, name: str) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(pathlib.Path, "read_text", lambda self, **options: text)
    monkeypatch.setattr(cpu.platform, "machine", lambda: "riscv64")
    assert cpu.cpu_name() == name


def test_a_mac_without_sysctl(monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(cpu.platform, "machine", lambda: "arm64")
    monkeypatch.setenv("PATH", "")
    assert cpu.cpu_name() == "arm64"
