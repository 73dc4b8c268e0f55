"""What no memory can hold is one line, whether that is sure before or only when it fails."""

import os
import subprocess
import sys

import pytest

import lowrank
from lowrank import memory
from lowrank.errors import InputError
from lowrank.paths import ROOT

WITHIN = """
import resource, sys, lowrank
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30,) * 2)
try:
    lowrank.run(dataset="digits", decomp="separable", width=3000, precision="float32", runs=sys.argv[1])
except lowrank.InputError as error:
    print(error)
"""


def test_a_network_that_no_memory_here_can_hold_is_refused_before_it_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "total_memory", lambda device: 2e9)
    with pytest.raises(
        InputError, match="^width=2000, batch_size=64: there is not enough memory .*: at least [0-9]+ GB"
    ):
        lowrank.run(dataset="digits", width=2000, epochs=1, runs=str(tmp_path), log=pytest.fail)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory cannot be limited so")
def test_too_little_memory_is_one_line(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LOWRANK_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", WITHIN, str(tmp_path / "runs")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("width=3000, batch_size=64: there is not enough memory"), done.stderr
