"""How long a training step takes in a thread that is not the first, as in a sweep's worker, by glibc's memory arenas.

    python benchmarks/arenas.py          (Linux, one core, about two minutes; nothing else should run)

A process for each number of arenas, which trains in a second thread; they take turns, and one that trains in its first
thread is beside them. Writes benchmarks/results/arenas-<machine>.csv, a row a network and way.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
from machine import machine, store

WAYS = {"second thread": {}, "second thread, one arena": {"MALLOC_ARENA_MAX": "1"}, "first thread": {}}
NETWORKS = {"separable": {"decomp": "separable"}, "cp": {"decomp": "cp", "dims": 4, "budget": 0.1}}
ROUNDS, STEPS = 7, 4


def work(network: dict) -> None:
    """Trains so many steps for every line on standard input, and says the seconds of a step."""
    import torch

    from lowrank import Config, build
    from lowrank.data import load
    from lowrank.train import Loop

    torch.set_num_threads(1)
    config = Config(dataset="digits", width=16, batch_size=512, precision="float32", learning_rate=0.4, **network)
    data = load("digits")
    loop = Loop(config, build(config, len(data.classes)), data, lambda: None)
    images, labels = data.train_images[:512].float(), data.train_labels[:512]
    loop.network.train()
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(STEPS):
            loop.step(images, labels)
        print((time.perf_counter() - start) / STEPS, flush=True)


def take_turns(network: dict) -> pd.DataFrame:
    """The seconds of a step: a row a round, a column a way; the first round, which warms up, is left out."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = {}
    for way, environment in WAYS.items():
        command = [sys.executable, str(Path(__file__)), json.dumps(network), way.split()[0]]
        workers[way] = subprocess.Popen(command, env=os.environ | environment, **pipes)
    rows = []
    for _ in range(ROUNDS + 1):
        rows.append({})
        for way, worker in workers.items():
            worker.stdin.write("\n")
            worker.stdin.flush()
            rows[-1][way] = float(worker.stdout.readline())
    for worker in workers.values():
        worker.kill()
    return pd.DataFrame(rows[1:])


def main() -> None:
    rows = []
    for network, parameters in NETWORKS.items():
        seconds = take_turns(parameters)
        ratios = seconds.div(seconds["second thread"], axis=0).median()
        rows += [
            {"network": network, "way": way, "milliseconds": 1e3 * seconds[way].median(), "ratio": ratios[way]}
            for way in WAYS
        ]
    table = pd.DataFrame(rows).round(3)
    print(f"{machine()}\n{table.to_string(index=False)}")
    store(table, "arenas", ("torch",))


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    elif sys.argv[2] == "first":
        work(json.loads(sys.argv[1]))
    else:
        second = threading.Thread(target=work, args=[json.loads(sys.argv[1])])
        second.start()
        second.join()
