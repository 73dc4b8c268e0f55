"""What the fast recipe is worth beside that of 2018 at equal epochs, and each of its ingredients.

The separable network and a tensor train of 4 modes at budget 0.1, width 16, eight epochs of batches of 512, on real
images, three seeds. An ingredient's share is the accuracy of the fast recipe less that without it, seed by seed. The
ingredients were chosen by such accuracies, which are of test images.

    python benchmarks/recipe.py <a folder or an archive of images>     (an hour or more on 2 cores)

writes benchmarks/results/recipe-<machine>.csv, a row a run. What is done stays in runs/recipe: begun anew, it goes on.
"""

from __future__ import annotations

import argparse

import pandas as pd
from machine import machine, store

import lowrank
from lowrank.config import INGREDIENTS, dataset_name
from lowrank.sweeps.studies import each, grid

NETWORKS = {"separable": {"decomp": "separable"}, "tt": {"decomp": "tt", "dims": 4, "budget": 0.1}}
SETTING = {"width": 16, "epochs": 8, "batch_size": 512}
SEEDS, RUNS = 3, "runs/recipe"
COLUMNS = ["decomp", "recipe", "without", "seed", "test_accuracy", "precision", "width", "epochs", "batch_size"]


def variants(network: str) -> list[dict[str, str]]:
    """Both recipes, and the fast one without each of its ingredients that concerns the network."""
    left_out = [each for each in INGREDIENTS if network == "tt" or each != "core rates"]
    return [{"recipe": "2018"}, {"recipe": "fast"}, *grid(recipe=["fast"], without=left_out)]


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """By how much the fast recipe is more accurate than each other variant: mean, standard error, number of seeds."""
    rows = table.pivot_table("test_accuracy", ["decomp", "seed"], ["recipe", "without"])
    fast = rows["fast", "nothing"]
    over = rows.drop(columns=[("fast", "nothing")]).rsub(fast, axis=0)
    return over.groupby("decomp").agg(["mean", "sem", "count"]).stack([0, 1], future_stack=True)


def main(dataset: str) -> None:
    study = [run for name, form in NETWORKS.items() for run in each([form], *variants(name))]
    table = lowrank.sweep(study, seeds=SEEDS, runs=RUNS, dataset=dataset, **SETTING)
    accuracies = table.groupby(["decomp", "recipe", "without"]).test_accuracy
    print(accuracies.agg(["mean", "sem", "count"]).round(4).to_string())
    print(f"\n{machine()}: the fast recipe, less\n{gains(table).dropna().round(4).to_string()}")
    store(table[COLUMNS], "recipe", ("torch",), dataset=dataset_name(dataset))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", help="a folder or an archive of images, or cifar10")
    main(parser.parse_args().dataset)
