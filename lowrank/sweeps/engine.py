"""What a sweep does with Dask: trials on its workers, and a thread that hands them out and brings back how they ended.

The thread keeps everything of Dask to itself, so that an interrupt finds the caller's thread waiting and nothing half
done: see driver.py.
"""

from __future__ import annotations

import faulthandler
import io
import os
import pickle
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from csv import DictReader
from dataclasses import asdict
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

from ..config import Config, InputError
from ..files import TOKEN, claim, explain_errors, open_at_once
from ..formats import Format
from ..formats.checks import check_copy
from ..formats.own import own_formats, register

Outcome = tuple[dict[str, Any], list[dict[str, Any]]]  # a record and its history
LOOK = 0.05  # seconds between two looks at what has ended
COUNT = 1  # seconds between two counts of the workers


# On a worker


def run_trial(**parameters: Any) -> dict[str, Any]:
    """The trial of a sweep: lowrank.run, in whatever process it lands."""
    from ..experiment import run

    return run(**parameters)


def learn_formats(own: dict[str, Format]) -> None:
    """Makes the formats that the driver has registered known in this process."""
    for decomp, form in own.items():
        register(decomp, form)


def attempt(
    trial: Callable[..., dict], parameters: dict[str, Any], run: str, wait: bool, timeout: float = 0, sweep: str = ""
) -> Outcome | None:
    """Trains one run in this process; None if another process is at it, unless told to wait for that one.

    What the trial says goes to runs/<run>/log.txt. An exception becomes a record of status "failed"; so does a trial
    that was ended after `timeout` minutes, in the attempt that Dask makes next. Raises InputError if the folder
    cannot be written: no other run could be stored either.
    """
    folder = Config.of(parameters).folder / run
    with claim(folder, wait=False) as free:  # a hint: the trial itself claims the run and waits
        if not free and not wait:
            return None
    with explain_errors(folder / "log.txt"), open(folder / "log.txt", "a", 1, opener=open_at_once) as log:
        try:
            with time_limit(timeout, folder / f".timeout.{sweep}.tmp", log):
                done = trial(log=lambda line: print(line, file=log), **parameters)
        except Exception as error:
            traceback.print_exc(file=log)
            if has_lost_gpu():
                os._exit(1)  # nothing runs on this GPU in this process any more: Dask replaces the worker
            if isinstance(error, InputError) and isinstance(error.__cause__, OSError):
                raise
            return {"status": "failed", "reason": f"{type(error).__name__}: {error}"}, []
    return dict(done), rows(folder / "history.csv")


