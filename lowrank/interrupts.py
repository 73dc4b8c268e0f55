"""What a person sees of an interrupt: one line, in a script, in JupyterLab and under papermill."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .errors import OneLine
from .progress import in_notebook, is_watched


class Stopped(OneLine, KeyboardInterrupt):
    """Something was interrupted; the message is one line that says how far it has come."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def stopped(how_far: str) -> Stopped:
    """What to raise so that nothing but this line is seen."""
    line = f"stopped: {how_far}"
    show_stopped_as_a_line()
    tell_papermill(line)
    return Stopped(line)


def show_stopped_as_a_line() -> None:
    """Has this process show a Stopped that nobody catches as its message alone, as IPython does."""
    shown = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if isinstance(error, Stopped):
            if not (sys.flags.interactive or hasattr(sys, "ps1")):  # the process ends: a key held down is too late
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            print(error, file=sys.stderr)
        else:
            shown(kind, error, trace)

    sys.excepthook = show


def tell_papermill(line: str = "") -> None:
    """Has ipykernel show no traceback as papermill ends it, and says the line in the terminal of both."""
    if in_notebook() and not is_watched():
        log = sys.modules["ipykernel.kernelapp"].IPKernelApp.instance().log
        log.addFilter(is_no_lost_answer)
        if line:
            log.warning(line)


def is_no_lost_answer(entry: logging.LogRecord) -> bool:
    """A filter: papermill, interrupted, ends a kernel whose cell still runs, whose answer then finds no socket."""
    return not (entry.exc_info and type(entry.exc_info[1]).__name__ == "ZMQError")


@contextmanager
def interrupts_after_loading(name: str) -> Iterator[None]:
    """Has Ctrl-C wait for what is loaded meanwhile: half of it, or of numpy, could not be loaded a second time."""
    tell_papermill()
    handler, pressed = signal.getsignal(signal.SIGINT), []
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if pressed:
        try:
            handler(signal.SIGINT, None)
        except KeyboardInterrupt:
            raise stopped(f"nothing was begun, {name} was still being loaded") from None
