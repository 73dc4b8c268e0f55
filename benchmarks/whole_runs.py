"""What whole runs take here, on a GPU where there is one: seconds, accuracy, memory, and how many fit in an hour.

    python benchmarks/whole_runs.py <a folder or an archive of images>

first trains every form for an epoch of digits with steps recorded as a CUDA graph and with steps launched one by one,
and says OK or what differs, within a minute. Then it prints and writes three tables,
benchmarks/results/{runs,steps,trials}-<machine>.csv:

- runs: training seconds (median), test accuracy (mean and its standard error) and peak memory of the dense network over
  24 epochs, and of the separable one and a tensor train of 4 modes at budget 0.1 over 24 and 128, width 64, five seeds;
  `floor / seconds` is the share of what one H200 allows at best;
- steps: images a second, with steps recorded as a CUDA graph and with steps launched one by one, and the share of the
  time in which the GPU computes, for every network;
- trials: trials of 128 epochs and width 16 that an hour has room for: one and several at a time, and by 2018's loop.

What is done is kept in runs/whole-runs: started again, it goes on. Written for one H200, where it has not run yet; on a
CPU it runs too, for days.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from machine import machine, store
from pipelines import Numpy, Pipeline

import lowrank
from lowrank.config import DECOMPS, Config, dataset_name
from lowrank.data import load
from lowrank.data.dataset import Data
from lowrank.experiment import device_name
from lowrank.hardware.precision import resolved_precision
from lowrank.hardware.process import best_device
from lowrank.network import build
from lowrank.sweeps.studies import grid
from lowrank.train import Loop

NETWORKS: dict[str, dict[str, Any]] = {
    "dense": {"decomp": "dense"},
    "separable": {"decomp": "separable"},
    "tt": {"decomp": "tt", "dims": 4, "budget": 0.1},
}
LONG = {"schedule": "cosine", "learning_rate": 0.2}  # of the runs of 128 epochs
# Seconds on one H200 at 790 TFLOP/s and 4.3 TB/s if every layer read and wrote its activations once: network, epochs.
FLOOR = {("dense", 24): 5.8, ("separable", 24): 3.5, ("tt", 24): 3.5, ("separable", 128): 18.5, ("tt", 128): 18.5}
WIDTH, NARROW, SEEDS, PACKED, TRIAL_EPOCHS = 64, 16, 5, (1, 2, 4, 8), 128
RUNS = "runs/whole-runs"
# Slow learning and float32 keep what is rounded in another order small.
CHECKED = {
    "dataset": "digits",
    "width": 8,
    "batch_size": 64,
    "epochs": 1,
    "learning_rate": 0.01,
    "precision": "float32",
}
WAYS = ({"recipe": "2018"}, {"recipe": "fast", "decay": "frobenius"})
CLOSE = 0.01  # between the weights of both ways, relative to how far they moved; without the first step it is above 0.2


def both_ways(config: Config, data: Data) -> tuple[Loop, Loop]:
    """Two loops of the same run: its steps as they are, on a GPU recorded, and launched one by one."""
    recorded, launched = (Loop(config, build(config, len(data.classes)), data, lambda: None) for _ in range(2))
    launched.take = launched.step
    return recorded, launched


def join_weights(loop: Loop) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in loop.network.parameters()])


def find_differences(data: Data) -> Iterator[str]:
    """A line for each form whose steps are not recorded, or learn something else than those that are launched."""
    for decomp in DECOMPS:
        for way in WAYS:
            recorded, launched = both_ways(Config(decomp=decomp, **CHECKED, **way).fitted(len(data.train_labels)), data)
            start = join_weights(launched)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                losses = [loop.train(0)[0] for loop in (recorded, launched)]
            one, other = join_weights(recorded), join_weights(launched)
            apart = ((one - other).norm() / (other - start).norm()).item()
            name = ", ".join([decomp, *way.values()])
            yield from (f"{name}: {each.message}" for each in said if "not recorded" in str(each.message))
            if not apart < CLOSE:
                yield f"{name}: the weights are {apart:.3f} of their way apart, losses {losses[0]:.5f}, {losses[1]:.5f}"


def check_recording() -> None:
    """Says whether recorded steps learn what launched ones do."""
    device, found = best_device(), ["nothing is recorded on a CPU"]
    if device.type == "cuda":
        found = list(find_differences(load("digits", device))) or [f"OK, {len(DECOMPS)} forms"]
    print("recorded against launched steps:", *found, "", sep="\n", flush=True)


def configured(network: str, dataset: str, width: int, epochs: int, **more: Any) -> dict[str, Any]:
    """The parameters of a run."""
    schedule = LONG if epochs > 24 else {}
    return {**NETWORKS[network], **schedule, "dataset": dataset, "width": width, "epochs": epochs, **more}


def run_table(dataset: str) -> pd.DataFrame:
    """A row for each network and number of epochs, over all seeds."""
    rows = []
    for (network, epochs), floor in FLOOR.items():
        config = configured(network, dataset, WIDTH, epochs, runs=RUNS)
        found = pd.DataFrame(lowrank.run(lambda line: None, **config, seed=seed) for seed in range(SEEDS))
        seconds, accuracy = found.seconds.median(), found.test_accuracy
        rows.append(
            {
                "network": network,
                "epochs": epochs,
                "seconds": seconds,
                "floor / seconds": floor / seconds,
                "test_accuracy": accuracy.mean(),
                "standard_error": accuracy.sem(),
                "peak_memory": found.peak_memory.max(),
                "seeds": len(found),
            }
        )
        print(pd.DataFrame(rows[-1:]).to_string(index=False, header=len(rows) == 1), flush=True)
    return pd.DataFrame(rows)


def busy(loop: Loop) -> float:
    """The share of an epoch in which kernels run; NaN without a GPU."""
    if loop.device.type != "cuda":
        return float("nan")
    start = time.perf_counter()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        loop.train(0)
    seconds = time.perf_counter() - start
    return sum(event.self_device_time_total for event in profile.key_averages()) / 1e6 / seconds


def pace(loop: Loop) -> float:
    """Images a second of an epoch that follows another."""
    loop.train(0)
    start = time.perf_counter()
    loop.train(1)
    return loop.steps * loop.config.batch_size / (time.perf_counter() - start)


def step_table(dataset: str) -> pd.DataFrame:
    """A row for each network and width; on a CPU no step is recorded, and both speeds are the same."""
    data, rows = load(dataset, best_device()), []
    for width in (WIDTH, NARROW):
        for network in NETWORKS:
            asked = Config(**configured(network, dataset, width, 24, precision=precision()))
            recorded, launched = both_ways(asked.fitted(len(data.train_labels)), data)
            speeds = {"images_per_second": pace(recorded), "launched one by one": pace(launched)}
            rows.append({"network": network, "width": width, **speeds, "in kernels": busy(recorded)})
    return pd.DataFrame(rows)


def precision() -> str:
    return resolved_precision("auto", best_device())


def packed(dataset: str, at_once: int) -> float:
    """Images a second of `at_once` runs on one device, all together; with their evaluation and their start left out."""
    study = grid(**{name: [value] for name, value in configured("tt", dataset, NARROW, 8).items()})
    workers = {"slots_per_gpu": at_once} if torch.cuda.is_available() else {"workers": at_once}
    table = lowrank.sweep(study, seeds=at_once, runs=f"{RUNS}/{at_once}-at-once", log=lambda line: None, **workers)
    return table.images_per_second.sum()


def then(dataset: str) -> float:
    """Images a second of the loop of 2018, one epoch after another."""
    data = load(dataset)
    config = Config(**configured("tt", dataset, NARROW, 24, precision="float32")).fitted(len(data.train_labels))
    pipeline = Pipeline(config, data, Numpy, summed=True, device=best_device())
    pipeline.train(0)
    start = time.perf_counter()
    pipeline.train(1)
    return pipeline.steps * config.batch_size / (time.perf_counter() - start)


def trial_table(dataset: str) -> pd.DataFrame:
    """Trials an hour, and times as many as the loop of 2018: a row a way."""
    pace = {"2018": then(dataset)} | {f"lowrank, {k} at once": packed(dataset, k) for k in PACKED}
    images = TRIAL_EPOCHS * len(load(dataset).train_labels)
    table = pd.DataFrame({"way": pace.keys(), "trials an hour": [3600 * each / images for each in pace.values()]})
    return table.assign(**{"over 2018": table["trials an hour"] / table["trials an hour"][0]})


def main(dataset: str) -> None:
    fixed = {"dataset": dataset_name(dataset), "device": device_name(), "precision": precision()}
    print(f"{machine()}, {', '.join(fixed.values())}\n")
    check_recording()
    for name, table in (("steps", step_table), ("trials", trial_table), ("runs", run_table)):
        found = table(dataset)
        print(found.round(3).to_string(index=False))
        store(found, name, ("torch",), **fixed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", help="a folder or an archive of images, or cifar10")
    main(parser.parse_args().dataset)