@contextmanager
def time_limit(minutes: float, note: Path, log: Any) -> Iterator[None]:
    """Ends this process if the block takes longer, even in C code; 0 is no limit.

    Where each thread was is then left in the file `note`. Raises TimeoutError, before the block, if it is there.
    """
    if not minutes:
        yield
        return
    with suppress(FileNotFoundError):
        if left := note.read_text():
            print(left, file=log)
            note.unlink()
            raise TimeoutError(f"still running after timeout={minutes:g} minutes; log.txt says where")
    with open(note, "w") as file:
        faulthandler.dump_traceback_later(60 * minutes, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            note.unlink(missing_ok=True)


def rows(table: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file; none if there is no file."""
    if not table.is_file():
        return []
    with open(table, newline="") as file:
        return list(DictReader(file))


def has_lost_gpu() -> bool:
    """Whether a CUDA error has left this process without a usable GPU."""
    torch = sys.modules.get("torch")
    try:
        if torch and torch.cuda.is_initialized():
            torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


# At the driver


def make_failed(reason: str) -> Outcome:
    return {"status": "failed", "reason": reason}, []


class Elsewhere(pickle.Unpickler):
    """Reads what is sent to a worker as it does: there is nothing there of what this notebook or script defines."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "__main__":
            raise AttributeError(f"{name} is sent by its name alone, as functools.cache makes it, and not known there")
        return super().find_class(module, name)


def sent_formats(configs: Iterable[Config]) -> dict[str, Format]:
    """The formats of one's own that these runs use. Raises InputError if a worker could not be sent one."""
    used = {config.decomp for config in configs}
    own = {decomp: form for decomp, form in own_formats().items() if decomp in used}
    for decomp, form in own.items():
        check_sending(decomp, form)
    return own


def check_sending(decomp: str, form: Format) -> None:
    """Raises InputError if what a worker would be sent is not to be read there, or is another format."""
    from cloudpickle import dumps

    try:
        check_copy(decomp, Elsewhere(io.BytesIO(dumps(form))).load())
    except Exception as error:  # of the format's own, too
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"decomp={decomp!r}: it cannot be sent to a worker ({reason})") from error


class Engine(Thread):
    """Hands the missing runs to Dask; `events` gets lines to log, each run with its outcome
    as it ends, and last None or what went wrong.

    `connect` gives a Dask client and what has to be called now and then (`cluster.connected`). Ends within moments
    of `halt` being set, with what it started. Raises InputError if a run's format cannot be sent to a worker.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractContextManager],
        trial: Callable[..., dict],
        missing: dict[str, Config],
        timeout: float,
    ) -> None:
        super().__init__(daemon=True)
        self.connect, self.trial, self.missing, self.timeout = connect, trial, missing, timeout
        self.formats = sent_formats(missing.values())
        self.events: SimpleQueue = SimpleQueue()
        self.halt = Event()
        self.workers, self.counted = 0, 0.0

    def run(self) -> None:
        try:
            with self.connect() as (client, tend):
                self.events.put(f"dashboard: {client.dashboard_link}")
                client.register_worker_callbacks(partial(learn_formats, self.formats))
                for run, outcome in self.outcomes(client, tend):
                    self.events.put((run, outcome))
            self.events.put(None)
        except BaseException as error:
            self.events.put(error)

    def outcomes(self, client: Any, tend: Callable[[], None]) -> Iterator[tuple[str, Outcome]]:
        """Each run with its outcome as it ends; a run that another sweep is at comes last.

        A run whose start is to be trained, too, waits for it, and fails with it. Raises InputError if the scheduler is
        gone.
        """
        from distributed import as_completed

        sweep = secrets.token_hex(TOKEN)
        futures = as_completed(loop=client.loop, with_results=True, raise_errors=False)

        def submit(run: str, wait: bool) -> None:
            parameters, key = asdict(self.missing[run]), (f"trial-{sweep}", run, int(wait))
            asked = (self.trial, parameters, run, wait, self.timeout, sweep)
            futures.add(client.submit(attempt, *asked, key=key, priority=-int(wait), pure=False))

        waiting = {run: config.start for run, config in self.missing.items() if config.start in self.missing}
        for run in self.missing:
            if run not in waiting and not self.halt.is_set():
                submit(run, wait=False)
        while not futures.is_empty() and not self.halt.wait(LOOK):
            tend()
            self.count(client)
            for future, result in futures.next_batch(block=False):
                run = future.key[1]
                if outcome := outcome_of(future, result):
                    yield run, outcome
                    for each in [each for each, start in waiting.items() if start == run]:
                        del waiting[each]
                        if outcome[0]["status"] == "done":
                            submit(each, wait=False)
                        else:
                            yield each, make_failed(f"run {run}, which it starts from, is {outcome[0]['status']}")
                else:
                    submit(run, wait=True)

    def count(self, client: Any) -> None:
        """Brings the number of workers up to date."""
        if time.monotonic() - self.counted > COUNT:
            self.counted = time.monotonic()
            with suppress(OSError):  # the connection is being made anew
                self.workers = len(client.nthreads())


def outcome_of(future: Any, result: Any) -> Outcome | None:
    """What an ended future brings: None if another process is at it. Raises InputError if the scheduler is gone."""
    from distributed import KilledWorker

    if future.status == "finished":
        return result
    if future.status != "error":
        raise InputError(f"scheduler={future.client.scheduler.address!r} is gone; start again for what is missing")
    if isinstance(result[1], KilledWorker):
        return make_failed(
            "its worker died each time it was tried (killed, out of memory, a CUDA error): see its log.txt"
        )
    raise result[1]
