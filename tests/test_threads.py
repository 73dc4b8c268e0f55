"""How threads wait is settled before torch is loaded, unless the user has settled it."""

import os
import runpy
import subprocess
import sys

import pytest

from lowrank import threads
from lowrank.paths import ROOT


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"GOMP_SPINCOUNT": "1000"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "passive"}, {"OMP_WAIT_POLICY": "passive"}),
    ],
    ids=str,
)
def test_what_the_user_says_of_threads_stands(monkeypatch, before, after):
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", dict(before))
        runpy.run_path(threads.__file__)
        assert os.environ == after


AT_TORCH = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            sys.exit(os.environ["GOMP_SPINCOUNT"])

sys.meta_path.insert(0, Watch())
import lowrank
"""


def test_it_is_settled_once_torch_is_imported():
    user = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", AT_TORCH], cwd=ROOT, env=user, capture_output=True, text=True)
    assert done.stderr == "1000\n"


WAITS = """
import os, time
import {first}, {second}
from lowrank.hardware import tune_process

tune_process()
time.sleep(0.5)  # in which the other team comes
x = torch.zeros(2**18)
x.relu()
start = time.process_time()
for _ in range(50):
    x.relu()
    time.sleep(0.005)  # the other thread waits for the next product
print(time.process_time() - start)
"""


@pytest.mark.skipif(sys.platform != "linux" or (os.cpu_count() or 1) != 2, reason="needs Linux and two cores")
@pytest.mark.parametrize(("first", "second"), [("lowrank", "torch"), ("torch", "lowrank")])
def test_a_thread_that_waits_takes_no_core_whichever_is_imported_first(first, second):
    """By the computing that is done while nothing is to be done: at least 3 ms a product where threads spin."""
    user = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_"))}
    code = WAITS.format(first=first, second=second)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=user, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 50 * 0.002
