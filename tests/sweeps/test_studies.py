"""Every named study is possible as it stands, and says what it is asked to say."""

import math

import numpy as np
import pytest

from lowrank.config import DECOMPS, Config
from lowrank.errors import InputError
from lowrank.formats import PLAIN, fold, solve
from lowrank.network import pointwise_shapes
from lowrank.sweeps.plan import planned
from lowrank.sweeps.studies import FAULTS, SCALES, STUDIES, each, grid


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("study", STUDIES)
def test_every_run_of_every_study_is_valid_and_different(study, scale):
    ids = [Config.of(parameters).run("pixels") for parameters in planned(study, scale)]
    assert len(ids) == len(set(ids)) > 1


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("study", STUDIES)
def test_every_setting_of_every_study_has_a_network_of_its_size(study, scale):
    for parameters in each(planned(study, scale, seeds=1), {"dataset": "digits"}):
        config = Config.of(parameters)
        if config.decomp not in PLAIN:
            shapes = pointwise_shapes(config.width)
            foldings = [fold(*shape, config.dims, rank_rule=config.rank_rule) for shape in shapes]
            size = {"budget": config.budget, "rank_scale": config.rank_scale}
            layouts = solve(config.decomp, foldings, rank_rule=config.rank_rule, **size)
            held = sum(layout.parameters for layout in layouts) / sum(layout.size for layout in layouts)
            assert 0 < held <= (config.budget or math.inf)


@pytest.mark.parametrize("scale", SCALES)
def test_half_of_the_combinations_of_faults_tell_every_fault_from_every_other(scale):
    runs = [run | {"seed": 0} for run in STUDIES["then-and-now"][scale]]
    has = np.array([[all(run.get(k) == v for k, v in fault.items()) for fault in FAULTS.values()] for run in runs])
    signs = 2 * has - 1
    assert len(np.unique(signs, axis=0)) == 8
    assert (signs.T @ signs == 8 * np.eye(len(FAULTS))).all()  # main effects are orthogonal


def test_a_run_that_names_its_seed_keeps_it():
    runs = planned(grid(dims=[2]) + grid(dims=[3], seed=[7]), seeds=2)
    assert [(run["dims"], run["seed"]) for run in runs] == [(2, 0), (2, 1), (3, 7)]


def test_the_studies_together_cover_every_decomposition():
    assert {run["decomp"] for study in STUDIES.values() for run in study["gpu"]} == set(DECOMPS)


def test_a_study_takes_seeds_and_overrides():
    runs = planned("tensor-train", "smoke", seeds=3, width=4)
    assert {run["seed"] for run in runs} == {0, 1, 2}
    assert {run["width"] for run in runs} == {4} and {run["decomp"] for run in runs} == {"tt"}


def test_a_grid_is_every_combination_and_may_hold_its_own_seeds():
    runs = planned(grid(dims=[2, 3], budget=[0.1, 0.2, 0.3], seed=[5]))
    assert len({(run["dims"], run["budget"]) for run in runs}) == 6
    assert {run["seed"] for run in runs} == {5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"study": "tensortrain"}, "study='tensortrain'; allowed: shoot-out, "),
        ({"study": "cp", "scale": "huge"}, "scale='huge'; allowed: smoke, cpu, gpu"),
        ({"study": "cp", "seeds": -1}, "seeds=-1; allowed"),
        ({"study": "cp", "seeds": 1.5}, "seeds=1.5; allowed"),
        ({"study": "cp", "dimz": 3}, "dimz=3: there is no such parameter; did you mean dims?"),
        (
            {"study": "cp", "sheduler": "tls://a:1"},
            "sheduler='tls://a:1': there is no such parameter; did you mean scheduler?",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused_by_name(arguments, message):
    with pytest.raises(InputError) as refusal:
        planned(**arguments)
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize("values", ["tt", 3])
def test_a_grid_takes_lists(values):
    with pytest.raises(InputError, match="decomp="):
        grid(decomp=values)
