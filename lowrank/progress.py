"""What a person sees of a run and of a sweep: lines that last, and one that is replaced and leaves nothing behind.

Both count work: a run its steps, a sweep the multiply-adds of its trials. The time left is what the rest takes at the
speed so far; before anything is done there is none.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from tqdm import tqdm

YEAR = 365 * 24 * 3600  # seconds
WARM = 2  # steps until the speed has settled
TIMED = 5  # steps after which the time of a run is estimated
REFRESH = 0.5  # seconds between two pictures of the line
SAID = 60  # seconds between two lines that last, where nobody sees the one that is replaced


def show_duration(seconds: float) -> str:
    """1:02:03, or 12.3 s below a minute, or 2 years."""
    if seconds > 2 * YEAR:
        return f"{seconds / YEAR:,.0f} years"
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def in_notebook() -> bool:
    """Whether a kernel runs here; widgets and papermill import ipykernel without one."""
    app = sys.modules.get("ipykernel.kernelapp")
    return app is not None and app.IPKernelApp.initialized()


def is_watched() -> bool:
    """Whether somebody sees a line that is replaced: in JupyterLab or a terminal, not under papermill."""
    return "JPY_SESSION_NAME" in os.environ or sys.stderr.isatty()


class NotebookLine:
    """A line in a live notebook, replaced as it changes; `close` leaves it empty."""

    def __init__(self) -> None:
        from IPython.display import display

        self.handle = display({"text/plain": ""}, raw=True, display_id=True)

    def set_description_str(self, text: str) -> None:
        self.handle.update({"text/plain": text}, raw=True)

    def close(self) -> None:
        self.set_description_str("")


class Progress:
    """How much of the counted work is done, on a line that is replaced; without `shown` nothing is displayed."""

    def __init__(self, total: float, done: float = 0, shown: bool = True) -> None:
        self.total, self.first, self.done = total, done, done
        self.start, self.drawn = time.monotonic(), 0.0
        # disable=None: only in a terminal
        terminal = {"bar_format": "{desc}", "leave": False, "disable": None if shown else True}
        self.line = NotebookLine() if shown and in_notebook() else tqdm(**terminal)

    def seconds_left(self) -> float | None:
        """At the speed so far; None before anything is done."""
        worked = self.done - self.first
        return (time.monotonic() - self.start) / worked * (self.total - self.done) if worked else None

    def draw(self, *parts: str) -> None:
        """Shows a bar with the parts and the time left, unless that was done a moment ago."""
        if time.monotonic() - self.drawn > REFRESH:
            self.drawn = time.monotonic()
            share, left = self.done / (self.total or 1), self.seconds_left()
            time_left = [f"about {show_duration(left)} left"] if left is not None else []
            self.line.set_description_str(f"{'█' * round(30 * share):░<30} {', '.join([*parts, *time_left])}")

    def close(self) -> None:
        self.line.close()


class RunProgress(Progress):
    """Tells `log` what a run costs and how each epoch went; with `shown`, shows how far it is."""

    def __init__(self, log: Callable[[str], None], shown: bool, steps: int, epochs: int, finished: int) -> None:
        super().__init__(steps * epochs, steps * finished, shown)
        self.log, self.mark = log, 0.0

    def step(self) -> None:
        self.done += 1
        self.draw(f"{self.done / self.total:.0%}")
        taken = self.done - self.first
        if taken == WARM:
            self.mark = time.monotonic()
        if taken == WARM + TIMED:
            pace = (time.monotonic() - self.mark) / TIMED
            self.log(
                f"about {show_duration(pace * (self.total - self.done))} of training to go, {pace * 1000:.0f} ms a step"
            )

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        part = "test" if "test_loss" in row else "validation"
        trained = (
            f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  {row['seconds']:7.2f} s  "
            f"train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:.2%}"
        )
        self.log(
            f"{trained if epochs else 'decomposed, not trained'}  "
            f"{part} loss {row[f'{part}_loss']:.4f} accuracy {row[f'{part}_accuracy']:.2%}"
        )


class SweepProgress(Progress):
    """Done, failed, running and remaining runs of a sweep, and the time left: on the line, or to `log` once a minute.

    `work` is what each run that is to be trained costs, in the order in which they are begun.
    """

    def __init__(self, work: dict[str, float], log: Callable[[str], None]) -> None:
        super().__init__(sum(work.values()))
        self.work, self.log, self.counts, self.worked = dict(work), log, Counter(), 0.0
        self.begun, self.said = time.monotonic(), time.monotonic()

    def add(self, run: str, status: str) -> None:
        """Counts one run that ended; what failed says nothing about the speed."""
        self.counts[status] += 1
        cost = self.work.pop(run)
        if status == "failed":
            self.total -= cost
        else:
            self.worked += cost

    def tick(self, workers: int) -> None:
        """Brings the line up to date; `workers` run one trial each."""
        running = list(self.work.values())[:workers]
        if not self.counts and not running:
            self.start = time.monotonic()  # the time until there are workers does not count
        self.done = self.worked and self.worked + sum(running) / 2  # on average they are half done
        parts = [f"{len(running)} running", f"{len(self.work) - len(running)} remaining"]
        self.draw(*self.ended(), *parts)
        if not is_watched() and time.monotonic() - self.said > SAID:
            self.said, left = time.monotonic(), self.seconds_left()
            self.log(
                ", ".join([*self.ended(), *parts, *([f"about {show_duration(left)} left"] if left is not None else [])])
            )

    def ended(self, statuses: Iterable[str] = ("done",)) -> list[str]:
        return [f"{self.counts[status]} {status}" for status in dict.fromkeys([*statuses, *self.counts])]

    def finish(self) -> None:
        """Says how the runs ended and how long it took."""
        self.log(f"{', '.join(self.ended(()))} in {show_duration(time.monotonic() - self.begun)}")
