"""A trial that stands in for training, data that stands in for images, and a sweep of both."""

import errno
import os
import signal
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pandas as pd

from lowrank.config import Config
from lowrank.experiment import revision
from lowrank.files import claim, explain_errors
from lowrank.records import FINAL, record, store
from lowrank.sweeps import driver, plan
from lowrank.sweeps.studies import grid


def quick(log=print, **parameters) -> dict:
    """Stands in for training: a twentieth of a second, and the faults that the seed asks for."""
    config = Config.of(parameters)
    run = config.run_id("pixels")
    with claim(config.folder / run):
        found = record(config.folder, run)
        if found and found["status"] in FINAL:
            return found
        log(f"trains seed {config.seed}")
        with open(config.folder / "trained", "a") as trained:
            trained.write(f"{run}\n")
        time.sleep(0.05)
        if config.seed == 100:
            raise ValueError("seed 100 raises")
        if config.seed == 104:
            time.sleep(300)
        if config.seed == 103:
            with explain_errors(config.folder):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if config.seed == 101:
            os.kill(os.getpid(), signal.SIGKILL)
        measured = {"parameters": 100, "test_accuracy": 0.5, "revision": revision()}
        state = "diverged" if config.seed == 102 else "done"
        store(config.folder, asdict(config) | measured | {"run": run, "status": state}, [{"epoch": 1}])
        return record(config.folder, run)


def pixels(dataset: str, fingerprint: str = "pixels") -> SimpleNamespace:
    """Data of that fingerprint, without any image."""
    return SimpleNamespace(fingerprint=fingerprint, train_labels=range(1497))


def runs_of(*seeds: int) -> list[dict]:
    return grid(decomp=["tt"], dataset=["digits"], precision=["float32"], seed=seeds)


def sweep(study, **options) -> pd.DataFrame:
    with mock.patch.object(driver, "run_trial", quick):
        return driver.sweep(study, **{"workers": 1} | options)


def run_here(runs: Path, *seeds: int, **options) -> tuple[pd.DataFrame, list[str]]:
    lines: list[str] = []
    table = sweep(runs_of(*seeds), runs=str(runs), log=lines.append, **options)
    return table, lines


def trained(runs: Path) -> list[str]:
    return (runs / "trained").read_text().split() if (runs / "trained").exists() else []


def sweep_elsewhere(runs: Path) -> None:
    plan.read_data = pixels
    run_here(runs, *range(30))
