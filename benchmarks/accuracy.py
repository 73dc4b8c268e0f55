"""Does the fast loop end where the slow one does? Test accuracies of lowrank's loop and of the pipeline of 2018.

The separable network of width 16, six epochs of batches of 512 under the triangle schedule that peaks at 0.4, on real
images, the same seeds both ways, each run in a process of one thread, as many at once as there are cores. The seed
gives both the same initial weights; the order of the images and their augmentation are drawn in different ways.
Printed are the means and how far they lie apart, in standard errors of their difference.

    python benchmarks/accuracy.py <a folder or an archive of images>     (half an hour on 2 cores)

writes benchmarks/results/accuracy-<machine>.csv, a row a run.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context

import numpy as np
import pandas as pd
import torch
from machine import machine, store
from pipelines import Numpy, Pipeline

from lowrank.config import Config, dataset_name
from lowrank.data import load
from lowrank.network import build
from lowrank.train import Loop, State, train

WAYS, SEEDS = ("2018", "lowrank"), range(3)
SETTING = {"decomp": "separable", "width": 16, "epochs": 6, "batch_size": 512, "precision": "float32"}


def accuracy(way: str, config: Config) -> float:
    """Test accuracy after the last epoch."""
    torch.set_num_threads(1)
    np.random.seed(config.seed)  # the augmentation of 2018 draws from it
    data = load(config.dataset, torch.device("cpu"))
    network = build(config, len(data.classes))
    if way == "lowrank":
        return train(config, network, data, State(), lambda: None, lambda state: None).history[-1]["test_accuracy"]
    pipeline = Pipeline(config, data, Numpy, summed=True)
    for epoch in range(config.epochs):
        pipeline.train(epoch)
    _, right = Loop(config, pipeline.network, data, lambda: None).evaluate("test")
    return right.float().mean().item()


def apart(table: pd.DataFrame) -> float:
    """The distance between the two means over the standard error of their difference."""
    groups = table.groupby("way").test_accuracy
    return groups.mean().diff().abs().iloc[-1] / (groups.sem() ** 2).sum() ** 0.5


def main(dataset: str) -> None:
    jobs = [(way, Config(dataset=dataset, seed=seed, **SETTING).fitted(50_000)) for seed, way in product(SEEDS, WAYS)]
    rows = []
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        for (way, config), found in zip(jobs, pool.map(accuracy, *zip(*jobs, strict=True)), strict=True):
            rows.append({"way": way, "seed": config.seed, "test_accuracy": found})
            print(f"{way}, seed {config.seed}: {found:.2%}", flush=True)
    table = pd.DataFrame(rows)
    print(table.groupby("way").test_accuracy.agg(["mean", "sem", "count"]).round(4).to_string())
    print(f"{machine()}: the means are {apart(table):.1f} standard errors of their difference apart")
    store(table, "accuracy", ("torch",), dataset=dataset_name(dataset), **SETTING)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", help="a folder or an archive of images, or cifar10")
    main(parser.parse_args().dataset)
