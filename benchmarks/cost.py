"""What a step of training costs for every network of the study when-it-pays: milliseconds, median and quartiles.

    python benchmarks/cost.py          (five minutes, on a machine with nothing else to do)

The study's own setting at the scale cpu, one thread, batches of random images (speed does not depend on what they
show). In a round every network takes a few steps in turn, so that whatever else the machine does meets all alike.
Where `load` in the file is well above 1, others worked on the machine, and the figures are to be taken again.

writes benchmarks/results/cost-<machine>.csv, a row a network; notebooks/8-when-it-pays.ipynb draws accuracy against it.
"""

from __future__ import annotations

import time

import pandas as pd
import torch
from machine import machine, store
from training import random_images

from lowrank.config import Config
from lowrank.hardware.precision import resolved_precision
from lowrank.network import build
from lowrank.sweeps.plan import plan_runs
from lowrank.train import Loop

STUDY, ROUNDS, STEPS, WARM_UP = "when-it-pays", 9, 2, 1
FORM = ["decomp", "dims", "budget", "rank_rule", "width"]


def loops(precision: str) -> dict[tuple, Loop]:
    """A loop for every network of the study, by its form; an epoch is STEPS batches."""
    found, batches = {}, {}
    for run in plan_runs(STUDY, "cpu", seeds=1, dataset="digits"):
        config = Config.of(run | {"precision": precision, "validation": 0.0, "augment": True})
        data = batches.setdefault(config.batch_size, random_images(STEPS * config.batch_size))
        form = tuple(getattr(config, name) for name in FORM)
        found[form] = Loop(config, build(config, len(data.classes)), data, lambda: None)
    return found


def milliseconds(loop: Loop) -> float:
    """Of a step, on average over an epoch."""
    start = time.perf_counter()
    loop.train(0)
    return 1000 * (time.perf_counter() - start) / STEPS


def main() -> None:
    torch.set_num_threads(1)
    precision = resolved_precision("auto", torch.device("cpu"))
    trained = loops(precision)
    rounds = [[milliseconds(loop) for loop in trained.values()] for _ in range(WARM_UP + ROUNDS)][WARM_UP:]
    times = pd.DataFrame(rounds, columns=pd.MultiIndex.from_tuples(trained, names=FORM))
    table = times.quantile([0.5, 0.25, 0.75]).T.set_axis(["step_ms", "lower_quartile", "upper_quartile"], axis=1)
    print(f"{machine()}, 1 thread, {precision}, milliseconds a step, {ROUNDS} rounds\n\n{table.round(1).to_string()}")
    setting = {"batch_size": next(iter(trained.values())).config.batch_size, "threads": 1, "precision": precision}
    store(table.reset_index(), "cost", ("torch",), rounds=ROUNDS, **setting)


if __name__ == "__main__":
    main()
