"""A run that starts from the trained network of another: decomposed, measured or trained on, and loaded again."""

import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from small import SMALL, quiet, run

import lowrank
from lowrank.config import Config
from lowrank.data import load as load_data
from lowrank.errors import InputError
from lowrank.layers import Decomposed
from lowrank.network import select_decomposable

KEPT = {"epochs": 2, "batch_size": 64, "augment": False, "learning_rate": 0.2, "save_weights": True}
CHILD = {"batch_size": 64, "augment": False, "learning_rate": 0.1, "budget": 0.6}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def parents(runs):
    return {decomp: run(runs, decomp=decomp, **KEPT) for decomp in ("separable", "dense")}


@pytest.mark.parametrize("form", ["separable", "dense"])
@pytest.mark.parametrize("decomp", ["tt", "bottleneck"])
def test_the_trained_network_is_decomposed_measured_trained_on_and_loaded(runs, parents, form, decomp):
    start = {"start": parents[form]["run"], "decomp": decomp, "dims": 4, "save_weights": True, **CHILD}
    measured, trained = (run(runs, epochs=epochs, **start) for epochs in (0, 1))
    net, data = lowrank.load(measured, runs=str(runs)), load_data("digits")
    whole = lowrank.load(parents[form], runs=str(runs))
    layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, Decomposed)}
    weights = {name: whole.get_submodule(name).weight for name in select_decomposable(lowrank.summary(whole)).index}
    kept = {name: each for name, each in net.state_dict().items() if "core_" not in name}
    assert kept and all(torch.equal(each, whole.state_dict()[name]) for name, each in kept.items())
    lost = sum((layer.weight - weights[name]).square().sum() for name, layer in layers.items())
    energy = sum(weight.square().sum() for weight in weights.values())
    for record in (measured, trained):
        assert (record["start_decomp"], record["init"], record["status"]) == (form, "weights", "done")
        assert record["start_error"] == pytest.approx((lost / energy).sqrt().item(), rel=1e-3)
        assert record["pointwise_parameters"] <= 0.6 * sum(weight.numel() for weight in weights.values())
        logits = lowrank.predict(record, data.test_images, runs=str(runs))
        assert (logits.argmax(1) == data.test_labels).float().mean().item() == pytest.approx(record["test_accuracy"])
    assert measured["start_error"] < 0.8 and trained["test_loss"] < measured["test_loss"]
    assert len(lowrank.history(runs, measured["run"])) == 1 and measured["seconds"] == 0


def test_without_epochs_everything_is_measured_as_after_the_last(runs, tmp_path):
    parent = run(tmp_path, decomp="separable", validation=0.2, **KEPT)
    record = run(tmp_path, start=parent["run"], epochs=0, validation=0.2, **CHILD)
    assert all(math.isfinite(record[f"{part}_loss"]) for part in ("validation", "test", "fit"))
    row = lowrank.results(tmp_path).set_index("run").loc[record["run"]]
    assert math.isnan(row.train_loss) and row.start == parent["run"] and row.epochs == 0


def test_a_start_is_part_of_the_id_and_its_absence_is_not():
    start = {"start": "0" * 12, "budget": 0.1}
    ids = {Config(**asked).run_id("pixels") for asked in (start, start | {"start": "1" * 12}, {"budget": 0.1})}
    assert len(ids) == 3
    assert Config(**start) == Config(init="weights", **start)


SAID = "with start='000000000000'; allowed: "


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"start": "tt"}, "start='tt'; allowed: the id of a run, 12 hexadecimal digits, or ''"),
        ({"start": "0" * 12, "rank_scale": 0.5}, f"rank_scale=0.5 {SAID}a budget in its place"),
        ({"start": "0" * 12}, f"budget=0.0 {SAID}above 0 and up to 1"),
        ({"start": "0" * 12, "budget": 0.1, "init": "decompose"}, f"init='decompose' {SAID}'weights'"),
        ({"start": "0" * 12, "budget": 0.1, "rank_rule": "root"}, f"rank_rule='root' {SAID}'auto'"),
        ({"start": "0" * 12, "decomp": "dense"}, f"decomp='dense' {SAID}a decomposition"),
        ({"init": "weights"}, "init='weights' without start; allowed: another, or with start"),
        ({"epochs": 0}, "epochs=0 without start; allowed: >= 1, or with start"),
    ],
    ids=str,
)
def test_what_contradicts_a_start_is_refused(asked, line):
    with pytest.raises(InputError) as refusal:
        Config(**asked)
    assert str(refusal.value).startswith(line) and "\n" not in str(refusal.value)


