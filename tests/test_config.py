"""What a user may ask for, and the one line that says what else is allowed."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

import lowrank
from lowrank.config import ADDED, Config, dataset_name, parameters_of
from lowrank.errors import InputError
from lowrank.formats import FORMATS, fold, solve
from lowrank.paths import ROOT, cache_folder

REFUSED = [
    ({"dimz": 3}, "dimz=3: there is no such parameter; did you mean dims?"),
    ({"dims": 3.5}, "dims=3.5 is of type float; allowed: int, 2 to 32"),
    ({"dims": 3.0}, "dims=3.0 is of type float"),
    ({"dims": True}, "dims=True is of type bool"),
    ({"dims": 1}, "dims=1; allowed: 2 to 32"),
    ({"width": 10**6}, "width=1000000; allowed: 1 to 4096"),
    ({"dims": 33}, "dims=33; allowed: 2 to 32"),
    ({"dims": 10**12}, "dims=1000000000000; allowed: 2 to 32"),
    ({1: 2}, "1=2: there is no such parameter"),
    ({"augment": "false"}, "augment='false'; allowed: True, False or auto"),
    ({"augment": 0.5}, "augment=0.5 is of type float; allowed: str, True, False or auto"),
    ({"save_weights": "auto"}, "save_weights='auto' is of type str"),
    ({"batch_size": 1}, "batch_size=1; allowed: 2 or more, or 0"),
    ({"weight_decay": "5e-4"}, "written 0.0005 or 5.0e-4"),
    ({"learning_rate": float("nan")}, "learning_rate=nan; allowed: >= 0"),
    ({"budget": 0.1, "rank_scale": 0.1}, "budget=0.1 and rank_scale=0.1: only one"),
    ({"budget": 1.5}, "budget=1.5; allowed: 0 to 1"),
    ({"decomp": "tucke"}, "decomp='tucke'; allowed: dense, separable, bottleneck, tt, tucker, tucker_tt, cp, ring"),
    ({"decomp": "dense", "budget": 0.1}, "decomp='dense' has no ranks"),
    ({"schedule": "step"}, "schedule='step'; allowed: triangle, cosine, constant"),
    ({"recipe": "2019"}, "recipe='2019'; allowed: 2018, fast"),
    ({"recipe": "fast", "without": "flip"}, "without='flip'; allowed: nothing, light augmentation, flip at test, core"),
    ({"without": "flip at test"}, "without='flip at test': recipe='2018' has no ingredients"),
    ({"dataset": "nowhere.tar"}, "dataset='nowhere.tar'; allowed: cifar10, cifar100, digits"),
    ({"dataset": ""}, "dataset=''; allowed: cifar10, cifar100, digits"),
    ({"dataset": "a\0b.zip"}, "dataset='a\\x00b.zip'"),
    ({"dataset": "x" * 300}, "dataset='xxx"),
    ({"runs": ""}, "runs=''"),
    ({"runs": "a\0b"}, "runs='a\\x00b'; allowed: the path of a folder"),
    ({"runs": "~nobody-of-that-name/x"}, "runs='~nobody-of-that-name/x'; allowed: the path of a folder"),
    ({"runs": "x" * 300}, "allowed: the path of a folder"),
    ({"runs": "/".join(["x" * 200] * 30)}, "allowed: the path of a folder"),
    ({"runs": "\ud800"}, "allowed: the path of a folder"),
    ({"runs": os.fsdecode(b"\xff")}, "allowed: the path of a folder"),
    ({"runs": 5.5}, "runs=5.5 is of type float; allowed: str, the path of a folder"),
    ({"runs": b"runs"}, "runs=b'runs' is of type bytes"),
    ({"seed": 2**70}, f"seed={2**70}; allowed: >= 0, and below 2**63"),
    ({"seed": 2**63}, f"seed={2**63}; allowed: >= 0, and below 2**63"),
    ({"width": 10**5000}, "width=(a huge number); allowed: 1 to 4096, and below 2**63"),
    ({"learning_rate": 10**400}, "learning_rate=(a huge number); allowed: >= 0, and below 2**63"),
    ({"recipe": 10**5000}, "recipe=(a huge number); allowed: 2018, fast, and below 2**63"),
    ({"dims": np.int64(1)}, "dims=1; allowed: 2 to 32"),
    ({"dims": np.float64(3)}, "dims=3.0 is of type float; allowed: int"),
    ({"dims": np.array([3])}, "dims=array([3]) is of type ndarray; allowed: int"),
    ({"learning_rate": np.float32("nan")}, "learning_rate=nan; allowed: >= 0"),
    ({"decomp": Path("tt")}, "is of type PosixPath; allowed: str"),
    ({"seed": None}, "seed=None is of type NoneType; allowed: int, >= 0"),
]


@pytest.mark.parametrize(("asked", "line"), REFUSED, ids=[line[:40] for _, line in REFUSED])
def test_refusals_are_one_line_with_parameter_value_and_what_is_allowed(asked, line):
    with pytest.raises(InputError) as refusal:
        Config.of(asked)
    assert line in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_neither_budget_nor_rank_scale_means_rank_scale_one_half():
    assert Config().rank_scale == 0.5
    assert Config(budget=0.1).rank_scale == 0
    assert Config(decomp="dense").rank_scale == 0


def test_records_keep_their_names_though_parameters_were_added():
    older = json.loads(Path(__file__).with_name("older-record.json").read_text())  # of a run before there were some
    records = [older, *(json.loads(path.read_text()) for path in (ROOT / "runs").glob("*/record.json"))]
    assert not ADDED.keys() & older.keys() and len(records) > 1
    for record in records:
        parameters = {name: value for name, value in record.items() if name in Config.__dataclass_fields__}
        assert Config(**parameters | {"dataset": "digits"}).run_id(record["data"]) == record["run"]
    assert Config(recipe="fast").run_id("pixels") != Config().run_id("pixels")


def test_the_run_is_named_by_what_decides_its_result():
    name = Config(seed=1).run_id("pixels")
    assert name == Config(seed=1, runs="elsewhere").run_id("pixels")
    assert name == Config(seed=1, rank_scale=0.5).run_id("pixels")
    assert name != Config(seed=2).run_id("pixels")
    assert name != Config(seed=1).run_id("other pixels")
    assert name != Config(seed=1, dims=4).run_id("pixels")


@pytest.mark.parametrize("decomp", ["dense", "separable", "bottleneck"])
def test_modes_do_not_decide_the_result_of_forms_that_are_never_folded(decomp):
    assert Config(decomp=decomp, dims=3).run_id("pixels") == Config(decomp=decomp, dims=4).run_id("pixels")


def test_a_path_is_recorded_by_its_last_part():
    assert dataset_name("some/where/cifar10-jpeg.tar.xz") == "cifar10-jpeg"
    assert dataset_name("some/where/my.images") == "my.images"
    assert dataset_name("cifar100") == "cifar100"


def test_parameters_of_a_notebook_are_its_plain_values():
    namespace = {"decomp": "tt", "dimz": 3, "_private": 1, "In": ["code"], "Out": {}, "dims": [3], "print": print}
    assert parameters_of(namespace) == {"decomp": "tt", "dimz": 3, "dims": [3]}


@pytest.mark.parametrize("images", [1, 2, 39, 40, 41, 100, 1497, 10_000, 10_240, 45_000, 50_000, 10**7])
def test_what_is_left_to_the_data_follows_its_size(images):
    fitted = Config(dataset="digits").fitted(images)
    assert 2 <= fitted.batch_size <= 512 and (fitted.batch_size == 2 or images // fitted.batch_size >= 20)
    assert 0 < fitted.learning_rate <= 0.4 and fitted.augment is False
    assert Config(dataset="digits", batch_size=10**9).fitted(512).learning_rate == 0.4  # a step has 512 images
    own = Config(dataset="digits", batch_size=7, learning_rate=0.3, augment=True)
    assert own.fitted(images) == own


def test_cifar_is_trained_as_in_the_log():
    for images in (50_000, 45_000):
        fitted = Config(dataset="cifar10").fitted(images)
        assert (fitted.batch_size, fitted.learning_rate, fitted.augment) == (512, 0.4, True)


def test_a_module_is_decomposed_with_numbers_of_numpy():
    import torch

    held = lowrank.decompose(torch.nn.Linear(8, 8), dims=np.int64(3), budget=np.float64(0.9))
    assert held.layout == lowrank.decompose(torch.nn.Linear(8, 8), dims=3, budget=0.9).layout


def test_paths_may_be_paths_and_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWRANK_CACHE", str(cache_folder()))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pets").mkdir()
    for home in ("~/", f"{tmp_path}/"):
        assert Config(dataset=home + "pets", runs=home + "mine").folder == tmp_path / "mine"
        config = Config(dataset=Path(home, "pets"), runs=Path(home, "mine"))
        assert config.folder == tmp_path / "mine" and dataset_name(config.dataset) == "pets"
        assert config.run_id("pixels") == Config(dataset="digits").run_id("pixels")
    assert Config(runs="elsewhere").folder == ROOT / "elsewhere"
    asked = {"dataset": "digits", "width": 1, "epochs": 1, "budget": 1.0, "precision": "float32"}
    record = lowrank.run(log=lambda line: None, runs="~/mine", save_weights=True, **asked)
    assert os.listdir(tmp_path / "mine" / record["run"]) and not (ROOT / "~").exists() and not Path("~").exists()
    assert lowrank.results("~/mine")["run"].tolist() == [record["run"]]
    assert len(lowrank.history("~/mine", record["run"])) == 1
    assert lowrank.load(record["run"], "~/mine")


@pytest.mark.parametrize(("name", "value"), [("log", 5), ("log", None), ("watch", 1), ("watch", "curves")])
def test_what_cannot_be_called_is_refused_before_any_work(tmp_path, name, value):
    with pytest.raises(InputError, match=f"^{name}={value!r}; allowed: a function of one argument"):
        lowrank.run(dataset="digits", runs=str(tmp_path / "runs"), **{name: value})
    assert not (tmp_path / "runs").exists()


def test_who_gives_a_parameter_without_its_name_is_told(tmp_path):
    line = "^log='tt'; allowed: a function of one argument; parameters of runs are given by name, such as decomp='tt'$"
    with pytest.raises(InputError, match=line):
        lowrank.run("tt", dataset="digits", runs=str(tmp_path / "runs"))


def test_a_function_without_an_argument_is_refused_before_any_work(tmp_path):
    with pytest.raises(InputError, match="^watch=<function .*; allowed: a function of one argument$"):
        lowrank.run(dataset="digits", runs=str(tmp_path / "runs"), watch=lambda: None)
    assert not (tmp_path / "runs").exists()


def test_a_batch_that_is_larger_than_the_training_set_is_said(tmp_path):
    asked = {"dataset": "digits", "width": 1, "epochs": 1, "budget": 1.0, "precision": "float32"}
    for size, said in ((2**63 - 1, 1), (10**9, 1), (512, 0)):
        lines = []
        lowrank.run(log=lines.append, runs=str(tmp_path), batch_size=size, **asked)
        assert sum(f"batch_size={size}: only 1,497 training images" in line for line in lines) == said


def test_a_path_is_recorded_without_its_ending_in_any_case():
    assert dataset_name("some/where/Pets.ZIP") == dataset_name("Pets.Tar.XZ") == "Pets"
    assert dataset_name(".") == Path.cwd().name


@pytest.mark.parametrize("decomp", FORMATS)
def test_ranks_grow_as_suits_the_format_best_unless_it_is_said(decomp):
    config = Config(decomp=decomp, budget=0.1)
    assert config.rank_rule == FORMATS[decomp].rank_rule and config == Config(**asdict(config))
    shapes = [fold(64, 48, 3), fold(64, 64, 3)]
    assert solve(decomp, shapes, budget=0.1) == solve(decomp, shapes, budget=0.1, rank_rule=config.rank_rule)
