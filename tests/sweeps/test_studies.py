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
from lowrank.records import store
from lowrank.surgery.allocation import list_foldings
from lowrank.sweeps.plan import configure, identified, missing_of, planned
from lowrank.sweeps.studies import COMPRESSED, FAULTS, SCALES, STUDIES, grid


def pixels(config):
    return config.run("pixels")


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
    ids = [configure(parameters, pixels).run("pixels") for parameters in planned(study, scale)]
    assert len(ids) == len(set(ids)) > 1


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("study", STUDIES)
def test_every_setting_of_every_study_has_a_network_of_its_size(study, scale):
    for parameters in planned(study, scale, seeds=1, dataset="digits"):
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


@pytest.mark.parametrize("study", [torch.tensor(3), np.array(3), {}, [], [3], None, iter([])], ids=type)
def test_what_is_no_study_is_refused(study):
    with pytest.raises(InputError, match="study=.*; allowed: shoot-out, .*or a list as lowrank.grid makes it"):
        planned(study)


FROM = {"start": [{"decomp": "separable", "epochs": 9}], "budget": [0.1, 0.2], "dataset": ["digits"], "width": [8]}


def test_a_start_given_by_parameters_stands_first_and_shares_what_is_not_of_the_form():
    runs = planned(grid(**FROM, epochs=[2], recipe=["fast"]), seeds=2, momentum=0.8)
    starts, rest = [run for run in runs if "start" not in run], [run for run in runs if "start" in run]
    assert runs == [*starts, *rest] and (len(starts), len(rest)) == (2, 4)
    shared = {"dataset": "digits", "width": 8, "recipe": "fast", "momentum": 0.8}
    assert starts[0] == shared | {"decomp": "separable", "epochs": 9, "seed": 0, "save_weights": True}
    assert [run["start"]["seed"] for run in rest] == [run["seed"] for run in rest]
    assert {run["start"]["epochs"] for run in planned(grid(**FROM), epochs=1)[1:]} == {1}


def test_every_run_gets_the_id_of_the_run_that_it_starts_from():
    configs = identified(planned(grid(**FROM, epochs=[2]), precision="float32"))
    (parent, config), *children = configs.items()
    assert config.save_weights and not config.start and len(children) == 2
    assert {child.start for _, child in children} == {parent}


def test_a_start_that_cannot_be_one_is_refused_before_any_run(tmp_path):
    with pytest.raises(InputError, match="its network is decomposed already"):
        identified(planned(grid(**FROM | {"start": [{"decomp": "tt", "budget": 0.5}]})))
    with pytest.raises(InputError, match="width=8 with start="):
        identified(planned(grid(**FROM | {"start": [{"decomp": "dense", "width": 4}]})))
    named = identified(planned(grid(**FROM | {"start": ["0" * 12]}), precision="float32", runs=str(tmp_path)))
    with pytest.raises(InputError, match="start='000000000000': this run is not there in runs="):
        missing_of(named)


def test_a_start_is_trained_again_only_for_its_weights_and_only_if_they_are_needed(tmp_path):
    configs = identified(planned(grid(**FROM, epochs=[2]), precision="float32", runs=str(tmp_path)))
    parent, *children = configs
    assert list(missing_of(configs)) == [parent, *children]
    for run in (parent, children[0]):
        store(tmp_path, {"run": run, "status": "done"}, [])
    assert list(missing_of(configs)) == [parent, children[1]]
    (tmp_path / parent / "weights.pt").write_bytes(b"kept")
    assert list(missing_of(configs)) == [children[1]]
    store(tmp_path, {"run": children[1], "status": "done"}, [])
    (tmp_path / parent / "weights.pt").unlink()
    assert not missing_of(configs)