def test_a_run_that_cannot_be_the_start_is_refused_before_any_work(runs, parents, tmp_path):
    separable = parents["separable"]["run"]
    decomposed = run(runs, decomp="tt", budget=0.6, **KEPT)["run"]
    bare = run(runs, decomp="separable", seed=5)["run"]
    other = json.loads((runs / separable / "record.json").read_text()) | {"data": "f00", "run": "a" * 12}
    (runs / other["run"]).mkdir()
    (runs / other["run"] / "record.json").write_text(json.dumps(other))
    (runs / other["run"] / "weights.pt").write_bytes(b"")
    before = sorted(runs.glob("*"))
    for asked, line in (
        ({"start": "0" * 12}, f"start='{'0' * 12}': this run is not there in runs={str(runs)!r}"),
        ({"start": bare}, f"start='{bare}': this run kept no weights; lowrank.run(..., save_weights=True)"),
        ({"start": decomposed}, f"start='{decomposed}': its network is decomposed already (tt); allowed: dense or sep"),
        ({"start": separable, "width": 8}, f"width=8 with start='{separable}'; allowed: 4"),
        ({"start": separable, "validation": 0.2}, f"validation=0.2 with start='{separable}'; allowed: 0.0"),
        ({"start": separable, "budget": 0.001}, "budget=0.001: the smallest tt with these modes"),
        ({"start": other["run"]}, "dataset='digits' ("),
    ):
        with pytest.raises(InputError) as refusal:
            run(runs, **CHILD | asked)
        assert str(refusal.value).startswith(line) and "\n" not in str(refusal.value)
    assert sorted(runs.glob("*")) == before


def test_a_record_that_does_not_say_what_it_was_trained_on_is_named(runs, parents, tmp_path):
    parent = parents["separable"]
    shutil.copytree(runs / parent["run"], tmp_path / parent["run"])
    file = tmp_path / parent["run"] / "record.json"
    file.write_text(json.dumps({key: value for key, value in parent.items() if key != "data"}))
    with pytest.raises(InputError) as refusal:
        run(tmp_path, start=parent["run"], epochs=0, **CHILD)
    assert str(refusal.value) == f"{file}: it does not say data"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "fifo"])
def test_what_stands_in_the_place_of_weights_is_named(runs, parents, tmp_path, make):
    parent = parents["separable"]
    shutil.copytree(runs / parent["run"], tmp_path / parent["run"])
    file = tmp_path / parent["run"] / "weights.pt"
    file.unlink()
    make(file)
    with pytest.raises(InputError, match=f"^start='{parent['run']}': {file} is no file; without it lowrank.run"):
        run(tmp_path, start=parent["run"], epochs=0, **CHILD)


@pytest.mark.parametrize("damage", ["cut", "layouts"])
def test_damaged_weights_are_refused_in_a_line(tmp_path, damage):
    parent = run(tmp_path, decomp="separable", **KEPT)
    child = run(tmp_path, start=parent["run"], epochs=0, save_weights=True, **CHILD)
    path = tmp_path / (parent["run"] if damage == "cut" else child["run"]) / "weights.pt"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-50])
        with pytest.raises(InputError, match="damaged weights"):
            run(tmp_path, start=parent["run"], epochs=1, **CHILD)
        return
    kept = torch.load(path, weights_only=True)
    layouts = kept["layouts"]
    ranks = [
        {name: each | {"ranks": ranks} for name, each in layouts.items()} for ranks in ((), (-1,) * 2, (2**62,) * 2)
    ]
    for wrong in ({}, {"layer1": 3}, {"no.layer": next(iter(layouts.values()))}, None, *ranks):
        torch.save(kept | {"layouts": wrong}, path)
        with pytest.raises(InputError, match="damaged weights") as refusal:
            lowrank.load(child, runs=str(tmp_path))
        assert "\n" not in str(refusal.value)


def test_a_record_that_does_not_say_what_was_decomposed_is_named(runs, parents, tmp_path):
    child = run(runs, start=parents["separable"]["run"], epochs=0, save_weights=True, **CHILD)
    shutil.copytree(runs / child["run"], tmp_path / child["run"])
    file = tmp_path / child["run"] / "record.json"
    said = json.loads(file.read_text())
    del said["start_decomp"]
    file.write_text(json.dumps(said))
    with pytest.raises(InputError, match=f"^{file}: it does not say start_decomp$"):
        lowrank.load(child["run"], runs=tmp_path)


def test_a_stopped_run_with_a_start_goes_on(runs, parents, tmp_path, monkeypatch):
    """From its checkpoint, to the same end."""
    asked = {"start": parents["separable"]["run"], "epochs": 2, "seed": 3, **SMALL, **CHILD}
    whole = lowrank.run(log=quiet, runs=str(runs), **asked)
    (runs / whole["run"] / "record.json").unlink()

    def stop(history):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lowrank.run(log=quiet, runs=str(runs), watch=stop, **asked)
    lines = []
    again = lowrank.run(log=lines.append, runs=str(runs), **asked)
    assert "going on after epoch 1" in lines and again["test_loss"] == whole["test_loss"]
