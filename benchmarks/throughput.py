"""What the engine of a sweep costs: runs a minute with one worker and with two, and milliseconds a trial.

    python benchmarks/throughput.py          (about eight minutes, on 2 cores with nothing else to do)

A study at its smoke scale is real training. Trials that do nothing show what the engine adds to each: its claim, the
way to a worker and back, and the record on disk. Times run from the first record to the last: a start is extra, once.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from lowrank.config import Config
from lowrank.data import load
from lowrank.experiment import run
from lowrank.sweeps import driver
from lowrank.sweeps.studies import grid

STUDY, SEEDS, WORKERS = "shoot-out", 3, (1, 2)
EMPTY = grid(decomp=["tt"], dataset=["digits"], precision=["float32"], seed=range(200))
PIXELS = load("digits").fingerprint  # a function with a cache would be looked for in the workers' own script


def nothing(log: Callable[[str], None], **parameters: Any) -> dict[str, Any]:
    """A trial without training; the driver stores its record."""
    return {"run": Config.of(parameters).run_id(PIXELS), "status": "done"}


def timed(study: Any, workers: int, trial: Callable[..., dict], seeds: int = 0) -> tuple[int, float, float]:
    """Runs, seconds from the first record to the last, and seconds until the first."""
    with tempfile.TemporaryDirectory() as runs:
        start = time.time()
        with mock.patch.object(driver, "run_trial", trial):
            driver.sweep(study, runs=runs, workers=workers, seeds=seeds, log=lambda line: None)
        stored = sorted(path.stat().st_mtime for path in Path(runs).glob("*/record.json"))
    return len(stored), stored[-1] - stored[0], stored[0] - start


def main() -> None:
    for workers in WORKERS:
        count, seconds, first = timed(STUDY, workers, run, SEEDS)
        pace = (count - 1) / seconds
        print(f"{workers} workers, {STUDY}, smoke: {60 * pace:.0f} runs a minute, the first after {first:.1f} s")
    for workers in WORKERS:
        count, seconds, _ = timed(EMPTY, workers, nothing)
        print(f"{workers} workers, trials that do nothing: {1000 * seconds / (count - 1):.1f} ms a trial")


if __name__ == "__main__":
    main()
