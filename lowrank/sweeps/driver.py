"""A study onto an executor: Dask's local cluster by default, a cluster that others started by its address.

Dask queues, places and retries. What this adds: each run is claimed, stored before it counts, and never trained twice.
Starting the same sweep again, at the same time or after any fault, runs what is missing.

An interrupt (Ctrl-C, the notebook's stop button, SIGTERM) raises nothing while a record is written or Dask starts or
ends: it is noted, and this thread, which only waits for what `engine.Engine` brings, looks for it all the time.
"""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from numbers import Real
from pathlib import Path
from queue import Empty
from typing import Any

import pandas as pd

from ..config import Config, InputError
from ..errors import check_functions
from ..experiment import name_paths
from ..files import claim
from ..interrupts import Stopped, stopped
from ..paths import check_directory
from ..progress import SweepProgress, in_notebook
from ..records import FINAL, collect, store
from ..signatures import show_parameters
from .cluster import check_process, check_scheduler, connected, slots
from .engine import Engine, Outcome, make_failed, run_trial
from .plan import (
    Study,
    announce,
    check_machine,
    final_record,
    identify_runs,
    missing_of,
    plan_runs,
    rows_of,
    work_of,
)

SPACE = 20_000  # bytes of disk that a record, its history and its log take
REDRAW = 10  # seconds between two pictures of the state
GLANCE = 0.1  # seconds between two looks for an interrupt
ENDING = 1  # seconds that an interrupted sweep waits for Dask to end; its workers are killed before that
MOST_MINUTES = 10**6  # minutes of a timeout


def keep_record(config: Config, run: str, outcome: Outcome) -> str:
    """Sees to it that the record is on this disk, whole, and returns its status: what was done is never replaced."""
    content, history = outcome
    if content["status"] in FINAL and content["run"] != run:
        content, history = make_failed(f"the worker's data or code gave run {content['run']}, not {run}")
    if there := final_record(config, run):
        return there["status"]
    with claim(config.folder / run, wait=content["status"] in FINAL) as mine:
        if mine and not final_record(config, run):
            store(config.folder, name_paths(config) | {"run": run} | content, history)
    return content["status"]


def connection(scheduler: Any, insecure: bool, slots_per_gpu: int, workers: int) -> Callable[[], Any]:
    """What an Engine connects by; raises InputError if there can be no such scheduler or workers."""
    check_scheduler(scheduler, insecure)
    return partial(connected, scheduler, [] if scheduler else slots(slots_per_gpu, workers))


def check_space(folder: Path, runs: int) -> None:
    """Raises InputError if the folder cannot be written or has no space for the records of so many runs."""
    collect(folder)
    free = shutil.disk_usage(folder).free
    if free < runs * SPACE:
        raise InputError(
            f"runs={str(folder)!r}: {free // 1000} kB free; {runs} more records need {runs * SPACE // 1000} kB"
        )


def check_place(missing: dict[str, Config], folder: Path, here: bool) -> None:
    """Raises InputError if these runs cannot be trained `here`, should they be, or stored, or swept by this process."""
    if here:
        check_machine(missing.values())
    check_space(folder, len(missing))
    if missing:
        check_process()


def checked_timeout(timeout: float) -> float:
    if not isinstance(timeout, Real) or isinstance(timeout, bool) or not 0 <= timeout <= MOST_MINUTES:
        raise InputError(f"timeout={timeout!r}; allowed: minutes, 0 (no limit) to {MOST_MINUTES}")
    return float(timeout)


