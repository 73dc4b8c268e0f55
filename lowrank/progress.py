"""What a person sees of a run: lines that last, and a bar that leaves nothing behind in a saved notebook."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from tqdm import tqdm

WARM = 2  # steps until the speed has settled
TIMED = 5  # steps after which the time of a run is estimated
REFRESH = 0.5  # seconds between two pictures of the bar


def span(seconds: float) -> str:
    """1:02:03, or 12.3 s below a minute."""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


class NotebookBar:
    """One line in a live notebook, replaced as it changes; `close` leaves it empty."""

    def __init__(self, total: int, initial: int) -> None:
        from IPython.display import display

        self.total, self.n, self.initial = total, initial, initial
        self.start = self.shown = time.monotonic()
        self.handle = display(self.text(""), raw=True, display_id=True)

    def text(self, line: str) -> dict[str, str]:
        return {"text/plain": line}

    def update(self) -> None:
        self.n += 1
        now = time.monotonic()
        if now - self.shown < REFRESH:
            return
        self.shown = now
        left = (now - self.start) / (self.n - self.initial) * (self.total - self.n)
        share = self.n / self.total
        self.handle.update(self.text(f"{'█' * round(30 * share):░<30} {share:4.0%}, {span(left)} left"), raw=True)

    def close(self) -> None:
        self.handle.update(self.text(""), raw=True)


def in_notebook() -> bool:
    return "ipykernel" in sys.modules and sys.modules["ipykernel"].kernelapp.IPKernelApp.initialized()


class Progress:
    """Tells `log` what a run costs and how each epoch went; with `bar`, shows how far it is."""

    def __init__(self, log: Callable[[str], None], bar: bool, steps: int, epochs: int, finished: int) -> None:
        self.log, self.total, self.done = log, steps * epochs, steps * finished
        self.first, self.mark = self.done, 0.0
        if bar and in_notebook():
            self.bar = NotebookBar(self.total, self.done)
        else:  # disable=None: only in a terminal
            self.bar = tqdm(total=self.total, initial=self.done, disable=None if bar else True, leave=False)

    def step(self) -> None:
        self.done += 1
        self.bar.update()
        taken = self.done - self.first
        if taken == WARM:
            self.mark = time.monotonic()
        if taken == WARM + TIMED:
            pace = (time.monotonic() - self.mark) / TIMED
            self.log(f"about {span(pace * (self.total - self.done))} of training to go, {pace * 1000:.0f} ms a step")

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        part = "test" if "test_loss" in row else "validation"
        self.log(
            f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  {row['seconds']:7.2f} s  "
            f"train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:.2%}  "
            f"{part} loss {row[f'{part}_loss']:.4f} accuracy {row[f'{part}_accuracy']:.2%}"
        )

    def close(self) -> None:
        self.bar.close()
