"""Whatever a public function is given: it is done, or one line names the argument, and no traceback comes."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small import quiet
from torch import nn

import lowrank
from lowrank.config import Config
from lowrank.errors import LONGEST, InputError
from lowrank.formats import FORMATS

HUGE = 10**12


def quiet_about_anything(*arguments: Any, **named: Any) -> None:
    pass


ODD: dict[str, Any] = {
    "None": None, "object": object(), "function": quiet_about_anything, "type": int, "True": True, "complex": 1j,
    "negative": -1, "half": 2.5, "huge": HUGE, "beyond 64 bits": 2**70, "NaN": float("nan"), "infinite": float("inf"),
    "empty": "", "text": "odd", "long": "x" * 10**5, "NUL": "a\0b", "half a character": "\ud800", "bytes": b"odd",
    "list": [1], "long list": list(range(10**5)), "dict": {"a": 1}, "dict of numbers": {1: 2}, "Path": Path("odd"),
    "array": np.arange(3), "numpy's text": np.array(["a", "b"]), "table": pd.DataFrame({"a": [1, 2]}),
    "tensor": torch.zeros(3, 3), "module": nn.Linear(8, 8),
}  # fmt: skip


class Halves(lowrank.Format):
    """A bottleneck by another name."""

    uses_dims = False

    def largest(self, folding):
        return (min(folding.outputs, folding.inputs),)

    def shapes(self, folding, ranks):
        return [(folding.outputs, ranks[0]), (ranks[0], folding.inputs)]

    def weight(self, cores, folding):
        return cores[0] @ cores[1]

    def weight_work(self, folding, ranks):
        return ranks[0] * folding.outputs * folding.inputs


NET = nn.Sequential(nn.Linear(8, 12), nn.Linear(12, 8))
STUDY = [{"dataset": "digits", "width": 1, "epochs": 1}]
IMAGES = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
HELD = lowrank.decompose(NET[0], budget=0.9)
SIZED = {"budget": 0.9}

# the function, the arguments that it is given otherwise, and those that are tried
CALLS: list[tuple[Callable, dict[str, Any], list[str]]] = [
    (Config, {}, [each.name for each in fields(Config)]),
    (lowrank.run, {"dataset": "digits", "runs": "\0", "log": quiet}, ["log", "watch"]),
    (lowrank.status, {"study": STUDY}, ["study", "scale", "seeds", "runs", "dataset", "width", "dimz"]),
    (
        lowrank.sweep,
        {"study": STUDY, "runs": "\0", "log": quiet},  # where nothing can be stored, nothing is trained
        ["scheduler", "insecure", "slots_per_gpu", "workers", "timeout", "show", "log"],
    ),
    (lowrank.grid, {}, ["dims"]),
    (lowrank.results, {}, ["runs"]),
    (lowrank.history, {"runs": "nowhere", "run": "none"}, ["runs", "run"]),
    (lowrank.load, {"run": "none", "runs": "nowhere"}, ["run", "runs", "device"]),
    (lowrank.predict, {"run": "none", "images": IMAGES, "runs": "nowhere"}, ["run", "images", "runs"]),
    (lowrank.data.load, {"dataset": "digits"}, ["dataset", "device"]),
    (lowrank.build, {"config": Config(width=1), "classes": 2}, ["config", "classes"]),
    (lowrank.register, {"decomp": "halves", "form": Halves()}, ["decomp", "form"]),
    (lowrank.densify, {}, ["module"]),
    (lowrank.summary, {"module": NET}, ["module", "image", "example"]),
    (lowrank.assign, {"layer": HELD, "weight": torch.zeros(12, 8)}, ["layer", "weight"]),
    (
        lowrank.parameter_groups,
        {"network": NET, "learning_rate": 0.1},
        ["network", "learning_rate", "weight_decay", "matrices"],
    ),
    (
        lowrank.decompose,
        {"module": NET} | SIZED,
        ["module", "decomp", "dims", "rank_rule", "init", "allocation", "contraction", "skip", "only", "budgets"],
    ),
    (lowrank.decompose, {"module": NET}, ["budget", "rank_scale", "error", "ranks"]),
    (lowrank.decompose, {"module": NET} | SIZED, ["example"]),
]
TRIED = [(function, given, name) for function, given, names in CALLS for name in names]
OTHERWISE = {  # what the line names, if it is not the argument
    ("run", "watch"): "runs", ("sweep", "show"): "runs", ("sweep", "log"): "runs",
    ("sweep", "scheduler"): "runs", ("sweep", "insecure"): "runs", ("sweep", "timeout"): "runs", ("run", "log"): "runs",
    ("sweep", "workers"): "runs", ("sweep", "slots_per_gpu"): "runs",
    ("history", "runs"): "run", ("load", "runs"): "run", ("predict", "runs"): "run", ("predict", "images"): "run",
    ("load", "device"): "run", ("decompose", "skip"): "nothing to decompose", ("decompose", "ranks"): "budget",
}  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("nothing_registered")
@pytest.mark.parametrize(("function", "given", "name"), TRIED, ids=[f"{f.__name__}-{name}" for f, _, name in TRIED])
def test_an_odd_argument_is_taken_or_named_in_one_line(function, given, name):
    for value in ODD.values():
        try:
            function(**given | {name: value})
        except InputError as error:
            line = str(error)
            assert "\n" not in line and len(line) < LONGEST + 1 and line.encode()
            assert name in line or OTHERWISE.get((function.__name__, name), name) in line, line


def test_a_line_keeps_both_its_ends_however_long_what_was_given_is():
    with pytest.raises(InputError) as refusal:
        Config(decomp="x" * 10**6)
    line = str(refusal.value)
    assert line.startswith("decomp='xxx") and "allowed: dense, separable" in line and len(line) < LONGEST + 1


def test_config_says_which_parameter_was_meant():
    with pytest.raises(InputError, match="^dimz=3: there is no such parameter; did you mean dims[?]$"):
        Config(dimz=3)


@pytest.mark.parametrize("name", [each.name for each in fields(Config) if each.type == "float" and each.default == 0])
def test_minus_zero_is_zero(name):
    size = {"budget": 0.5} if name != "budget" else {"rank_scale": 0.5}
    config, negative = Config(**size | {name: 0.0}), Config(**size | {name: -0.0})
    assert config.run_id("pixels") == negative.run_id("pixels")


@pytest.mark.parametrize("decomp", FORMATS)
@pytest.mark.parametrize("number", [int, np.int32, np.int64, np.uint8])
def test_ranks_may_be_numbers_of_numpy(decomp, number):
    sizes = len(FORMATS[decomp].largest(lowrank.formats.fold(12, 8, 3)))
    plain = lowrank.decompose(NET[0], decomp=decomp, ranks=(1,) * sizes).layout
    for ranks in (number(1), (number(1),) * sizes, np.ones(sizes, number)):
        assert lowrank.decompose(NET[0], decomp=decomp, ranks=ranks).layout == plain


def test_a_study_takes_numbers_of_numpy():
    plain = lowrank.status(STUDY, seeds=2)
    assert lowrank.status(STUDY, seeds=np.int64(2))["run"].tolist() == plain["run"].tolist()


def test_mirrored_images_of_numpy_are_images(tmp_path):
    asked = {"dataset": "digits", "width": 1, "epochs": 1, "batch_size": 512, "precision": "float32", "budget": 1.0}
    record = lowrank.run(log=quiet, runs=tmp_path, save_weights=True, **asked)
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), np.uint8)
    row = lowrank.results(tmp_path).iloc[0]
    for named in (record["run"], record, row):
        there = lowrank.predict(named, images[:, ::-1], tmp_path)
        assert torch.equal(there, lowrank.predict(named, images[:, ::-1].copy(), tmp_path))
        assert len(lowrank.history(tmp_path, named)) == 1
