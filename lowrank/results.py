"""The store of results: a folder per run, written whole or not at all, and the table of all runs.

    runs/<run>/record.json   what was asked and what was measured: the truth; once it is there the run is stored
                             `correct` is which test images the network knows: numpy.packbits as base64
    runs/<run>/history.csv   one row an epoch
    runs/<run>/.claim        locked by the process that works on the run; the kernel frees it when that process dies
    runs/results.csv         the records as one table, derived: every store replaces it; it may be deleted

Claims are `flock` locks: they hold between the processes of a host, and between hosts where the file system
passes them on.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import math
import os
import secrets
import shutil
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import ADDED, ROOT, Config, InputError, html_table

if TYPE_CHECKING:
    import pandas as pd

FINAL = ("done", "diverged")  # a run with one of these is not trained again; one that failed is
MEASURED = {
    "parameters": int,
    "pointwise_parameters": int,
    "compression": float,
    "multiply_adds": int,
    "train_loss": float,
    "train_accuracy": float,
    "test_loss": float,
    "test_accuracy": float,
    "validation_loss": float,
    "validation_accuracy": float,
    "fit_loss": float,
    "fit_accuracy": float,
    "seconds": float,
    "images_per_second": float,
    "peak_memory": int,
    "device": str,
    "torch": str,
    "revision": str,
    "code": str,
    "data": str,
    "started": str,
    "reason": str,
}
CONFIGURED = {each.name: type(each.default) for each in fields(Config)} | {"augment": bool}  # "auto" became one
TYPES = {"run": str, "status": str} | CONFIGURED | MEASURED
FIRST = ["run", "status", "decomp", "dims", "budget", "rank_scale", "parameters", "compression", "test_accuracy"]
COLUMNS = list(dict.fromkeys([*FIRST, *TYPES]))


class Record(dict):
    """One run: a dict with a short repr, which a notebook shows as a table."""

    def __repr__(self) -> str:
        return f"Record({', '.join(f'{name}={self[name]!r}' for name in FIRST if name in self)})"

    def _repr_html_(self) -> str:
        return html_table({name: [value] for name, value in self.items() if name != "correct"})


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Makes an OSError an InputError with the path, the cause and the space left."""
    try:
        yield
    except OSError as error:
        there = next(folder for folder in [path, *path.absolute().parents] if folder.exists())
        space = f"{shutil.disk_usage(there).free / 1e6:.1f} MB free"
        raise InputError(f"{path}: cannot be written: {error.strerror or error} ({space})") from error


def write(path: Path, content: bytes) -> None:
    """The file as a whole or not at all, whatever kills the process or the machine.

    Raises InputError, with the path and the space left, where the disk is full or the folder read-only.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with named(path):
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name, too, outlives a power cut
        finally:
            os.close(folder)


@contextmanager
def claim(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Holds a folder for this process: True once it is held; without `wait` False where another holds it.

    Makes the folder where there is none. The lock file stays: to remove it would let two processes hold two files.
    """
    with named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".claim", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(lock)


def sweep_up(folder: Path) -> None:
    """Removes what killed writers left; the caller holds the folder's claim."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


@cache
def parsed(path: str, inode: int, changed: int) -> dict[str, Any] | None:
    """A record file, read once a version; None, with a warning that names it, where it is damaged."""
    file = Path(path)
    try:
        content = json.loads(file.read_bytes())
        if content["run"] == file.parent.name and isinstance(content["status"], str):
            return content
        cause = f"it calls itself {content['run']!r}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        cause = f"{type(error).__name__}: {error}"
    warnings.warn(f"{path}: damaged record ignored, its run counts as missing ({cause})", stacklevel=2)
    return None


def record(runs: Path, run: str) -> Record | None:
    """The stored record of a run, whatever its status; None where there is none or it cannot be read."""
    path = os.path.join(runs, run, "record.json")
    try:
        state = os.stat(path)
    except OSError:
        return None
    content = parsed(path, state.st_ino, state.st_mtime_ns)
    return content and Record(ADDED | {"code": "", "correct": ""} | content)  # an older one has not all


def records(runs: Path) -> list[Record]:
    """All readable records, the oldest first."""
    names = [entry.name for entry in os.scandir(runs) if entry.is_dir()] if runs.is_dir() else []
    found = [content for content in (record(runs, name) for name in names) if content]
    return sorted(found, key=lambda content: (content.get("started") or "", content["run"]))


def finite(value: Any) -> Any:
    """The value, or None for what JSON has no number for."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(rows: list[dict[str, Any]], columns: Iterable[str] = ()) -> bytes:
    """Rows as CSV: the given columns first, then whatever else the rows hold."""
    names = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([row.get(name, "") for name in names] for row in rows)
    return text.getvalue().encode()


def collect(runs: Path) -> None:
    """Brings runs/results.csv up to date with the records; safe in many processes at once.

    Raises InputError where it cannot be written.
    """
    with claim(runs):
        sweep_up(runs)
        rows = [{name: each[name] for name in each if name != "correct"} for each in records(runs)]
        content = table(rows, COLUMNS)
        path = runs / "results.csv"
        if not path.is_file() or path.read_bytes() != content:
            write(path, content)


def store(runs: Path, record: dict[str, Any], history: list[dict[str, Any]]) -> None:
    """A run's history, then its record, which makes it stored, then the table. The caller holds the run's claim.

    Raises InputError where one of them cannot be written.
    """
    folder = runs / record["run"]
    content = json.dumps({name: finite(value) for name, value in record.items()}, indent=1, allow_nan=False)
    with named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        sweep_up(folder)
    write(folder / "history.csv", table(history))
    write(folder / "record.json", content.encode())
    collect(runs)


def history(runs: str | Path, run: str) -> pd.DataFrame:
    """One row an epoch of a stored run; a relative path starts at the repository.

    Raises InputError where there is none.
    """
    import pandas as pd

    path = ROOT / runs / run / "history.csv"
    if not path.is_file():
        raise InputError(f"run={run!r}: there is no {path}")
    return pd.read_csv(path)
