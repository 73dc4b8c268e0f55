"""A study as runs: which there are, from which others they start, and which of them are to be trained."""

import re

import numpy as np
import pytest
import torch
from small import row
from trials import runs_of

from lowrank import paths
from lowrank.config import Config
from lowrank.errors import InputError
from lowrank.files import claim
from lowrank.records import store
from lowrank.sweeps.plan import announce, identify_runs, missing_of, plan_runs, status
from lowrank.sweeps.studies import grid


@pytest.mark.usefixtures("data_without_loading")
def test_status_knows_what_another_process_is_training(tmp_path):
    run = Config.of(runs_of(0)[0]).fitted(1497).run_id("pixels")
    with claim(tmp_path / run):
        assert status(runs_of(0, 1), runs=str(tmp_path))["status"].tolist() == ["running", "remaining"]
    assert status(runs_of(0, 1), runs=str(tmp_path))["status"].tolist() == ["remaining", "remaining"]


def test_a_run_that_names_its_seed_keeps_it():
    runs = plan_runs(grid(dims=[2]) + grid(dims=[3], seed=[7]), seeds=2)
    assert [(run["dims"], run["seed"]) for run in runs] == [(2, 0), (2, 1), (3, 7)]


def test_a_study_takes_seeds_and_overrides():
    runs = plan_runs("tensor-train", "smoke", seeds=3, width=4)
    assert {run["seed"] for run in runs} == {0, 1, 2}
    assert {run["width"] for run in runs} == {4} and {run["decomp"] for run in runs} == {"tt"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"study": "tensortrain"}, "study='tensortrain'; allowed: shoot-out, "),
        ({"study": "cp", "scale": "huge"}, "scale='huge'; allowed: smoke, cpu, gpu"),
        ({"study": "cp", "seeds": -1}, "seeds=-1; allowed"),
        ({"study": "cp", "seeds": 1.5}, "seeds=1.5; allowed"),
        ({"study": [{"start": {"decomp": []}, "budget": 0.5}]}, "start={'decomp': []}; allowed: the parameters of a "),
        ({"study": [{"start": {"decomp": "dense", "dims": []}, "budget": 0.5}]}, "dims=[] is of type list"),
        ({"study": "cp", "dimz": 3}, "dimz=3: there is no such parameter; did you mean dims?"),
        (
            {"study": "cp", "sheduler": "tls://a:1"},
            "sheduler='tls://a:1': there is no such parameter; did you mean scheduler?",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused_by_name(arguments, message):
    with pytest.raises(InputError) as refusal:
        identify_runs(plan_runs(**arguments))
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize("study", [torch.tensor(3), np.array(3), {}, [], [3], None, iter([])], ids=type)
def test_what_is_no_study_is_refused(study):
    with pytest.raises(InputError, match="study=.*; allowed: shoot-out, .*or a list as lowrank.grid makes it"):
        plan_runs(study)


FROM = {"start": [{"decomp": "separable", "epochs": 9}], "budget": [0.1, 0.2], "dataset": ["digits"], "width": [8]}


def test_a_start_given_by_parameters_stands_first_and_shares_what_is_not_of_the_form():
    runs = plan_runs(grid(**FROM, epochs=[2], recipe=["fast"]), seeds=2, momentum=0.8)
    starts, rest = [run for run in runs if "start" not in run], [run for run in runs if "start" in run]
    assert runs == [*starts, *rest] and (len(starts), len(rest)) == (2, 4)
    shared = {"dataset": "digits", "width": 8, "recipe": "fast", "momentum": 0.8}
    assert starts[0] == shared | {"decomp": "separable", "epochs": 9, "seed": 0, "save_weights": True}
    assert [run["start"]["seed"] for run in rest] == [run["seed"] for run in rest]
    assert {run["start"]["epochs"] for run in plan_runs(grid(**FROM), epochs=1)[1:]} == {1}


def test_every_run_gets_the_id_of_the_run_that_it_starts_from():
    configs = identify_runs(plan_runs(grid(**FROM, epochs=[2]), precision="float32"))
    (parent, config), *children = configs.items()
    assert config.save_weights and not config.start and len(children) == 2
    assert {child.start for _, child in children} == {parent}


def test_a_start_that_cannot_be_one_is_refused_before_any_run(tmp_path):
    circle = {"decomp": "dense"}
    circle["start"] = circle
    for start in ({"decomp": "tt", "budget": 0.5}, {}, {"decomp": "dense", "start": {"decomp": "dense"}}, circle):
        with pytest.raises(InputError, match="^start={.*}; allowed: the parameters of a dense or separable run"):
            plan_runs(grid(**FROM | {"start": [start]}))
    with pytest.raises(InputError, match="width=8 with start="):
        identify_runs(plan_runs(grid(**FROM | {"start": [{"decomp": "dense", "width": 4}]})))
    named = identify_runs(plan_runs(grid(**FROM | {"start": ["0" * 12]}), precision="float32", runs=str(tmp_path)))
    with pytest.raises(InputError, match="start='000000000000': this run is not there in runs="):
        missing_of(named)


def test_a_start_is_trained_again_only_for_its_weights_and_only_if_they_are_needed(tmp_path):
    configs = identify_runs(plan_runs(grid(**FROM, epochs=[2]), precision="float32", runs=str(tmp_path)))
    parent, *children = configs
    assert list(missing_of(configs)) == [parent, *children]
    for run in (parent, children[0]):
        store(tmp_path, row(run), [])
    assert list(missing_of(configs)) == [parent, children[1]]
    (tmp_path / parent / "weights.pt").write_bytes(b"kept")
    assert list(missing_of(configs)) == [children[1]]
    store(tmp_path, row(children[1]), [])
    (tmp_path / parent / "weights.pt").unlink()
    assert not missing_of(configs)


@pytest.mark.usefixtures("data_without_loading")
def test_status_shows_what_a_form_uses_and_where_a_failed_run_left_its_words(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    forms = [
        {"decomp": "separable"},
        {"decomp": "bottleneck", "budget": 0.25},
        {"decomp": "tt", "dims": 4, "budget": 0.75},
    ]
    runs = [runs_of(0)[0] | form for form in forms]
    failed = next(iter(identify_runs(plan_runs(runs, runs="mine"))))
    store(tmp_path / "mine", {"run": failed, "status": "failed", "reason": "no <room>"}, [])
    table = status(runs, runs="mine")
    assert table["log"].tolist() == [f"mine/{failed}/log.txt", "", ""]
    assert "None" not in table._repr_html_() and "nan" not in table._repr_html_().lower()
    head, *rows = table._repr_html_().split("</tr>")[:-1]
    names = re.findall("<th>(.*?)</th>", head)
    cells = [dict(zip(names, re.findall("<t[hd]>(.*?)</t[hd]>", row), strict=True)) for row in rows]
    assert [cell["dims"] for cell in cells] == ["", "", "4"]
    assert [cell["budget"] for cell in cells] == ["", "0.25", "0.75"]
    assert cells[0]["rank_rule"] == "" and cells[0]["reason"] == "no &lt;room&gt;"
    assert table["dims"].tolist() == [3, 3, 4]  # to count with


@pytest.mark.parametrize(("dataset", "augmented"), [("", False), ("digits", False), ("cifar10", True)])
def test_a_rehearsal_augments_what_may_be_mirrored(dataset, augmented):
    [*runs] = plan_runs("null-control", "smoke", dataset=dataset)
    assert {Config.of(run).fitted(1000).augment for run in runs} == {augmented}


def test_one_run_is_announced_as_one(tmp_path):
    configs = identify_runs(plan_runs(runs_of(0), runs=str(tmp_path)))
    assert next(announce(runs_of(0), "smoke", configs, configs, here=False)) == "own grid: 1 run, 0 done, 1 to train"
