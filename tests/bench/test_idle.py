"""What others compute is counted, and what this process and its children compute is not."""

import subprocess
import sys
import time

import pytest

from bench import idle

SPIN = "import time\nwhile time.process_time() < 0.3: pass"


def test_shares_are_of_one_core(monkeypatch):
    seconds = iter([100.0, 106.0])
    system, children = iter([50.0, 56.5]), iter([7.0, 10.5])
    monkeypatch.setattr(idle.time, "perf_counter", lambda: next(seconds))
    monkeypatch.setattr(idle, "_system_seconds", lambda: next(system))
    monkeypatch.setattr(idle, "_our_seconds", lambda: next(children))
    assert idle.Watch().others() == 0.5


def test_unknown_where_the_system_does_not_say(monkeypatch):
    monkeypatch.setattr(idle, "_system_seconds", lambda: None)
    assert idle.Watch().others() is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/stat")
@pytest.mark.parametrize("where", ["here", "in a child"])
def test_this_process_and_its_children_count_as_ours_and_as_the_systems(where):
    ours, system = idle._our_seconds(), idle._system_seconds()
    if where == "here":
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
    else:
        subprocess.run([sys.executable, "-c", SPIN], check=True)
    assert idle._our_seconds() - ours >= 0.28  # the system counts in hundredths
    assert idle._system_seconds() - system >= 0.25
