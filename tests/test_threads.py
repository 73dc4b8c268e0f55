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
