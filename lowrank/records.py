"""The store of results: a folder per run, written whole or not at all, and the table of all runs.

    runs/<run>/record.json   what was asked and what was measured: the truth; once it is there the run is stored
                             `correct` is which test images the network knows: numpy.packbits as base64
                             `start_decomp` is the form of the network that a run with `start` decomposed, and
                             `start_error` the relative error of the weights then, all layers together
    runs/<run>/history.csv   one row an epoch
    runs/<run>/.claim        locked by the process that works on the run; the kernel frees it when that process dies
    runs/results.csv         the records as one table, derived: every store replaces it; it may be deleted

Whatever of these is damaged is named, and the rest goes on without it.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd

from .config import ADDED, Config, InputError, unused_by
from .display import how_many, html_table
from .fields import TYPES, check_fields, is_of_epoch
from .files import claim, explain_errors, open_regular, read_at_most, sweep_up, write
from .paths import runs_folder

WEIGHTS = "weights.pt"  # beside the record of a run that keeps them, see weights.py
FINAL = ("done", "diverged")  # a run with one of these is not trained again; one that failed is
UNSAID = {"code": "", "correct": "", "start_decomp": ""}  # by older records; the last by runs without a start
FIRST = ["run", "status", "decomp", "dims", "budget", "rank_scale", "parameters", "compression", "test_accuracy"]
LARGEST = 2**24  # bytes of a record file that are read
COLUMNS = list(dict.fromkeys([*FIRST, *TYPES]))
BEGIN = ",".join(FIRST[:2]).encode()  # of the table


class Record(dict):
    """One run: a dict with a short repr, which a notebook shows as a table."""

    def __repr__(self) -> str:
        return f"Record({', '.join(f'{name}={self[name]!r}' for name in FIRST if name in self)})"

    def _repr_html_(self) -> str:
        return html_table({name: [value] for name, value in as_read(self).items() if name != "correct"})


@cache
def parse_record(path: str, inode: int, changed: int) -> dict[str, Any] | None:
    """A record file, read once a version; None, with a warning that names it, if it is damaged."""
    file = Path(path)
    try:
        with open_regular(file) as stream:
            content = json.loads(read_at_most(stream, LARGEST))
        if content["run"] == file.parent.name and isinstance(content["status"], str):
            check_fields(content)
            return content
        cause = f"it calls itself {content['run']!r}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        cause = f"{type(error).__name__}: {error}"
    warn_of(path, cause)
    return None


def warn_of(path: str, cause: str) -> None:
    line = " ".join(f"{path}: damaged record ignored, its run counts as missing ({cause})".split())
    warnings.warn(line, stacklevel=3)


def record(runs: Path, run: str) -> Record | None:
    """The stored record of a run, whatever its status; None if there is none or it cannot be read."""
    path = os.path.join(runs, run, "record.json")
    try:
        state = os.stat(path)
    except ValueError:  # a name that no file can have
        return None
    except OSError as error:
        if os.path.islink(path) or error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            warn_of(path, error.strerror)
        return None
    content = parse_record(path, state.st_ino, state.st_mtime_ns)
    return content and Record(ADDED | UNSAID | content)


def check_says(found: Mapping[str, Any], runs: Path, names: Iterable[str]) -> None:
    """Raises InputError, which names the file, if a record does not say all of this."""
    if lacking := [name for name in names if found.get(name, "") == ""]:
        raise InputError(f"{runs / found['run'] / 'record.json'}: it does not say {', '.join(lacking)}")


def records(runs: Path) -> list[Record]:
    """All readable records, the oldest first."""
    names = [entry.name for entry in os.scandir(runs) if is_folder(entry)] if runs.is_dir() else []
    found = [content for content in (record(runs, name) for name in names) if content]
    return sorted(found, key=lambda content: (content.get("started") or "", content["run"]))


def is_folder(entry: os.DirEntry) -> bool:
    with suppress(OSError):  # a link in a circle
        return entry.is_dir()
    return False


def name_run(run: str | Mapping[str, Any] | pd.Series) -> str:
    """The id of a run, given that or its record or its row of the table. Raises InputError if it is none of them."""
    name = run.get("run") if isinstance(run, Mapping | pd.Series) else run
    if not isinstance(name, str):
        raise InputError(f"run={name!r}; allowed: the id of a run, or its record")
    return name


def finite(value: Any) -> Any:
    """The value, or None for what JSON has no number for."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_csv(rows: list[dict[str, Any]], columns: Iterable[str] = ()) -> bytes:
    """Rows as CSV: the given columns first, then whatever else the rows hold."""
    names = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([names, *([row.get(name, "") for name in names] for row in rows)])
    return text.getvalue().encode()


