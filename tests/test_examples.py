"""The example of every name that `lowrank` offers: what it shows is what there is to see."""

import doctest
import inspect
import shutil

import pytest
import torch

import lowrank
from lowrank import paths

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A place with the runs that the examples speak of: one that they train, and one that comes with the repository."""
    place = tmp_path_factory.mktemp("examples")
    setting = {"decomp": "tt", "dims": 3, "budget": 0.5, "dataset": "digits", "width": 4, "epochs": 1}
    lowrank.run(log=lambda line: None, runs=str(place / "runs"), save_weights=True, **setting)
    shutil.copytree(paths.ROOT / "runs" / "4a736e9f65c3", place / "runs" / "4a736e9f65c3")
    return place


@pytest.mark.parametrize("name", lowrank.__all__)
def test_the_example_of_every_public_name_runs(name, trained, monkeypatch, nothing_registered):
    monkeypatch.setattr(paths, "ROOT", trained)
    torch.manual_seed(0)
    names = {"lowrank": lowrank}
    [example] = doctest.DocTestFinder(recurse=False).find(getattr(lowrank, name), name, globs=names, module=False)
    assert example.examples, inspect.getdoc(getattr(lowrank, name))
    said = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(example, out=said.append)
    assert not said, "".join(said)
