"""What is it worth that CP and rings start with flat singular values, which the other formats have by themselves?

Orthogonal cores make a W of flat singular values in chains and products of two factors. In CP and in rings they do not,
and `lowrank.initial` flattens them by ten steps of L-BFGS: an advantage that is of the start and not of the format?
Here both are trained with and without those steps, from the same orthogonal cores, seed by seed: width 16, budget 0.1,
six epochs of batches of 512 under the fast recipe, on real images.

    python benchmarks/flattening.py <a folder or an archive of images>     (half an hour on 2 cores)

writes benchmarks/results/flattening-<machine>.csv, a row a run. What is done stays in runs/flattening: begun anew, it
goes on.
"""

from __future__ import annotations

import argparse
from math import prod

import pandas as pd
import torch
from machine import machine, store

import lowrank
from lowrank.config import dataset_name
from lowrank.formats.chains import Ring
from lowrank.formats.products import CP
from lowrank.initial import NOISE
from lowrank.sweeps.studies import grid


class Unflattened:
    """Starts at orthogonal cores with noise, as `lowrank.initial` does, but for the flattening between the two."""

    def start(self, folding, ranks):
        shapes, splits = self.shapes(folding, ranks), self.splits(folding, ranks)
        flat = [torch.empty(prod(shape[:k]), prod(shape[k:])) for shape, k in zip(shapes, splits, strict=True)]
        cores = [torch.nn.init.orthogonal_(core).reshape(shape) for core, shape in zip(flat, shapes, strict=True)]
        return [core + NOISE * core.square().mean().sqrt() * torch.randn_like(core) for core in cores]


class UnflattenedCP(Unflattened, CP):
    pass


class UnflattenedRing(Unflattened, Ring):
    pass


FORMS = {"cp unflattened": UnflattenedCP(), "ring unflattened": UnflattenedRing()}
NETWORKS = [*grid(decomp=["cp", "cp unflattened"], dims=[4]), *grid(decomp=["ring", "ring unflattened"], dims=[3])]
SETTING = {"recipe": "fast", "width": 16, "budget": 0.1, "epochs": 6, "batch_size": 512}
SEEDS, RUNS = 4, "runs/flattening"
COLUMNS = ["decomp", "dims", "budget", "seed", "test_accuracy", "precision", "width", "epochs", "batch_size"]


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """Accuracy with flattening less that without, of the same seeds: mean, standard error, number of seeds."""
    rows = table.pivot_table("test_accuracy", "seed", "decomp")
    over = pd.DataFrame({decomp: rows[decomp] - rows[f"{decomp} unflattened"] for decomp in ("cp", "ring")})
    return over.agg(["mean", "sem", "count"]).T


def main(dataset: str) -> None:
    for decomp, form in FORMS.items():
        lowrank.register(decomp, form)
    table = lowrank.sweep(NETWORKS, seeds=SEEDS, runs=RUNS, dataset=dataset, **SETTING)
    print(f"\n{machine()}: flattened, less not\n{gains(table).round(4).to_string()}")
    store(table[COLUMNS], "flattening", ("torch",), dataset=dataset_name(dataset))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", help="a folder or an archive of images, or cifar10")
    main(parser.parse_args().dataset)