class Interrupts:
    """SIGINT and SIGTERM while a sweep runs: if `raising`, as KeyboardInterrupt; else `pressed` says that one came.

    One that comes when the sweep should long have ended does what it did before: something hangs.
    """

    def __init__(self) -> None:
        self.raising, self.pressed, self.since = True, False, 0.0

    def note(self, number: int, frame: Any) -> None:
        late = self.pressed and time.monotonic() - self.since > 5 * ENDING
        if not self.pressed:
            self.pressed, self.since = True, time.monotonic()
        if self.raising or late:
            raise KeyboardInterrupt

    def heed(self) -> None:
        if self.pressed:
            raise KeyboardInterrupt

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Notes the signals meanwhile, if this is the thread that gets them and they are not ignored anyway."""
        before = {}
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            before = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
        try:
            for number in before:
                signal.signal(number, self.note)
            yield
        finally:
            self.raising = False
            for number, handler in before.items():
                signal.signal(number, handler)


def receive_outcomes(
    engine: Engine, interrupts: Interrupts, log: Callable[[str], None], tick: Callable[[], None]
) -> Iterator[tuple[str, Outcome]]:
    """Each run with its outcome as it ends, until the engine has ended; `tick` is called all the time.

    Raises what ended the engine, or KeyboardInterrupt after an interrupt.
    """
    while True:
        interrupts.heed()
        tick()
        try:
            event = engine.events.get(timeout=GLANCE)
        except Empty:
            continue
        if event is None:
            return
        if isinstance(event, BaseException):
            raise event
        if isinstance(event, str):
            log(event)
        else:
            yield event


def run_missing(
    engine: Engine,
    interrupts: Interrupts,
    work: dict[str, float],
    log: Callable[[str], None],
    show: Callable[[], None],
) -> None:
    """Stores the missing runs as they end, and shows the progress; ends the engine, whatever happens."""
    engine.start()
    try:
        with closing(SweepProgress(work, log)) as progress:
            shown = time.monotonic()
            for run, outcome in receive_outcomes(engine, interrupts, log, lambda: progress.tick(engine.workers)):
                progress.add(run, keep_record(engine.missing[run], run, outcome))
                if not progress.work or time.monotonic() - shown > REDRAW:
                    show()
                    shown = time.monotonic()
        progress.finish()
    finally:
        engine.halt.set()
        engine.join(ENDING)


def describe_stop(configs: dict[str, Config]) -> Stopped:
    """How far an interrupted sweep has come, in one line."""
    done = sum(bool(final_record(config, run)) for run, config in configs.items())
    count = f"{done} done, {len(configs) - done} remain" if configs else "nothing was begun"
    return stopped(f"{count}; the same {'cell' if in_notebook() else 'command'} goes on")


@show_parameters(Config, given=False)
def sweep(
    study: Study,
    scale: str = "smoke",
    scheduler: Any = "",
    runs: str = "runs",
    seeds: int = 0,
    slots_per_gpu: int = 1,
    workers: int = 0,
    insecure: bool = False,
    timeout: float = 0,
    show: Callable[[pd.DataFrame], None] | None = None,
    log: Callable[[str], None] = print,
    **overrides: Any,
) -> pd.DataFrame:
    """Trains what is missing of a study, and returns one row a run, in the study's order.

    Interrupted, killed or repeated, it goes on where it was.

        study          a name from lowrank.studies.STUDIES, or a list as `lowrank.grid` makes it
        scale          of a named study: smoke (a rehearsal), cpu or gpu
        seeds          each setting runs with 0 to seeds - 1, unless it names its own; 0 is the scale's number
        scheduler      "" for this machine, an address, or a Dask cluster; `insecure` allows plain tcp to another host
        slots_per_gpu  workers a GPU on this machine; `workers` sets their number (0: one a GPU slot or core)
        timeout        minutes after which a run is ended as failed; 0 is no limit
        show           is given the table now and then; `log` a line at a time

    Any parameter of a run that is given replaces the study's in every run. Raises InputError before the first trial if
    a run is not possible or nothing can be stored; Stopped, one line, when interrupted. A run that fails is a row with
    the `status` "failed" and its `reason`.

    >>> study = lowrank.grid(decomp=["tt"], dims=[3], budget=[0.5], dataset=["digits"], width=[4], epochs=[1])
    >>> table = lowrank.sweep(study)
    own grid: 1 run, ...
    >>> table["parameters"].tolist()
    [3104]
    """
    configs: dict[str, Config] = {}
    interrupts = Interrupts()
    with interrupts.noted():
        try:
            check_directory()
            check_functions(log=log, show=print if show is None else show)
            minutes, connect = checked_timeout(timeout), connection(scheduler, insecure, slots_per_gpu, workers)
            configs |= identify_runs(plan_runs(study, scale, seeds, runs=runs, **overrides))
            missing, folder = missing_of(configs), Config(runs=runs).folder
            work = work_of(missing)
            interrupts.raising = False
            check_place(missing, folder, here=not scheduler)
            for line in announce(study, scale, configs, missing, here=not scheduler):
                log(line)
            if missing:
                engine = Engine(connect, run_trial, missing, minutes)
                run_missing(engine, interrupts, work, log, lambda: show and show(rows_of(configs, folder)))
            table = rows_of(configs, folder)
            interrupts.heed()  # one that came after the last run, or while there was none
            return table
        except KeyboardInterrupt:
            interrupts.raising = False
            raise describe_stop(configs) from None
