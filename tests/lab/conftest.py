"""The records that came with the repository."""

import shutil

import pytest

from lowrank.lab import overview
from lowrank.paths import ROOT


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> str:
    """A folder with the runs that came with the repository, without those of whoever works in it."""
    folder = tmp_path_factory.mktemp("published")
    for run in overview.published_runs("runs") - {"runs"}:  # .gitkeep
        shutil.copytree(ROOT / "runs" / run, folder / run)
    return str(folder)
