"""The table of all runs, and how a notebook shows it: what tells them apart, in numbers that are easy to read."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import pandas as pd

from .config import Config, InputError
from .formats import uses_dims
from .paths import runs_folder
from .results import COLUMNS, TYPES, collect, records

FIRST = 9  # columns that are always shown
COUNTS = ["parameters", "pointwise_parameters", "multiply_adds", "peak_memory"]
SHARES = ["test_accuracy", "train_accuracy"]


def show_share(value: float) -> str:
    """10.0% of what a separable network holds; above the whole, as of a dense one, 9.0 times."""
    return f"{value:.1%}" if value < 1.0005 else f"{value:.1f} times"


FORMATS = (
    dict.fromkeys(COUNTS, "{:,.0f}".format)
    | dict.fromkeys(SHARES, "{:.1%}".format)
    | {"compression": show_share}
    | {"seconds": "{:.1f}".format, "images_per_second": "{:,.0f}".format, "started": "{:%Y-%m-%d %H:%M}".format}
)


class Table(pd.DataFrame):
    """A DataFrame of runs; a notebook shows its first columns and every other parameter that varies."""

    @property
    def _constructor(self) -> type[Table]:
        return Table

    def _repr_html_(self) -> str:
        parameters = {each.name for each in fields(Config)}
        names = [
            name
            for place, name in enumerate(self.columns)
            if place < FIRST or (name in parameters and self[name].nunique() > 1)
        ]
        rest = len(self.columns) - len(names)
        frame = pd.DataFrame(self[names])
        if {"decomp", "dims"} <= set(names):
            frame["dims"] = frame.dims.astype(object).mask(~frame.decomp.map(uses_dims), "")
        shown = frame.to_html(formatters=FORMATS, notebook=True, max_rows=pd.get_option("display.max_rows"))
        return shown + (f"<p>{len(self)} rows; {rest} more columns</p>" if rest else "")


def results(runs: str | Path = "runs") -> Table:
    """One row a run, read from the records; a relative path starts at the repository.

    Columns as in COLUMNS, then whatever else the records hold, but for `correct`; `started` is a UTC time. A number
    that was not measured, because the run failed or diverged, is NaN.
    """
    folder = runs_folder(runs)
    if folder.is_dir():
        with suppress(InputError):  # who may only read still gets the rows
            collect(folder)
    rows = records(folder)
    names = dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)])
    frame = Table(rows, columns=[name for name in names if name != "correct"])
    for name in (name for name, kind in TYPES.items() if kind in (int, float)):
        frame[name] = pd.to_numeric(frame[name])
    return frame.assign(started=pd.to_datetime(frame["started"], utc=True, format="ISO8601", errors="coerce"))
