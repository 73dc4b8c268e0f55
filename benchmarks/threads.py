"""How long two threads take for a training step, by how OpenMP's threads wait for each other.

    python benchmarks/threads.py          (Linux, 2 cores, about fifteen minutes; nothing else should run)

A process for each way of waiting and each network; they take turns of a few steps, first while nothing else runs, then
beside two processes that keep both cores busy. Of each turn it is measured how much of the cores other programs used;
turns of the first part in which that was more than a tenth do not count.

writes benchmarks/results/threads-<machine>.csv, a row a network, way and state of the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
from machine import machine, store

WAYS = {
    "libgomp's own": {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "100 spins": {"GOMP_SPINCOUNT": "100"},
    "1,000 spins": {"GOMP_SPINCOUNT": "1000"},
    "10,000 spins": {"GOMP_SPINCOUNT": "10000"},
}
NETWORKS = {
    "tt, width 16, batches of 64": {"decomp": "tt", "width": 16, "batch_size": 64},
    "tt, width 64, batches of 128": {"decomp": "tt", "width": 64, "batch_size": 128},
    "dense, width 16, batches of 128": {"decomp": "dense", "width": 16, "batch_size": 128},
}
THREADS, TURN, IDLE = 2, 0.4, 0.1  # seconds a turn; share of the cores that others may use


def work(setting: dict) -> None:
    """Trains as many steps as are asked for on standard input, a number a line, and says the seconds of a step."""
    import torch

    from lowrank.config import Config
    from lowrank.data import load
    from lowrank.experiment import build
    from lowrank.train import Loop

    torch.set_num_threads(THREADS)
    torch.set_flush_denormal(True)
    config = Config(dataset="digits", precision="float32", budget=0.0, **setting)
    data = load("digits")
    loop = Loop(config, build(config, len(data.classes)), data, lambda: None)
    loop.network.train()
    images, labels = data.train_images[: config.batch_size].float(), data.train_labels[: config.batch_size]
    for line in sys.stdin:
        used, start = time.process_time(), time.perf_counter()
        for _ in range(int(line)):
            loop.step(images, labels)
        took = time.perf_counter() - start
        print(json.dumps([took / int(line), time.process_time() - used]), flush=True)


def ticks() -> float:
    """Seconds in which the cores have computed since the start of the machine."""
    fields = [int(each) for each in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def ask(worker: subprocess.Popen, steps: int) -> tuple[float, float]:
    """Seconds of a step, and the share of the cores that other programs used meanwhile."""
    before, start = ticks(), time.perf_counter()
    worker.stdin.write(f"{steps}\n")
    worker.stdin.flush()
    seconds, used = json.loads(worker.stdout.readline())
    others = (ticks() - before - used) / (time.perf_counter() - start) / os.cpu_count()
    return seconds, max(0.0, others)


def turns(network: str, rounds: int, busy: bool) -> pd.DataFrame:
    """A row a turn: way, seconds of a step, share of the cores that others used."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, str(Path(__file__)), json.dumps(NETWORKS[network])]
    workers = {way: subprocess.Popen(command, env={**os.environ, **values}, **pipes) for way, values in WAYS.items()}
    steps = {way: max(2, round(TURN / min(ask(worker, 3)[0] for _ in range(4)))) for way, worker in workers.items()}
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(THREADS if busy else 0)]
    rows = []
    for _ in range(rounds):
        for way, worker in workers.items():
            seconds, others = ask(worker, max(2, steps[way] // (4 if busy else 1)))
            rows.append({"network": network, "way": way, "seconds": seconds, "others": others, "busy": busy})
    for process in [*hogs, *workers.values()]:
        process.kill()
    return pd.DataFrame(rows)


def summarised(rows: pd.DataFrame) -> pd.DataFrame:
    """The median step of each way, and over libgomp's own way of waiting."""
    rows = rows[rows.busy | (rows.others < IDLE)]
    table = rows.groupby(["network", "busy", "way"], sort=False).agg(
        milliseconds=("seconds", lambda s: 1000 * s.median()), turns=("seconds", "size"), others=("others", "median")
    )
    own = table.milliseconds.xs("libgomp's own", level="way")
    return table.assign(ratio=table.milliseconds / own.reindex(table.index.droplevel("way")).to_numpy()).reset_index()


def main(rounds: int) -> None:
    rows = pd.concat([turns(network, rounds, busy) for network in NETWORKS for busy in (False, True)])
    table = summarised(rows).round(3)
    print(f"{machine()}\n{table.to_string(index=False)}")
    store(table, "threads", ("torch",))


if __name__ == "__main__":
    work(json.loads(sys.argv[1])) if len(sys.argv) > 1 else main(rounds=20)
