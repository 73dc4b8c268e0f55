"""The benchmarks compare what they say, and write it down."""

from functools import partial
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import lowrank
from lowrank import train
from lowrank.config import Config
from lowrank.data.augmentation import FULL
from lowrank.hardware import graph

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def bench():
    return import_module("layers")


@pytest.fixture
def training():
    return import_module("training")


@pytest.fixture
def results(tmp_path, monkeypatch):
    """The folder of the tables."""
    folder = tmp_path / "made" / "results"
    monkeypatch.setattr(import_module("machine"), "RESULTS", folder)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A folder of a few random images for training and some for tests."""
    folder, draws = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 20)):
        for label in range(10):
            (folder / split / str(label)).mkdir(parents=True)
            for number in range(count):
                pixels = draws.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / str(label) / f"{number}.png")
    return str(folder)


@pytest.fixture(autouse=True)
def no_new_process(monkeypatch, forks, cluster):
    """Sweeps run in a thread, pools are forks: each process of its own would import torch for a few images."""
    monkeypatch.setattr(lowrank, "sweep", partial(lowrank.sweep, scheduler=cluster))
    for name in ("accuracy", "training"):
        monkeypatch.setattr(import_module(name), "get_context", lambda how: forks)


@pytest.fixture(autouse=True)
def one_thread():
    """Two would wait for each other where others work on the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def parameters(layer):
    return sum(parameter.numel() for parameter in layer.parameters())


def test_all_layers_do_the_same_job_with_as_many_parameters(bench):
    layers = bench.contestants(64)
    x = torch.randn(2, 64, 4, 4)
    for (name, budget), layer in layers.items():
        y = layer(x)
        assert y.shape == x.shape and y.isfinite().all(), name
        if 0 < budget < 1 and not name.startswith("tntorch tucker"):  # whose core is a train of full rank
            allowed = 9 * 64 + budget * 64**2
            assert parameters(layer) == pytest.approx(allowed, rel=0.15), name


def test_both_tables_are_printed_and_written_with_the_machine(bench, results, monkeypatch, capsys):
    for name, value in {"IMAGES": {32: 2}, "BATCH": 2, "THREADS": 1, "WARM_UP": 0}.items():
        monkeypatch.setattr(bench, name, value)
    try:
        bench.main(rounds=2)
    finally:
        torch.set_flush_denormal(False)
    printed = capsys.readouterr().out
    layers, contraction = (pd.read_csv(results / f"{name}-{bench.machine()}.csv") for name in ("layers", "contraction"))
    assert all(layer in printed for layer in layers.layer) and "they break even at m = " in printed
    for table in (layers, contraction):
        assert set(table.machine) == {bench.machine()} and set(table.threads) == {1}
        assert (table.ratio > 0).all()


# --- training


def test_the_table_of_training_is_printed_and_written(training, results, monkeypatch, capsys):
    for name, value in {"WIDTHS": (16,), "THREADS": 1, "BATCH": 4, "WARM_UP": 0}.items():
        monkeypatch.setattr(training, name, value)
    training.main(rounds=2)
    table = pd.read_csv(next(results.glob("training-*.csv"))).set_index("network")
    assert list(table.index) == list(training.NETWORKS) and "tt, budget 0.1" in capsys.readouterr().out
    assert (table[[*training.WAYS, "over 2018", "over transforms v2"]] > 0).all(axis=None)
    assert table.loc["separable", "over separable"] == 1


@pytest.mark.parametrize("way", ["2018", "transforms v2"])
def test_the_other_pipelines_augment_as_lowrank_does(training, way):
    """Every image is a crop of its padded original, flipped or not, with a hole of the mean colour."""
    data = training.random_images(8)
    config = Config(dataset="digits", width=4, batch_size=4).fitted(1500)
    mean, deviation = (each.numpy()[0] for each in data.moments)
    originals = np.pad((data.train_images.numpy() - mean) / deviation, [(0, 0), (0, 0), (4, 4), (4, 4)], "reflect")
    images = training.trainer(way, config, data).loader.dataset
    for index in range(8):
        image = np.asarray(images[index][0])
        views = np.lib.stride_tricks.sliding_window_view(originals[index], (3, 32, 32))[0].reshape(-1, 3, 32, 32)
        distances = (np.abs(np.concatenate([views, views[..., ::-1]]) - image) > 1e-4).any(1).sum((1, 2))
        assert distances.min() == pytest.approx(FULL.hole**2, abs=2)  # a pixel of the hole may have the mean colour


