"""A worker process: it ends with the driver that it serves, however that ends, and serves no other."""

import subprocess
import sys

import pytest

from lowrank.sweeps.cluster import WORKER

FOLLOWS = f"""
import runpy, sys, time
runpy.run_path({str(WORKER)!r})["follow_driver"](int(sys.argv[1]))
print("follows", flush=True)
time.sleep(600)
"""
DRIVES = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {FOLLOWS!r}, str(os.getpid())])
time.sleep(600)
"""


@pytest.mark.timeout(60)
def test_a_worker_does_not_outlive_a_driver_that_is_killed():
    driver = subprocess.Popen([sys.executable, "-c", DRIVES], stdout=subprocess.PIPE, text=True)
    assert driver.stdout.readline() == "follows\n"
    driver.kill()
    assert driver.communicate(timeout=30) == ("", None)  # which comes once nobody holds the pipe: both have ended


@pytest.mark.timeout(60)
def test_a_worker_whose_driver_is_gone_ends_before_it_looks_for_the_scheduler(tmp_path):
    asked = [sys.executable, "-P", str(WORKER), "-1", "tcp://127.0.0.1:9", str(tmp_path)]
    ended = subprocess.run(asked, capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "") and not list(tmp_path.iterdir())


def test_a_worker_knows_nothing_of_lowrank_until_a_trial_comes():
    """So that it is there in a moment: torch comes with the first trial."""
    code = f"import runpy, sys; runpy.run_path({str(WORKER)!r}); print({{'lowrank', 'torch'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
