"""A study onto an executor: Dask's local cluster by default, a cluster that others started by its address.

Dask queues, places and retries. What this file adds: each run is claimed, stored before it counts, and never
trained twice. Starting the same sweep again, at the same time or after any fault, runs what is missing.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from csv import DictReader
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from .cluster import check_address, connected
from .config import Config, InputError
from .formats import Format
from .formats.own import own_formats, register
from .plan import Study, announce, finished, identified, planned, rows_of, seconds_each
from .progress import NotebookBar, span
from .results import FINAL, claim, collect, named, store

Outcome = tuple[dict[str, Any], list[dict[str, Any]]]  # a record and its history
SPACE = 20_000  # bytes of disk that a record, its history and its log take
REFRESH = 10  # seconds between two pictures of the state


# On a worker


def train(**parameters: Any) -> dict[str, Any]:
    """The trial of a sweep: lowrank.run, in whatever process it lands."""
    from .trial import run

    return run(**parameters)


def learn(own: dict[str, Format]) -> None:
    """Makes the formats that the driver has registered known in this process."""
    for decomp, form in own.items():
        register(decomp, form)


def attempt(trial: Callable[..., dict], parameters: dict[str, Any], run: str, wait: bool) -> Outcome | None:
    """Trains one run in this process; None where another process is at it, unless told to wait for that one.

    What the trial says goes to runs/<run>/log.txt. An exception becomes a record of status "failed". Raises InputError
    where the folder cannot be written: no other run could be stored either.
    """
    folder = Config.of(parameters).folder / run
    with claim(folder, wait=False) as free:  # a hint: the trial itself claims the run and waits
        if not free and not wait:
            return None
    with named(folder / "log.txt"), open(folder / "log.txt", "a", buffering=1) as log:
        try:
            done = trial(log=lambda line: print(line, file=log), **parameters)
        except Exception as error:
            traceback.print_exc(file=log)
            if poisoned():
                os._exit(1)  # nothing runs on this GPU in this process any more: Dask replaces the worker
            if isinstance(error, InputError) and isinstance(error.__cause__, OSError):
                raise
            return {"status": "failed", "reason": f"{type(error).__name__}: {error}"}, []
    return dict(done), rows(folder / "history.csv")


def rows(table: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file; none where there is no file."""
    if not table.is_file():
        return []
    with open(table, newline="") as file:
        return list(DictReader(file))


def poisoned() -> bool:
    """Whether a CUDA error has left this process without a usable GPU."""
    torch = sys.modules.get("torch")
    try:
        if torch and torch.cuda.is_initialized():
            torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


# At the driver


def keep(config: Config, run: str, outcome: Outcome) -> str:
    """Sees to it that the record is on this disk, whole, and returns its status: what was done is never replaced."""
    from .trial import described

    content, history = outcome
    if content["status"] in FINAL and content["run"] != run:
        reason = f"the worker's data or code gave run {content['run']}, not {run}"
        content, history = {"status": "failed", "reason": reason}, []
    if there := finished(config, run):
        return there["status"]
    with claim(config.folder / run, wait=content["status"] in FINAL) as mine:
        if mine and not finished(config, run):
            store(config.folder, described(config) | {"run": run} | content, history)
    return content["status"]


def check_space(folder: Path, runs: int) -> None:
    """Raises InputError where the folder cannot be written or has no space for the records of so many runs."""
    collect(folder)
    free = shutil.disk_usage(folder).free
    if free < runs * SPACE:
        raise InputError(
            f"runs={str(folder)!r}: {free // 1000} kB free; {runs} more records need {runs * SPACE // 1000} kB"
        )


