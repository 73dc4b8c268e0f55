"""The loop: schedules, weight decay, divergence, and runs that are killed and go on."""

import base64
import csv
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import lowrank
from lowrank import train
from lowrank.config import DECOMPS, Config, InputError
from lowrank.data import FULL, LIGHT, load
from lowrank.hardware.precision import resolved_precision
from lowrank.layers import Decomposed

SMALL = {"dataset": "digits", "width": 4, "batch_size": 256, "precision": "float32", "augment": True}
FASTEST = resolved_precision("auto", torch.device("cpu"))  # bfloat16 crawls where the processor does not know it


def quiet(_: str) -> None:
    pass


def run(runs, log=quiet, **parameters):
    return lowrank.run(log=log, runs=str(runs), **{**SMALL, "epochs": 1, **parameters})


def networks(**parameters):
    config = Config(**{**SMALL, **parameters}).fitted(1500)
    return config, lowrank.build(config, classes=10)


@pytest.mark.parametrize("decomp", DECOMPS)
@pytest.mark.parametrize("precision", sorted({"float32", FASTEST}))
def test_every_form_trains_and_its_record_counts_what_torch_counts(tmp_path, decomp, precision):
    record = run(tmp_path, decomp=decomp, precision=precision)
    _, network = networks(decomp=decomp)
    assert record["status"] == "done"
    assert record["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert math.isfinite(record["train_loss"])
    assert lowrank.results(tmp_path).parameters.tolist() == [record["parameters"]]


def test_training_learns(tmp_path):
    record = run(tmp_path, decomp="tt", width=8, epochs=6, batch_size=64, augment=False)
    assert record["test_accuracy"] > 0.8


def test_compression_is_relative_to_the_separable_network(tmp_path):
    assert run(tmp_path, decomp="separable")["compression"] == 1
    assert run(tmp_path, decomp="dense")["compression"] == 9
    assert 0.4 < run(tmp_path, decomp="tt", budget=0.5)["compression"] <= 0.5


def test_schedules_start_peak_and_end_where_they_should():
    assert [train.rate("triangle", at) for at in (0, 5 / 48, 5 / 24, 1)] == pytest.approx([0, 0.5, 1, 0])
    assert [train.rate("constant", at) for at in (0, 0.5, 1)] == [1, 1, 1]
    assert [train.rate("cosine", at) for at in (0, 1 / 3, 0.5, 1)] == pytest.approx([1, 0.75, 0.5, 0], abs=1e-12)


@pytest.fixture
def few():
    """20 training images."""
    data = load("digits")
    return replace(data, train_images=data.train_images[:20], train_labels=data.train_labels[:20])


@pytest.mark.parametrize("decomp", ["tt", "dense"])
@pytest.mark.parametrize("decay", ["plain", "compression", "frobenius", "none"])
def test_every_group_holds_parameters_and_follows_the_schedule(few, decomp, decay):
    config, network = networks(decomp=decomp, decay=decay, epochs=3, batch_size=4)
    loop = train.Loop(config, network, few, lambda: None)
    rates = []
    loop.on_step = lambda: rates.append([group["lr"] for group in loop.optimiser.param_groups])
    for epoch in range(config.epochs):
        loop.train(epoch)
    assert all(len(set(step)) == 1 for step in rates)
    assert max(step[0] for step in rates) > 0.8 * config.learning_rate > 0.3 * config.learning_rate > rates[-1][0] > 0
    held = [id(parameter) for group in loop.optimiser.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in network.parameters())


def test_the_fast_recipe_predicts_from_both_views_and_leaves_out_what_it_is_told():
    data = load("digits")
    images = data.normalise(data.test_images[:8])

    def predicted(**recipe):
        config, network = networks(**recipe)
        loop = train.Loop(config, network, data, lambda: None)
        network.eval()
        with torch.no_grad():
            return loop.predict(images), (loop.network(images) + loop.network(images.flip(3))) / 2

    both, mean = predicted(recipe="fast")
    torch.testing.assert_close(both, mean)
    one, mean = predicted(recipe="fast", without="flip at test")
    assert not torch.allclose(one, mean)
    torch.testing.assert_close(one, predicted()[0])


def test_the_fast_recipe_augments_less():
    def used(**parameters):
        return train.augmentation(Config(**parameters).fitted(50_000))

    assert used() == used(recipe="fast", without="light augmentation") == FULL
    assert used(recipe="fast") == used(recipe="fast", without="flip at test") == LIGHT
    assert used(augment=False) is used(recipe="fast", augment=False) is None


def test_weight_decay_of_each_kind_of_weight():
    expected = {"plain": 1.0, "none": 0.0, "frobenius": 0.0}
    for decay in ("plain", "compression", "frobenius", "none"):
        config, network = networks(decay=decay, budget=0.5, weight_decay=0.01)
        of = {id(p): value for value, each in train.weight_decays(network, config).items() for p in each}
        for layer in network.modules():
            if isinstance(layer, Decomposed):
                wanted = 0.01 * expected.get(decay, layer.compression)
                assert [of[id(core)] for core in layer.cores] == pytest.approx([wanted] * len(layer.cores))
        assert of[id(network.first.convolution.weight)] == (0 if decay == "none" else 0.01)


def test_frobenius_decay_pulls_at_the_weight_that_the_cores_make():
    _, network = networks(decomp="tucker", dims=4)
    train.frobenius(network).backward()
    for layer in network.modules():
        if isinstance(layer, Decomposed):
            got = [core.grad.clone() for core in layer.cores]
            weight = layer.weight
            wanted = torch.autograd.grad(weight, layer.cores, grad_outputs=weight.detach())
            for one, other in zip(got, wanted, strict=True):
                torch.testing.assert_close(one, other)


def test_a_divergence_ends_the_run_at_once_and_is_recorded(tmp_path):
    record = run(tmp_path, decomp="dense", learning_rate=1e30, epochs=50, augment=False)
    assert record["status"] == "diverged"
    assert len(lowrank.history(tmp_path, record["run"])) < 50
    assert lowrank.results(tmp_path).status.tolist() == ["diverged"]


def test_a_done_run_is_returned_and_not_trained_again(tmp_path):
    first, lines = run(tmp_path), []
    again = lowrank.run(log=lines.append, runs=str(tmp_path), epochs=1, **SMALL)
    assert again == first
    assert "already done" in lines[0] and len(lines) == 1


def test_refusals_leave_nothing_behind(tmp_path):
    for parameters, line in (
        ({"precision": "float16"}, "precision='float16' is hopelessly slow on a CPU"),
        ({"decomp": "bottleneck", "budget": 0.001}, "budget=0.001: the smallest bottleneck"),
        ({"dims": 0}, "dims=0"),
    ):
        with pytest.raises(InputError, match=line):
            run(tmp_path / "runs", **parameters)
    assert not (tmp_path / "runs").exists()


def test_the_cost_is_told_before_and_every_epoch_after(tmp_path):
    lines = []
    lowrank.run(log=lines.append, runs=str(tmp_path), epochs=3, **SMALL)
    assert "parameters" in lines[0] and "multiply-adds" in lines[0]
    assert any("of training to go" in line for line in lines)
    epochs = [line for line in lines if line.startswith("epoch")]
    assert len(epochs) == 3 and all("train loss" in line and "test loss" in line for line in epochs)


def train_elsewhere(log, runs, parameters):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells make background jobs ignore it
    run(runs, log=log.send, **parameters)


@pytest.fixture
def elsewhere(forks):
    """Starts a run in a process of its own, and gives that and the lines that it says."""

    def start(runs, **parameters):
        lines, log = forks.Pipe(duplex=False)
        process = forks.Process(target=train_elsewhere, args=[log, runs, parameters])
        process.start()
        log.close()
        return process, iter(lines.recv, None)

    return start


def numbers(runs: Path) -> list[list[str]]:
    """The history of the only run, without its times."""
    (path,) = runs.glob("*/history.csv")
    with open(path) as file:
        return [[value for name, value in row.items() if name != "seconds"] for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("decomp", "precision", "stop"),
    [
        ("tt", "float32", signal.SIGKILL),
        ("cp", FASTEST, signal.SIGTERM),
        ("ring", "float32", signal.SIGINT),
    ],
)
def test_a_stopped_run_goes_on_and_ends_bit_for_bit_where_it_would_have(tmp_path, elsewhere, decomp, precision, stop):
    stopped, alone, lines = tmp_path / "stopped", tmp_path / "alone", []
    asked = {"decomp": decomp, "precision": precision, "epochs": 6, "budget": 0.3}
    process, said = elsewhere(stopped, **asked)
    assert any(line.startswith("epoch 2/6") for line in said)
    os.kill(process.pid, stop)
    process.join()
    assert process.exitcode != 0
    assert not list(stopped.glob("*/record.json"))
    run(stopped, log=lines.append, **asked)
    assert any("going on after epoch" in line for line in lines)
    run(alone, **asked)
    assert numbers(stopped) == numbers(alone)
    assert len(numbers(stopped)) == 6
    assert not list(stopped.glob("*/checkpoint.pt"))


def test_two_processes_that_want_the_same_run_train_it_once(tmp_path, elsewhere):
    process, said = elsewhere(tmp_path, epochs=6)
    assert any(line.startswith("epoch 1/6") for line in said)
    lines = []
    run(tmp_path, log=lines.append, epochs=6)
    process.join()
    assert "waiting for it" in lines[0] and "already done" in lines[1] and len(lines) == 2
    assert process.exitcode == 0 and len(lowrank.results(tmp_path)) == 1


@pytest.mark.parametrize("decomp", ["separable", "tt"])
def test_validation_images_are_kept_apart_and_the_test_images_seen_once(tmp_path, decomp):
    record = run(tmp_path, decomp=decomp, validation=0.2, epochs=3)
    history = lowrank.history(tmp_path, record["run"])
    assert history.validation_loss.notna().all() and history.validation_accuracy.between(0, 1).all()
    assert history.test_accuracy.notna().tolist() == history.fit_accuracy.notna().tolist() == [False, False, True]
    assert record["validation_accuracy"] == history.validation_accuracy.iloc[-1]
    without = run(tmp_path, decomp=decomp, epochs=3)
    assert without["run"] != record["run"] and "validation_accuracy" not in without
    assert lowrank.history(tmp_path, without["run"]).test_accuracy.notna().all()


def test_a_record_says_which_test_images_are_right(tmp_path):
    record = run(tmp_path, decomp="separable", width=8, epochs=3, batch_size=64, augment=False)
    right = np.unpackbits(np.frombuffer(base64.b64decode(record["correct"]), np.uint8))
    assert right.sum() / len(load("digits").test_labels) == pytest.approx(record["test_accuracy"])
    assert "correct" not in lowrank.results(tmp_path) and "correct" not in (tmp_path / "results.csv").read_text()


def test_fit_accuracy_is_that_of_the_training_images_as_they_are(tmp_path):
    record = run(tmp_path, decomp="separable", width=8, epochs=3, batch_size=64, save_weights=True)
    data = load("digits")
    with torch.no_grad():
        logits = lowrank.load(record["run"], runs=str(tmp_path))(data.normalise(data.train_images))
    assert (logits.argmax(1) == data.train_labels).float().mean().item() == pytest.approx(record["fit_accuracy"])
    assert record["fit_accuracy"] > record["train_accuracy"]  # which is that of augmented images on the way


@pytest.mark.parametrize("decomp", ["tucker", "tucker_tt", "tt", "cp", "ring"])
@pytest.mark.parametrize("dims", range(2, 10))
def test_every_number_of_modes_takes_a_step(decomp, dims):
    """Cores have 1 to 9 axes, of which only those of plain convolutions may be channels_last."""
    config, network = networks(decomp=decomp, dims=dims, budget=0.5)
    loop = train.Loop(config, network, load("digits"), lambda: None)
    images, labels = next(loop.data.training_batches(32, 0, 0, None))
    loop.set_rates(0.5)
    assert math.isfinite(loop.step(images, labels)[0])
    held = [layer for layer in network.modules() if isinstance(layer, Decomposed)]
    assert all(core.is_contiguous() for layer in held for core in layer.cores)
