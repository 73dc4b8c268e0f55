"""One run, from Config to record: what it refuses, says and stores, killed and asked for twice."""

import base64
import csv
import math
import os
import shutil
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from small import SMALL, networks, quiet, run

import lowrank
from lowrank.config import DECOMPS
from lowrank.data import load
from lowrank.errors import InputError
from lowrank.hardware import precision

FASTEST = precision.resolved_precision("auto", torch.device("cpu"))  # bfloat16 crawls on some


@pytest.mark.parametrize("decomp", DECOMPS)
@pytest.mark.parametrize("precision", sorted({"float32", FASTEST}))
def test_every_form_trains_and_its_record_counts_what_torch_counts(tmp_path, decomp, precision):
    record = run(tmp_path, decomp=decomp, precision=precision)
    _, network = networks(decomp=decomp)
    assert record["status"] == "done"
    assert record["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert math.isfinite(record["train_loss"])
    assert lowrank.results(tmp_path).parameters.tolist() == [record["parameters"]]


def test_compression_is_relative_to_the_separable_network(tmp_path):
    assert run(tmp_path, decomp="separable")["compression"] == 1
    assert run(tmp_path, decomp="dense")["compression"] == 9
    assert 0.4 < run(tmp_path, decomp="tt", budget=0.5)["compression"] <= 0.5


def test_a_precision_that_is_slow_here_is_said_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "choose_precision", lambda device: "float32")

    def log(line):
        if "precision='bfloat16': this processor trains faster in float32" in line:
            raise KeyboardInterrupt  # heard; no step is taken, which may last for minutes

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, log=log, precision="bfloat16")
    run(tmp_path, log=log, precision="float32")
    monkeypatch.setattr(precision, "choose_precision", lambda device: "bfloat16")
    assert not precision.find_slowness("bfloat16", torch.device("cpu"))


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


@pytest.mark.parametrize("name", ["record.json", "history.csv", "weights.pt"])
def test_a_folder_in_place_of_a_file_is_named_before_anything_is_trained(tmp_path, name):
    folder = tmp_path / run(tmp_path, save_weights=True)["run"]
    shutil.rmtree(folder)
    (folder / name).mkdir(parents=True)
    with warnings.catch_warnings(action="ignore"), pytest.raises(InputError) as refusal:
        run(tmp_path, save_weights=True, watch=pytest.fail)
    assert str(refusal.value) == f"{folder / name}: it is a folder where the run writes a file; move it away"


def test_the_cost_is_told_before_and_every_epoch_after(tmp_path):
    lines = []
    left = {"batch_size": 0, "learning_rate": 0.0, "augment": "auto"}
    record = lowrank.run(log=lines.append, runs=str(tmp_path), epochs=3, **SMALL | left)
    assert "parameters" in lines[0] and "multiply-adds" in lines[0]
    assert record["batch_size"] == 64 and record["augment"] is False
    assert f"batch_size=64, learning_rate={record['learning_rate']}, augment=False" in lines[0]
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


@pytest.mark.parametrize("caller", ["log", "watch"])
def test_a_run_that_its_own_log_or_watch_starts_again_is_refused(tmp_path, caller):
    with pytest.raises(lowrank.InputError, match="held by what asks for it"):
        run(tmp_path, **{caller: lambda said: run(tmp_path)})
    assert run(tmp_path)["status"] == "done"


@pytest.mark.parametrize("change", [list.clear, lambda rows: rows.append(None), lambda rows: rows[-1].clear()])
def test_what_watch_does_to_the_history_changes_nothing(tmp_path, change):
    record = run(tmp_path, watch=change, epochs=2)
    assert len(lowrank.history(tmp_path, record)) == 2
    assert lowrank.history(tmp_path, record).test_loss.iloc[-1] == pytest.approx(record["test_loss"])


def test_a_working_directory_that_was_removed_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for ask in (lambda: run(tmp_path), lambda: lowrank.sweep([SMALL], runs=str(tmp_path), log=quiet)):
        with pytest.raises(lowrank.InputError, match="^the working directory was removed; os.chdir to one"):
            ask()