def collect(runs: Path) -> None:
    """Brings runs/results.csv up to date with the records; safe in many processes at once.

    Raises InputError if it cannot be written, or is a file of others.
    """
    with claim(runs):
        path = runs / "results.csv"
        sweep_up(runs, path.name)
        if is_of_others(path):
            raise InputError(f"{path}: it is no table of runs; move it away, or name another folder for them")
        rows = [{name: each[name] for name in each if name != "correct"} for each in records(runs)]
        content = as_csv(rows, COLUMNS)
        if not path.exists() or path.stat().st_size != len(content) or path.read_bytes() != content:
            write(path, content)


def is_of_others(path: Path) -> bool:
    """Whether something else is there than the table of runs or what a power cut leaves of it: nothing, or NULs."""
    with suppress(OSError), open_regular(path) as file:
        begin = file.read(len(BEGIN))
        return bool(begin.strip(b"\0")) and not BEGIN.startswith(begin)
    return os.path.lexists(path)


def store(runs: Path, record: dict[str, Any], history: list[dict[str, Any]]) -> None:
    """A run's history, then its record, which makes it stored, then the table. The caller holds the run's claim.

    Raises InputError if one of the first two cannot be written, and warns if the table cannot.
    """
    folder = runs / record["run"]
    content = json.dumps({name: finite(value) for name, value in record.items()}, indent=1, allow_nan=False)
    with explain_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        sweep_up(folder)
    write(folder / "history.csv", as_csv(history))
    write(folder / "record.json", content.encode())
    try:
        collect(runs)
    except InputError as error:
        warnings.warn(f"{error}; the run is stored, only this table of all runs is not up to date", stacklevel=2)


def check_places(folder: Path) -> None:
    """Raises InputError if a folder stands where a run is to write one of its files."""
    for path in (folder / name for name in ("record.json", "history.csv", WEIGHTS)):
        if path.is_dir():
            raise InputError(f"{path}: it is a folder where the run writes a file; move it away")


def history(runs: str | Path, run: str | Mapping[str, Any] | pd.Series) -> pd.DataFrame:
    """One row an epoch of a stored run, named by its id or its record; a relative path starts at the repository.

    Raises InputError if there is none, or it is no table of numbers or was cut off.

    >>> lowrank.history("runs", "4a736e9f65c3").columns.tolist()[:4]
    ['epoch', 'seconds', 'train_loss', 'train_accuracy']
    """
    run = name_run(run)
    path = runs_folder(runs) / run / "history.csv"
    if not os.path.lexists(path):
        raise InputError(f"run={run!r}: there is no {path}")
    try:
        with open_regular(path) as file:
            content = read_at_most(file, LARGEST)
        if content.partition(b"\n")[0].count(b",") > len(COLUMNS):
            raise ValueError("it has too many columns")
        rows = pd.read_csv(io.BytesIO(content))
        for name, numbers in rows.astype(float).items():
            if not all(map(partial(is_of_epoch, name), numbers)):
                raise ValueError(f"a number of {name} is out of range")
        rows["epoch"] = rows["epoch"].astype(int)
        check_end(content, len(rows), record(path.parent.parent, run))
    except Exception as error:  # pandas raises many kinds
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: it is no history of epochs ({type(error).__name__}: {reason})") from error
    return rows


def check_end(content: bytes, rows: int, found: Record | None) -> None:
    """Raises ValueError at a history that was cut off."""
    if not content.endswith(b"\n"):
        raise ValueError("its last line is cut off")
    if found and found["status"] == "done" and rows != max(found["epochs"], 1):
        raise ValueError(f"it has {rows} rows for {found['epochs']} epochs")


# --- the table of all runs, as a notebook shows it

