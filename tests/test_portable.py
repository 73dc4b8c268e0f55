"""Where a system lacks what only Unix has, the layers are there, and what needs more says so in one line."""

import subprocess
import sys

from lowrank.paths import ROOT

WITHOUT = """
import sys

for name in ("fcntl", "resource", "pwd", "grp"):
    sys.modules[name] = None  # an import of it raises ImportError, as on Windows

import torch

import lowrank
from lowrank import decompose
from lowrank.experiment import peak_memory

net = decompose(torch.nn.Linear(8, 8), budget=0.9)
lowrank.densify(net)(torch.ones(1, 8))
print(len(lowrank.summary(lowrank.build(lowrank.Config(width=2), 10), image=(3, 32, 32))) > 0)
print(len(lowrank.results("nowhere")), peak_memory())
for attempt in (lambda: lowrank.run(dataset="digits", width=2, runs=sys.argv[1]),
                lambda: lowrank.sweep([{"dataset": "digits", "width": 2}], runs=sys.argv[1]),
                lambda: lowrank.status([{"dataset": "digits", "width": 2}], runs=sys.argv[1])):
    try:
        print(len(attempt()))
    except lowrank.InputError as error:
        print(error)
"""


def test_without_locks_the_layers_are_there_and_a_run_says_what_it_needs(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    *before, run, sweep, status = done.stdout.splitlines()
    assert before == ["True", "0 None"]
    assert run == sweep == status
    assert run.startswith("this system has no fcntl, whose locks keep processes apart: runs, sweeps and downloads need")
