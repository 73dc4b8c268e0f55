"""Every named study is possible as it stands, and says what it is asked to say."""

import math
from itertools import count

import numpy as np
import pytest
import torch

import lowrank
from lowrank.config import DECOMPS, Config
from lowrank.errors import InputError
from lowrank.formats import FORMATS, PLAIN, Layout, fold, solve
from lowrank.network import pointwise_shapes
from lowrank.surgery.allocation import list_foldings
from lowrank.sweeps.plan import configure, plan_runs
from lowrank.sweeps.studies import COMPRESSED, FAULTS, SCALES, STUDIES, grid


def pixels(config):
    return config.run_id("pixels")


def smallest(config, form):
    """The least share of the weights of a trained network of this form that ranks of one hold."""
    kernel, held = (9 if form == "dense" else 1), 0
    shapes = pointwise_shapes(config.width)
    for outputs, inputs in shapes:
        foldings = list_foldings(config.decomp, outputs, inputs, config.dims, kernel)
        ones = [
            Layout(config.decomp, folding, (1,) * len(FORMATS[config.decomp].largest(folding))) for folding in foldings
        ]
        held += min(layout.parameters for layout in ones)
    return held / sum(outputs * inputs * kernel for outputs, inputs in shapes)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("study", STUDIES)
def test_every_run_of_every_study_is_valid_and_different(study, scale):
    ids = [configure(parameters, pixels).run_id("pixels") for parameters in plan_runs(study, scale)]
    assert len(ids) == len(set(ids)) > 1


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("study", STUDIES)
def test_every_setting_of_every_study_has_a_network_of_its_size(study, scale):
    for parameters in plan_runs(study, scale, seeds=1, dataset="digits"):
        config = configure(parameters, pixels)
        if config.start:
            assert smallest(config, parameters["start"]["decomp"]) <= config.budget
        elif config.decomp not in PLAIN:
            shapes = pointwise_shapes(config.width)
            foldings = [fold(*shape, config.dims, rank_rule=config.rank_rule) for shape in shapes]
            size = {"budget": config.budget, "rank_scale": config.rank_scale}
            layouts = solve(config.decomp, foldings, rank_rule=config.rank_rule, **size)
            held = sum(layout.parameters for layout in layouts) / sum(layout.size for layout in layouts)
            assert 0 < held <= (config.budget or math.inf)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("form", PLAIN)
def test_the_narrow_networks_are_as_large_as_those_that_were_decomposed(scale, form):
    width = SCALES[scale]["width"]
    with torch.device("meta"):
        whole = lowrank.build(Config(decomp=form, width=width), classes=10)
        narrow = [lowrank.build(Config(decomp=form, width=each), classes=10) for each in COMPRESSED[scale][form]]
    held = sum((9 if form == "dense" else 1) * outputs * inputs for outputs, inputs in pointwise_shapes(width))
    for budget, net in zip(COMPRESSED[scale]["budget"], narrow, strict=True):
        decomposed = parameters_of(whole) - (1 - budget) * held
        assert 0.75 < decomposed / parameters_of(net) < 1.33


def parameters_of(net):
    return sum(each.numel() for each in net.parameters())


@pytest.mark.parametrize("scale", SCALES)
def test_half_of_the_combinations_of_faults_tell_every_fault_from_every_other(scale):
    runs = [run | {"seed": 0} for run in STUDIES["then-and-now"][scale]]
    has = np.array([[all(run.get(k) == v for k, v in fault.items()) for fault in FAULTS.values()] for run in runs])
    signs = 2 * has - 1
    assert len(np.unique(signs, axis=0)) == 8
    assert (signs.T @ signs == 8 * np.eye(len(FAULTS))).all()  # main effects are orthogonal


def test_the_studies_together_cover_every_decomposition():
    assert {run["decomp"] for study in STUDIES.values() for run in study["gpu"]} == set(DECOMPS)


def test_a_grid_is_every_combination_and_may_hold_its_own_seeds():
    runs = plan_runs(grid(dims=[2, 3], budget=[0.1, 0.2, 0.3], seed=[5]))
    assert len({(run["dims"], run["budget"]) for run in runs}) == 6
    assert {run["seed"] for run in runs} == {5}


@pytest.mark.parametrize("values", ["tt", 3, torch.tensor(3), np.array(3)], ids=repr)
def test_a_grid_takes_lists(values):
    with pytest.raises(InputError, match="decomp=.*a grid takes a list of values"):
        grid(decomp=values)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "lists", [{"seed": range(10**10)}, {"seed": count()}, {"seed": range(10**4), "dims": range(101)}]
)
def test_a_grid_that_nobody_can_train_is_refused_at_once(lists):
    with pytest.raises(InputError, match="a grid of .* runs or more; allowed: 1,000,000 at most"):
        grid(**lists)


def test_a_name_that_is_no_parameter_is_refused_by_a_grid():
    with pytest.raises(InputError, match="^decmp=.*: there is no such parameter; did you mean decomp[?]$"):
        grid(decmp=["tt"])