MEASURED_ON = ["test", "train", "validation", "fit"]  # images; `fit`: those of training as they are, at the end


def show_share(value: float) -> str:
    """10.0% of what a separable network holds; above the whole, as of a dense one, 9.0 times."""
    return f"{value:.1%}" if value < 1.0005 else f"{value:.1f} times"


SHOWN_AS = (
    dict.fromkeys(["parameters", "pointwise_parameters", "multiply_adds"], "{:,.0f}".format)
    | dict.fromkeys([f"{part}_accuracy" for part in MEASURED_ON], "{:.1%}".format)
    | dict.fromkeys([f"{part}_loss" for part in MEASURED_ON], "{:.4f}".format)
    | {"compression": show_share, "peak_memory": lambda value: f"{value / 2**20:,.0f} MiB"}
    | {"seconds": "{:.1f}".format, "images_per_second": "{:,.0f}".format, "started": "{:%Y-%m-%d %H:%M}".format}
)


def as_read(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says, its numbers as people read them."""
    shown = {name for name, value in content.items() if name in SHOWN_AS and isinstance(value, int | float)}
    return {name: SHOWN_AS[name](value) if name in shown else value for name, value in content.items()}


class Table(pd.DataFrame):
    """A DataFrame of runs; a notebook shows its first columns, every other parameter that varies and what failed.

    What is computed from it, with other rows than runs, is shown as pandas does.
    """

    @property
    def _constructor(self) -> type[Table]:
        return Table

    def _repr_html_(self) -> str:
        plain = self.columns.is_unique and self.columns.nlevels == 1 and self.index.name is None
        if not (plain and pd.api.types.is_integer_dtype(self.index)):
            return super()._repr_html_()
        parameters = {each.name for each in fields(Config)}
        varied = {name for name in parameters & set(self.columns) if self[name].nunique() > 1}
        said = {name for name in ("reason", "log") if name in self and (self[name].notna() & (self[name] != "")).any()}
        names = [name for name in self.columns if name in {*FIRST, *varied, *said}]
        rest = len(self.columns) - len(names)
        frame = pd.DataFrame(self[names])
        if "decomp" in names and not pd.api.types.is_bool_dtype(frame.decomp):
            for name in unused_by("dense").intersection(names):
                used = [name not in unused_by(decomp) for decomp in frame.decomp]
                frame[name] = frame[name].astype(object).where(pd.Series(used, frame.index, dtype=bool), "")
        for name in SHOWN_AS.keys() & set(frame.select_dtypes("number")):
            frame[name] = frame[name].map(SHOWN_AS[name], na_action="ignore")
        texts = frame.columns[frame.dtypes == "object"]
        frame[texts] = frame[texts].where(frame[texts].notna(), "")
        shown = frame.to_html(na_rep="", notebook=True, max_rows=pd.get_option("display.max_rows"))
        return shown + (f"<p>{how_many(len(self), 'row')}; {how_many(rest, 'more column')}</p>" if rest else "")


def results(runs: str | Path = "runs") -> Table:
    """One row a run, read from the records; a relative path starts at the repository.

    Its columns are the id (`run`), the `status`, every parameter and what was measured; `started` is a UTC time. A
    number that was not measured, because the run failed or diverged, is NaN. `train_loss` and `train_accuracy` are of
    the images as they were augmented, over the last epoch, in which the network changed; `fit_loss` and `fit_accuracy`
    are of the training images without augmentation, after it. `correct`, which is long, is left out.

    >>> lowrank.results("runs").query("run == '4a736e9f65c3'")[["decomp", "width", "parameters"]].to_dict("records")
    [{'decomp': 'separable', 'width': 16, 'parameters': 52288}]
    """
    folder = runs_folder(runs)
    rows, table = records(folder), folder / "results.csv"
    with suppress(InputError, OSError):  # who may only read still gets the rows
        if rows or table.exists() and not is_of_others(table):
            collect(folder)
    names = dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)])
    frame = Table(rows, columns=[name for name in names if name != "correct"])
    for name in (name for name, kind in TYPES.items() if kind in (int, float)):
        frame[name] = pd.to_numeric(frame[name])
    return frame.assign(started=pd.to_datetime(frame["started"], utc=True, format="ISO8601", errors="coerce"))