def test_the_other_pipelines_learn(training):
    data = training.random_images(16)
    for way in ("2018", "transforms v2"):
        pipeline = training.trainer(way, Config(dataset="digits", width=4, batch_size=8, epochs=2).fitted(1500), data)
        before = [parameter.detach().clone() for parameter in pipeline.network.parameters()]
        pipeline.train(0)
        assert all((a != b).any() for a, b in zip(before, pipeline.network.parameters(), strict=True))


# --- accuracy


def test_both_loops_are_trained_and_compared(results, dataset, monkeypatch, capsys):
    bench = import_module("accuracy")
    setting = bench.SETTING | {"width": 4, "epochs": 1, "batch_size": 256}
    for name, value in {"SETTING": setting, "SEEDS": range(2)}.items():
        monkeypatch.setattr(bench, name, value)
    bench.main(dataset)
    table = pd.read_csv(next(results.glob("accuracy-*.csv")))
    assert table[["way", "seed"]].values.tolist() == [["2018", 0], ["lowrank", 0], ["2018", 1], ["lowrank", 1]]
    assert table.test_accuracy.between(0, 1).all()
    assert f"{bench.apart(table):.1f} standard errors" in capsys.readouterr().out


def test_the_distance_of_two_means_is_in_standard_errors():
    table = pd.DataFrame({"way": list("aaabbb"), "test_accuracy": [0.1, 0.2, 0.3, 0.2, 0.3, 0.4]})
    assert import_module("accuracy").apart(table) == pytest.approx(0.1 / (2 * 0.01 / 3) ** 0.5)


# --- the fast recipe


@pytest.fixture
def small_study(dataset, monkeypatch, tmp_path):
    def run(name, **values):
        bench = import_module(name)
        setting = bench.SETTING | {"width": 4, "epochs": 1, "batch_size": 512, "precision": "float32"}
        for constant, value in {"SETTING": setting, "RUNS": str(tmp_path / "runs"), **values}.items():
            monkeypatch.setattr(bench, constant, value)
        bench.main(dataset)
        return bench

    return run


def test_the_recipes_are_compared_seed_by_seed(results, small_study, capsys):
    bench = small_study("recipe", SEEDS=2)
    table = pd.read_csv(next(results.glob("recipe-*.csv")))
    assert table.groupby("decomp").size().to_dict() == {"separable": 2 * 4, "tt": 2 * 5}
    fast, old = (table[(table.recipe == recipe) & (table.without == "nothing")] for recipe in ("fast", "2018"))
    over = [a - b for a, b in zip(fast.test_accuracy, old.test_accuracy, strict=True)]
    assert bench.gains(table)["mean"]["tt", "2018", "nothing"] == pytest.approx(np.mean(over[2:]), abs=2e-4)
    assert "the fast recipe, less" in capsys.readouterr().out


def test_learning_rates_are_compared_with_the_best(results, small_study, capsys):
    settings = [{"decomp": "tt", "dims": 4, "budget": 0.5}]
    bench = small_study("rates", SEEDS=1, RATES=[0.1, 0.4], SETTINGS=settings)
    table = pd.read_csv(next(results.glob("rates-*.csv")))
    assert len(table) == 4
    lost = bench.lost(bench.accuracies(table))
    assert lost.min(axis=None) == 0 and lost.max(axis=None) == pytest.approx(np.ptp(table.test_accuracy))
    assert "lost against the best" in capsys.readouterr().out


