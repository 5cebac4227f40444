"""A second after the last token the process uses no CPU: its threads wait, and none looks for work now and then."""

import ast
import time

import pytest
from golden.recipe import write_folder
from processes import run_python

pytestmark = pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="needs clocks of threads")
SECONDS = 0.5
# Prints the CPU time of each thread (seconds, by name) while nothing is to be done, after requests of every kind.
PROGRAM = """
import os, signal, sys, threading, time
from engines import *
from runtime.test_pool import HEAVY
import lepton_edge
from lepton_edge.errors import Cancelled

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

def run(engine, chunk, stop, error):
    '''Feed a long prompt, `chunk` tokens in a step, and stop it on the way.'''
    ended, slot = threading.Event(), engine.open()
    def later():
        while not ended.wait(0.03):
            stop()
            if stop is interrupt:
                return
    helper = threading.Thread(target=later)
    try:
        helper.start()
        feed(engine, slot, tokens(4000, HEAVY), chunk, wanted=[0])
        print("was not stopped")
    except error:
        ended.set()
    helper.join()
    engine.close_slot(slot)

folder, threads, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
model = lepton_edge.load(folder, threads=threads)
engines = [load(HEAVY, threads=threads) for _ in range(4)]
for _ in range(3):
    for engine, chunk in zip(engines, (4000, 1, 4000, 1)):
        run(engine, chunk, *((engine.cancel, Cancelled) if engine in engines[:2] else (interrupt, KeyboardInterrupt)))
done = load(HEAVY, threads=threads)
feed(done, done.open(), tokens(600, HEAVY), 100)
feed(done, done.open(), tokens(600, HEAVY), 600)
model.generate([1, 5], max_tokens=20)

def used():
    return {t.ident: time.clock_gettime(time.pthread_getcpuclockid(t.ident)) for t in threading.enumerate()}

time.sleep(1)
before, whole = used(), time.process_time()
time.sleep(seconds)
after, whole = used(), time.process_time() - whole
print([(t.name, round(after[t.ident] - before[t.ident], 4)) for t in threading.enumerate()] + [("process", whole)])
"""


@pytest.mark.parametrize("threads", [2, 3])
def test_no_cpu_is_used_when_nothing_is_to_be_done(threads, tmp_path):
    """After requests that ended, that were cancelled and that Ctrl-C stopped, in long steps and in single tokens."""
    folder = write_folder("llama_plain", tmp_path / "model")
    (line,) = run_python("-c", PROGRAM, folder, str(threads), str(SECONDS)).splitlines()
    used = ast.literal_eval(line)
    assert sum(name.startswith("lepton-") for name, _ in used) == 6 * threads, used
    # Two looks at the clock and a sleep: less than 1%.  A thread that spins uses half a second or, polling, a part.
    assert used[-1][0] == "process" and used[-1][1] < SECONDS / 100, used
