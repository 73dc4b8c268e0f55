"""What training costs: images a second of lowrank's loop, of the pipeline of 2018 and of torchvision's transforms.

The same networks (dense, separable, every decomposition at budget 0.1, and a bottleneck of half the channels), in
batches of 512 random images (speed does not depend on what they show), on this machine's CPU. In a round every network
is trained by all three in turn, each in a process of its own, because lowrank's loop changes how its process handles
memory; a figure is the median over the rounds, a ratio the median of the ratios within a round. pipelines.py describes
the other two. Where `load` in the file is well above 2, others worked on the machine, and the figures are to be taken
again.

    make bench    prints the table, and writes benchmarks/results/training-<machine>.csv
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from itertools import product
from multiprocessing import get_context

import numpy as np
import pandas as pd
import torch
from machine import machine, store
from pipelines import Numpy, Pipeline, Torchvision

from lowrank.config import Config
from lowrank.data.dataset import Data, assemble_data
from lowrank.hardware.precision import resolved_precision
from lowrank.network import build
from lowrank.sweeps.studies import FORMS, grid
from lowrank.train import Loop

WIDTHS, THREADS, BATCH, ROUNDS, WARM_UP = (16, 64), 2, 512, 5, 1
NETWORKS = {
    "dense": {"decomp": "dense"},
    "separable": {"decomp": "separable"},
    "bottleneck, half the channels": {"decomp": "bottleneck", "budget": 1.0},
} | {f"{run['decomp']}, budget 0.1": run for run in grid(decomp=FORMS, budget=[0.1])}
WAYS = ("2018", "transforms v2", "lowrank")
TRAINERS: dict[str, Loop | Pipeline] = {}  # of the process that trains one way, by network


def random_images(count: int) -> Data:
    images, labels = np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32)), np.arange(count) % 10
    return assemble_data(images, labels, images[:10], labels[:10], range(10))


def trainer(way: str, config: Config, data: Data) -> Loop | Pipeline:
    """One way to train the network of a config."""
    if way == "lowrank":
        return Loop(config, build(config, len(data.classes)), data, lambda: None)
    return Pipeline(config, data, summed=True, images=Numpy) if way == "2018" else Pipeline(config, data, Torchvision)


def prepare(way: str, width: int, precision: str, batch_size: int, threads: int) -> None:
    """All networks to train one way, in a process that is there for that."""
    torch.set_num_threads(threads)
    data = random_images(batch_size)
    for network, form in NETWORKS.items():
        config = Config(dataset="digits", width=width, batch_size=batch_size, precision=precision, **form)
        TRAINERS[network] = trainer(way, config.fitted(50_000), data)


def seconds(network: str) -> float:
    """Of one epoch: a batch."""
    start = time.perf_counter()
    TRAINERS[network].train(0)
    return time.perf_counter() - start


def speeds(width: int, precision: str, rounds: int) -> pd.DataFrame:
    """Images a second: a row a round, a column for each network and way."""
    columns = list(product(NETWORKS, WAYS))
    with ExitStack() as stack:
        pools = {}
        for way in WAYS:
            setting = (way, width, precision, BATCH, THREADS)
            pools[way] = stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"), prepare, setting))
        rows = [
            [BATCH / pools[way].submit(seconds, network).result() for network, way in columns]
            for _ in range(WARM_UP + rounds)
        ]
    return pd.DataFrame(rows[WARM_UP:], columns=pd.MultiIndex.from_tuples(columns))


def training_table(width: int, precision: str, rounds: int) -> pd.DataFrame:
    """A row a network: images a second each way, lowrank's ratios to the others' and to its own separable network's."""
    runs = speeds(width, precision, rounds)
    own = runs.xs("lowrank", axis=1, level=1)
    table = runs.median().unstack()[list(WAYS)].loc[list(NETWORKS)]
    for way in WAYS[:2]:
        table[f"over {way}"] = (own / runs.xs(way, axis=1, level=1)).median()
    table["over separable"] = own.div(own["separable"], axis=0).median()
    return table.rename_axis("network").reset_index().assign(width=width)


def main(rounds: int) -> None:
    torch.set_num_threads(THREADS)
    precision = resolved_precision("auto", torch.device("cpu"))
    print(f"{machine()}, {THREADS} threads, {precision}, images a second and ratios, medians of {rounds} rounds\n")
    tables = []
    for width in WIDTHS:
        tables.append(training_table(width, precision, rounds))
        print(tables[-1].set_index(["width", "network"]).round(dict.fromkeys(WAYS, 0)).round(2).to_string(), flush=True)
    fixed = {"batch_size": BATCH, "threads": THREADS, "precision": precision, "rounds": rounds}
    store(pd.concat(tables), "training", ("torch", "torchvision"), **fixed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of all networks ({ROUNDS})")
    main(parser.parse_args().rounds)
