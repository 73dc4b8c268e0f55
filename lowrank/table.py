"""How a notebook shows the table of runs: what tells them apart, in numbers that are easy to read."""

from __future__ import annotations

from dataclasses import fields

import pandas as pd

from .config import Config

FIRST = 9  # columns that are always shown
COUNTS = ["parameters", "pointwise_parameters", "multiply_adds", "peak_memory"]
SHARES = ["compression", "test_accuracy", "train_accuracy"]
FORMATS = (
    dict.fromkeys(COUNTS, "{:,.0f}".format)
    | dict.fromkeys(SHARES, "{:.1%}".format)
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
        shown = self[names].to_html(formatters=FORMATS, notebook=True, max_rows=pd.get_option("display.max_rows"))
        return shown + (f"<p>{len(self)} rows; {rest} more columns</p>" if rest else "")