def test_networks_that_start_flat_are_compared_with_those_that_do_not(results, small_study, nothing_registered, capsys):
    bench = small_study("flattening", SEEDS=2)
    table = pd.read_csv(next(results.glob("flattening-*.csv"))).set_index(["decomp", "seed"]).test_accuracy
    for decomp in ("cp", "ring"):
        over = table[decomp] - table[f"{decomp} unflattened"]
        assert bench.gains(table.reset_index())["mean"][decomp] == pytest.approx(over.mean())
    assert "flattened, less not" in capsys.readouterr().out


# --- whole runs


def test_whole_runs_steps_and_trials_are_measured(results, dataset, monkeypatch, capsys, tmp_path):
    bench = import_module("whole_runs")
    small = {"WIDTH": 4, "NARROW": 4, "SEEDS": 2, "PACKED": (1,), "RUNS": str(tmp_path)}
    few = {"NETWORKS": {"tt": bench.NETWORKS["tt"]}, "FLOOR": {("tt", 1): 1.0, ("tt", 2): 1.0}}
    for name, value in (small | few).items():
        monkeypatch.setattr(bench, name, value)
    try:
        bench.main(dataset)
    finally:
        torch.set_flush_denormal(False)
    runs, steps, trials = (pd.read_csv(next(results.glob(f"{name}-*.csv"))) for name in ("runs", "steps", "trials"))
    assert runs[["network", "epochs", "seeds"]].values.tolist() == [["tt", 1, 2], ["tt", 2, 2]]
    assert runs.test_accuracy.between(0, 1).all() and (runs["floor / seconds"] > 0).all()
    assert list(steps.network) == ["tt", "tt"] and (steps.images_per_second > 0).all()
    assert list(trials.way) == ["2018", "lowrank, 1 at once"]
    assert (trials["trials an hour"] > 0).all() and trials["over 2018"][0] == 1
    printed = capsys.readouterr().out
    assert "trials an hour" in printed and printed.index("nothing is recorded on a CPU") < printed.index("in kernels")


@pytest.mark.parametrize(
    ("way", "line"),
    [
        (lambda loop: loop.step, None),
        (lambda loop: lambda *batch: (loop.step(*batch), loop.step(*batch))[1], "the weights are"),
        (lambda loop: graph.Recorded(loop.step), "steps are not recorded as a CUDA graph"),
    ],
    ids=["the same", "twice", "not recorded"],
)
def test_whole_runs_say_what_recorded_steps_do_otherwise(training, monkeypatch, way, line):
    def refuse(*_):
        raise RuntimeError("operation not permitted when stream is capturing")

    class Elsewhere(train.Loop):
        def __init__(self, *given):
            super().__init__(*given)
            self.take = way(self)

    bench = import_module("whole_runs")
    monkeypatch.setattr(graph, "record_graph", refuse)
    monkeypatch.setattr(bench, "Loop", Elsewhere)
    monkeypatch.setattr(bench, "DECOMPS", ["tt"])
    found = list(bench.find_differences(training.random_images(5 * bench.CHECKED["batch_size"])))
    assert len(found) == (2 if line else 0) and all(line in each for each in found)


# --- architectures


def test_a_table_of_architectures_says_which_go_through(results, monkeypatch, capsys):
    bench = import_module("architectures")

    def lost():
        """A network that cannot run."""
        return torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(3, 4)), torch.randn(2, 8)

    made = {name: make for name, make in bench.architectures().items() if name.endswith("squeezenet1_1")}
    monkeypatch.setattr(bench, "architectures", lambda: made | {"lost": lost})
    monkeypatch.setattr(bench, "PACKAGES", ("torch", "torchvision"))
    bench.main()
    table = pd.read_csv(next(results.glob("architectures-*.csv")), dtype={"unmoved": str}).fillna({"unmoved": ""})
    assert bench.went_through(table).tolist() == [True, False]
    assert table.decomposed[0] == 26 and table.kept[0] < 0.2 and "shapes cannot be multiplied" in table.fault[1]
    assert "1 of 2 go through whole; not: lost" in capsys.readouterr().out
