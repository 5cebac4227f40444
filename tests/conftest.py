"""Shared by all tests: a seeded hypothesis profile, and where the measurement data lies, if it is there."""

import signal
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("seeded", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("seeded")

# Begun in the background, as by nohup, this process and those that it starts would ignore Ctrl-C, and tests hang.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `-n`, a file's tests are one process's: what its fixtures compile and start is made once."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real weights, tokenizers and text; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the measurement data at {SHARED}")
    return SHARED
