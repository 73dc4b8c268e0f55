"""The records that came with the repository, and those of runs that never were."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from samples import runs

from lowrank.experiment import git
from lowrank.files import CLAIM
from lowrank.paths import ROOT


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> str:
    """A folder with the runs that came with the repository, without those of whoever works in it."""
    folder = tmp_path_factory.mktemp("published")
    for record in git("ls-files", "--", "runs/*/record.json").splitlines():
        shutil.copytree(ROOT / Path(record).parent, folder / Path(record).parent.name, ignore=lambda *_: [CLAIM])
    return str(folder)


@pytest.fixture
def table():
    """Runs of five settings."""
    return pd.concat(
        [
            runs([0.83, 0.85], 400_000, decomp="dense"),
            runs([0.79, 0.81], 50_000, decomp="separable"),
            runs([0.70, 0.72, 0.74], 10_000, decomp="tt", budget=0.1),
            runs([0.75, 0.77, 0.76], 20_000, decomp="tt", budget=0.3),
            runs([0.60, 0.62, 0.64], 30_000, decomp="cp", budget=0.5),
        ],
        ignore_index=True,
    )
