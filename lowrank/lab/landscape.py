"""The recorded runs of one dataset as a picture that answers the mouse: the nearest shows itself, a click chooses it.

The picture is drawn by `plots`, once. What lies over it in a browser (landscape.js: the dots, the line of a setting)
is placed by shares of its width and height, so that it holds at any size.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import pandas as pd
import torch
from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from traitlets import Bytes, Dict, List, Unicode

from ..config import DECOMPS, Config
from ..network import SIZED_BY, build
from . import plots
from .controls import png

RED = "#C1121F"  # of no decomposition
DPI = 160  # sharp where a screen has more pixels than points


# --- the runs


def count_classes(table: pd.DataFrame | None) -> int:
    """How many classes the images of these runs have, 10 if nobody knows: records do not say it, but their sizes do."""
    if table is None or not (begun := table[(table.start == "") & table.decomp.isin(DECOMPS)]).size:
        return 10
    record = begun.iloc[0]  # one that starts from another has ranks that follow its weights
    config = Config.of({name: record[name] for name in SIZED_BY})
    with torch.device("meta"):
        one, two = (sum(each.numel() for each in build(config, classes).parameters()) for classes in (1, 2))
    more, rest = divmod(record.parameters - one, two - one)
    return 10 if rest or more < 0 else 1 + more


def locate_runs(ax: Axes) -> dict[str, tuple[float, float]]:
    """Where each run that `plots` drew lies in the picture: shares of its width and height, from the top left."""
    return {run: share(ax, x, y) for x, y, run in ax.dots if ax.viewLim.contains(x, y)}


def share(ax: Axes, x: float, y: float) -> tuple[float, float]:
    """A point of the data as shares of the picture's width and height, from its top left."""
    across, up = ax.figure.transFigure.inverted().transform(ax.transData.transform((x, y)))
    return float(across), float(1 - up)


# --- the picture


class Landscape:
    """Recorded runs, drawn once, where each of them lies, and where a size lies among them."""

    def __init__(self, table: pd.DataFrame, describe: Callable[[dict[str, Any]], str]) -> None:
        self.figure = Figure(figsize=(8.8, 4.6), layout="constrained")
        self.ax = plots.accuracy_against_parameters(table, self.figure.subplots(), mixed=True)
        self.limits = self.ax.get_xlim()
        self.figure.draw_without_rendering()  # places the axes
        self.figure.set_layout_engine("none")  # and they stay there
        self.png = png(self.figure, DPI)
        rows = {row["run"]: row for row in table.to_dict("records")}
        places = locate_runs(self.ax)
        self.dots = [{"run": run, "x": x, "y": y, "text": describe(rows[run])} for run, (x, y) in places.items()]

    def holds(self, parameters: int | None) -> bool:
        """Whether there is a network, and its size lies within the picture."""
        return parameters is not None and self.limits[0] <= parameters <= self.limits[1]

    def place(self, parameters: int) -> str:
        """Where the picture shows a network of this size, in words."""
        if self.holds(parameters):
            return ": the red line below"
        low, high = self.limits
        end, side = (low, "left") if parameters < low else (high, "right")
        return f": {side} of the picture below, which ends at {end:,.0f}"

    def line(self, parameters: int) -> dict[str, float]:
        """The line of a size, as shares of the picture."""
        (bottom, top), (x, _) = self.ax.get_ylim(), share(self.ax, parameters, self.ax.get_ylim()[0])
        ends = [share(self.ax, parameters, y)[1] for y in (top, bottom)]
        return {"x": x, "top": ends[0], "bottom": ends[1]}

    def still(self, parameters: int | None) -> Image:
        """The picture, with the line of a size that lies in it, for whoever has no mouse."""
        if not self.holds(parameters):
            return Image(self.png)
        line = self.ax.axvline(parameters, color=RED, linewidth=1.5)
        drawn = png(self.figure, DPI)
        line.remove()
        return Image(drawn)


class LivePicture(anywidget.AnyWidget):
    """A landscape in a live notebook; `chosen` is the run that was clicked last."""

    _esm = Path(__file__).with_name("landscape.js")
    picture = Bytes().tag(sync=True)  # PNG
    dots = List().tag(sync=True)  # of each run its id `run`, its place `x`, `y` and its `text`
    line = Dict().tag(sync=True)  # of the setting: `x`, `top`, `bottom`; empty: there is none
    chosen = Unicode().tag(sync=True)

    def show(self, landscape: Landscape, parameters: int | None) -> LivePicture:
        """Shows these runs and, if it lies among them, the line of this size."""
        with self.hold_sync():
            self.picture, self.dots = landscape.png, landscape.dots
            self.line = landscape.line(parameters) if landscape.holds(parameters) else {}
        return self

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """With the picture itself, for pages that have no kernel."""
        data, metadata = super()._repr_mimebundle_(**options)
        return {**data, "image/png": self.picture}, metadata
