"""Formats by name: the defaults of each, and one line about a name that this process does not know."""

import pickle

import pytest
import torch
from torch import nn

import lowrank
from lowrank import InputError, formats
from lowrank.config import Config
from lowrank.formats import FORMATS, RANK_RULES, default_rank_rule, uses_dims
from lowrank.lab import explore, plots

from .forms import SMALL


def test_what_a_process_does_not_know_is_named_as_ones_own(monarch, tmp_path):
    asked = {"decomp": "monarch", "budget": 0.5, "runs": str(tmp_path), "save_weights": True, **SMALL}
    record = lowrank.run(log=lambda line: None, **asked)
    start = lowrank.run(log=lambda line: None, **asked | {"decomp": "separable", "budget": 0.0})["run"]
    started = lowrank.run(log=lambda line: None, **asked | {"start": start, "epochs": 0})["run"]
    net = pickle.dumps(lowrank.load(record["run"], runs=tmp_path))
    del formats.FORMATS["monarch"]  # as in a fresh process
    table = lowrank.results(tmp_path)
    assert set(table.decomp) == {"monarch", "separable"} and "monarch" in explore.title(record)
    plots.accuracy_against_parameters(table)
    unknown, linear = "allowed: .*ring, or one of your own: lowrank.register", nn.Linear(8, 8)
    for ask, line in (
        (lambda: Config(decomp="monarch"), unknown),
        (lambda: lowrank.load(record["run"], runs=tmp_path), unknown),
        (lambda: lowrank.load(started, runs=tmp_path), "a format of your own, this process does not know"),
        (lambda: lowrank.status([{"decomp": "monarch"}]), unknown),
        (lambda: lowrank.decompose(linear, decomp="monarch", budget=0.5), unknown),
    ):
        with pytest.raises(InputError, match=f"^decomp='monarch'.*{line}") as refusal:
            ask()
        assert "\n" not in str(refusal.value)
    assert pickle.loads(net)(torch.zeros(1, 3, 32, 32)).isfinite().all()  # a pickled network brings its form along


def test_modes_are_a_parameter_of_whatever_may_be_folded():
    """A format that this process does not know may be."""
    names = ["dense", "separable", "bottleneck", *(each for each in FORMATS if each != "bottleneck"), "unknown"]
    assert [uses_dims(name) for name in names] == [False] * 3 + [True] * (len(names) - 3)


@pytest.mark.parametrize("decomp", FORMATS)
def test_every_format_knows_how_its_ranks_grow_best(decomp):
    assert default_rank_rule(decomp) == FORMATS[decomp].rank_rule in RANK_RULES[1:]
