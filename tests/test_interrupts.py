"""What is seen of an interrupt outside a sweep: one line, and nothing is broken by it."""

import signal
import subprocess
import sys

import pytest

from lowrank.interrupts import Stopped, show_stopped_as_a_line
from lowrank.paths import ROOT


def test_an_interrupted_sweep_is_a_line_without_a_traceback_and_other_errors_stay_what_they_are(monkeypatch, capsys):
    others = []
    monkeypatch.setattr(sys, "excepthook", lambda *given: others.append(given))
    monkeypatch.delattr(sys, "ps1", raising=False)  # IPython's, by which a process goes on after an error
    show_stopped_as_a_line()
    before = signal.getsignal(signal.SIGINT)
    try:
        sys.excepthook(Stopped, Stopped("stopped: 2 done"), None)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # a key held down disturbs the end no more
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "stopped: 2 done\n" and not others
    error = ValueError("another")
    sys.excepthook(ValueError, error, None)
    assert others == [(ValueError, error, None)]


PRESS = """
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it

class Press:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1] and presses:
            os.kill(os.getpid(), presses.pop())

presses = [signal.SIGINT]
sys.meta_path.insert(0, Press())
"""

INTERRUPTED = f"""
{PRESS}
import lowrank
if len(sys.argv) > 2:
    try:
        lowrank.sweep
    except KeyboardInterrupt as error:
        print(error)
    print(lowrank.sweep.__name__, signal.getsignal(signal.SIGINT) is signal.default_int_handler)
else:
    lowrank.sweep
"""


@pytest.mark.parametrize("caught", [False, True])
def test_an_interrupt_while_a_name_is_loaded_is_one_line_and_the_name_is_there_the_next_time(caught):
    command = [sys.executable, "-c", INTERRUPTED, "distributed", *["caught"] * caught]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    line = "stopped: nothing was begun, lowrank.sweep was still being loaded"
    told = (f"{line}\nsweep True\n", "") if caught else ("", f"{line}\n")
    assert (done.stdout, done.stderr) == told
    assert (done.returncode == 0) == caught


INTERRUPTED_IMPORT = f"""
{PRESS}
try:
    import lowrank
except KeyboardInterrupt as error:
    print(error)
import lowrank
print(lowrank.grid(dims=[3]))
"""


def test_an_interrupted_import_is_one_line_and_goes_well_the_next_time():
    command = [sys.executable, "-c", INTERRUPTED_IMPORT, "numpy.random"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    line = "stopped: nothing was begun, lowrank was still being loaded"
    assert (done.stdout, done.stderr) == (f"{line}\n[{{'dims': 3}}]\n", "")