def outcomes(client: Any, trial: Callable[..., dict], missing: dict[str, Config]) -> Iterator[tuple[str, Outcome]]:
    """Each run with its outcome as it ends; a run that another sweep is at comes last.

    Raises InputError where the scheduler is gone.
    """
    from distributed import CancelledError, KilledWorker, as_completed

    sweep = f"trial-{uuid.uuid4().hex[:8]}"

    def submit(run: str, wait: bool) -> Any:
        parameters, key = asdict(missing[run]), (sweep, run, int(wait))
        return client.submit(attempt, trial, parameters, run, wait, key=key, priority=-int(wait), pure=False)

    futures = as_completed([submit(run, wait=False) for run in missing])
    for future in futures:
        run = future.key[1]
        try:
            outcome = future.result()
        except KilledWorker:
            reason = "its worker died each time it was tried (killed, out of memory, or a CUDA error): see its log.txt"
            outcome = {"status": "failed", "reason": reason}, []
        except CancelledError:
            raise InputError(
                f"scheduler={client.scheduler.address!r} is gone; start again for what is missing"
            ) from None
        if outcome:
            yield run, outcome
        else:
            futures.add(submit(run, wait=True))


class Progress:
    """Done, failed, running, remaining and the time left: a bar where somebody watches, else a line a minute.

    `show` is called every REFRESH seconds, and at the end.
    """

    def __init__(self, total: int, workers: int, log: Callable[[str], None], show: Callable[[], None]):
        self.total, self.workers, self.log, self.show, self.counts = total, workers, log, show, Counter()
        self.start = self.said = self.shown = time.monotonic()
        jupyterlab = "JPY_SESSION_NAME" in os.environ
        self.watched = jupyterlab or sys.stderr.isatty()
        self.bar = NotebookBar(total, 0) if jupyterlab else tqdm(total=total, unit="run", disable=None, leave=False)

    def add(self, status: str) -> None:
        """Counts one run that ended."""
        self.counts[status] += 1
        self.bar.update()
        left, now = self.total - self.counts.total(), time.monotonic()
        if not left:
            self.bar.close()
        if not left or now - self.shown >= REFRESH:
            self.shown = now
            self.show()
        if not left or (not self.watched and now - self.said >= 60):
            self.said = now
            self.log(self.line(left, now - self.start))

    def line(self, left: int, seconds: float) -> str:
        counts = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        if not left:
            return f"{counts} in {span(seconds)}"
        running = min(left, self.workers)
        eta = span(seconds / self.counts.total() * left)
        return f"{counts}; {running} running, {left - running} remaining, about {eta} left"


def sweep(
    study: Study,
    scale: str = "smoke",
    scheduler: Any = "",
    runs: str = "runs",
    seeds: int = 0,
    slots_per_gpu: int = 1,
    workers: int = 0,
    insecure: bool = False,
    show: Callable[[pd.DataFrame], None] | None = None,
    log: Callable[[str], None] = print,
    trial: Callable[..., dict] = train,
    **overrides: Any,
) -> pd.DataFrame:
    """Trains what is missing of a study, and returns one row a run.

    `study` is a name from STUDIES or a list as `grid` makes it; `seeds` and `overrides` as in `planned`.
    `scheduler` is '' (this machine: `slots_per_gpu` workers a GPU, or one a core; `workers` sets their number), an
    address or a Dask cluster. `show` is given the table now and then. Raises InputError before the first trial where
    something cannot be run or stored. Interrupted, killed or repeated, it goes on where it was.
    """
    configs = identified(planned(study, scale, seeds, runs=runs, **overrides))
    missing = {run: config for run, config in configs.items() if not finished(config, run)}
    folder = Config(runs=runs).folder
    if isinstance(scheduler, str) and scheduler:
        check_address(scheduler, insecure)
    check_space(folder, len(missing))
    log(announce(study, scale, configs, missing))
    if missing:
        with connected(scheduler, slots_per_gpu, workers) as client:
            client.register_worker_callbacks(partial(learn, own_formats()))
            count = len(client.nthreads())
            work = seconds_each(scale, configs) * len(missing)
            log(f"{count} workers, about {span(work / count)}" if count else "waiting for the cluster's first worker")
            log(f"records: {folder}, dashboard: {client.dashboard_link}")
            progress = Progress(len(missing), count, log, lambda: show and show(rows_of(configs, folder)))
            for run, outcome in outcomes(client, trial, missing):
                progress.add(keep(configs[run], run, outcome))
    return rows_of(configs, folder)
