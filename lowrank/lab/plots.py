"""Pictures of the table of runs: DataFrame in, matplotlib Axes out; one palette, one house style.

An accuracy is a mean over seeds with its 95% interval, for which the spread between seeds is pooled over the settings
that are drawn if they scatter alike; the caption says so. Every run is drawn too, as a faint dot. Fewer than three
seeds get no interval. Nothing here reads a file: `lowrank.results()` makes the table, `lowrank.history(runs, run)` the
history.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle
from textwrap import wrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, PercentFormatter

from ..config import PLAIN, InputError
from ..display import as_label
from .inference import CONFIDENCE, MARGIN
from .settings import DRAWN, FEWEST, SETTING, caption, check_columns, listed, points, scope, span

# After Okabe & Ito (2008), told apart with any colour vision; their yellow, too faint on white, is left out.
COLOURS = {
    "dense": "#000000",
    "separable": "#595959",
    "bottleneck": "#E69F00",
    "tt": "#0072B2",
    "tucker": "#009E73",
    "tucker_tt": "#56B4E9",
    "cp": "#D55E00",
    "ring": "#CC79A7",
}
MARKERS = dict(zip(COLOURS, "sDvo^Ph*", strict=True))  # for print without colour
SIZE_LABELS = {
    "parameters": "parameters",
    "multiply_adds": "multiply-adds of an image, forward",
    "step_ms": "milliseconds of a step of training",
}
OTHER_COLOURS = ("#7B3294", "#8C510A", "#A50026")  # of decompositions of a user's own, which are circles
TENTHS = (1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9)
STEPS = {2: TENTHS, 10: (1, 1.5, 2, 3, 5, 7), np.inf: (1, 2, 5)}  # ticks of an axis by how far it reaches, high / low
APART = 0.011  # of the axis, between formats side by side around the mark of their budget
PARTS = {"train": "bottleneck", "validation": "ring", "test": "tt"}  # of the images, with whose colour they are drawn
FAINT = {"alpha": 0.35, "markersize": 4, "markeredgewidth": 0}
STYLE = {
    "figure.facecolor": "white",  # opaque: a dark page shows a white card
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "figure.dpi": 110,
    "savefig.dpi": 200,
    "figure.figsize": (8, 5),
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E5E5E5",
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text
    "svg.hashsalt": "lowrank",  # the same picture is the same file
}


def style() -> None:
    """Make the house style matplotlib's default; call it once, before the first figure."""
    plt.rcParams.update(STYLE)


# --- accuracy


def accuracy_against_parameters(
    table: pd.DataFrame, ax: Axes | None = None, by: str = "decomp", mixed: bool = False, size: str = "parameters"
) -> Axes:
    """Test accuracy over `size` (one of SIZE_LABELS, log): a colour for each `by`, a parameter of the runs.

    Every run is a faint dot, every setting a mean with its interval. Separable networks of several widths are a curve.
    Dense ones, which are several times larger, stand on the right edge, and the legend names their size.
    Over parameters, decompositions of one budget stand side by side around its mark. `ax.dots` is a list of (x, y,
    run): where each run is drawn, in data coordinates. Raises InputError as `points` does, and at other columns.
    """
    check_columns(table, DRAWN, among=SETTING, by=by)
    check_columns(table, DRAWN, among=SIZE_LABELS, size=size)
    ax = ax or plt.subplots(figsize=(9, 5.2))[1]
    runs = table.dropna(subset="test_accuracy").assign(size=table[size])
    rows = points(runs.assign(parameters=table[size]), mixed=mixed).rename(columns={"parameters": "size"})
    ax.set_xscale("log")
    near = rows["size"][(rows.decomp != "dense") | (rows.decomp == "dense").all()]
    ax.set_xlim(near.min() / 1.2, 1.2 * near.max())
    ax.dots = []
    draw_plain(ax, runs, rows)
    runs, rows = (each[~each.decomp.isin(PLAIN)] for each in (runs, rows))
    hues = colours(by, rows[by])
    marks, step = mark_budgets(ax, rows, len(hues)) if size == "parameters" else ({}, 1)  # a budget buys no other size
    for k, (key, colour) in enumerate(hues.items()):
        shift = step ** (k - (len(hues) - 1) / 2)
        parts = [stand_by_marks(each[each[by] == key], marks, shift) for each in (runs, rows)]
        label = {"decomp": f"{key}", "dims": f"{key} modes"}.get(by, f"{by} {key}")
        draw_group(ax, *parts, colour, label, MARKERS.get(key, "o"))
    low, high = ax.get_xlim()
    counted(ax.xaxis, next(steps for most, steps in STEPS.items() if high <= most * low))
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.set(xlabel=SIZE_LABELS[size], ylabel="test accuracy")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    note(ax, caption(table) + ("\nnetworks of one budget stand side by side around its mark" if marks else ""))
    return ax


def draw_plain(ax: Axes, runs: pd.DataFrame, rows: pd.DataFrame) -> None:
    """The plain networks at their sizes, several widths joined by a line, those beyond the axis on its edge."""
    edge = ax.get_xlim()[1] / 1.02
    for decomp in [each for each in PLAIN if each in set(rows.decomp)]:
        group = rows[rows.decomp == decomp].sort_values("size")
        name = f"{decomp}, {EngFormatter(places=0, sep='')(group['size'].iloc[0])}"
        if group.width.nunique() > 1:
            ax.plot(group["size"], group["mean"], color=COLOURS[decomp], linewidth=1)
            name = f"{decomp}, width {span(group.width)}"
        name += ", beyond the edge" if (group["size"] > edge).any() else ""
        drawn = [each.assign(size=each["size"].clip(upper=edge)) for each in (runs[runs.decomp == decomp], group)]
        draw_group(ax, *drawn, COLOURS[decomp], name, MARKERS[decomp])


def mark_budgets(ax: Axes, rows: pd.DataFrame, formats: int) -> tuple[dict[Any, float], float]:
    """A dotted line at the size of each budget that several rows share: its place, and the factor between neighbours.

    A budget and the width of its parent make a size. All formats together fill at most 60% of the gap between two.
    """
    clusters = rows[rows.budget > 0].groupby(["width", "budget"])["size"]
    marks = np.exp(np.log(clusters.agg("median")))[clusters.size() > 1].to_dict()
    low, high = np.log(ax.get_xlim())
    gaps = np.diff(np.sort(np.log(list(marks.values()))))
    room = 0.6 * gaps.min() / max(formats - 1, 1) if len(gaps) else np.inf
    for k, ((_, budget), place) in enumerate(sorted(marks.items(), key=lambda mark: mark[1])):
        ax.axvline(place, color="#BBBBBB", linewidth=1, linestyle=":", zorder=0)
        where = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points", "ha": "center"}
        ax.annotate(f"{budget:.0%}", (place, 1), (0, 2 + 9 * (k % 2)), **where, fontsize=8.5, color="#777777")
    return marks, float(np.exp(min(APART * (high - low), room)))


def stand_by_marks(rows: pd.DataFrame, marks: dict[Any, float], shift: float) -> pd.DataFrame:
    """Rows whose budget is marked at a factor `shift` from the mark; the others at their own size."""
    places = zip(rows.width, rows.budget, rows["size"], strict=True)
    return rows.assign(size=[marks[w, b] * shift if (w, b) in marks else size for w, b, size in places])


def draw_group(ax: Axes, runs: pd.DataFrame, rows: pd.DataFrame, colour: Any, label: str, marker: str) -> None:
    """Runs as faint dots, which `ax.dots` notes, and means with their intervals."""
    ax.plot(runs["size"], runs.test_accuracy, "o", color=colour, **FAINT)
    ids = runs["run"] if "run" in runs else [""] * len(runs)
    ax.dots += list(zip(runs["size"], runs.test_accuracy, ids, strict=True))
    errors = np.abs(rows[["low", "high"]].to_numpy() - rows[["mean"]].to_numpy()).T
    look = {"markersize": 5.5, "elinewidth": 1.4, "capsize": 2}
    ax.errorbar(rows["size"], rows["mean"], errors, fmt=marker, color=colour, label=as_label(label), **look)


def colours(by: str, values: Iterable[Any]) -> dict[Any, Any]:
    """A colour for each value of `by`, in order: decompositions have their own, numbers go from dark to light."""
    values = set(values)
    if by == "decomp":
        own = zip(sorted(values.difference(COLOURS)), cycle(OTHER_COLOURS), strict=False)
        return {decomp: colour for decomp, colour in (COLOURS | dict(own)).items() if decomp in values}
    return dict(zip(sorted(values), plt.get_cmap("viridis")(np.linspace(0, 0.8, len(values))), strict=True))


def counted(axis: Any, steps: Sequence[float] = STEPS[10]) -> None:
    """Ticks of a logarithmic axis of counts: 10k, 15k, 20k, 30k."""
    axis.set_major_locator(LogLocator(subs=steps, numticks=12))
    axis.set_major_formatter(EngFormatter(sep=""))
    axis.set_minor_locator(plt.NullLocator())


def note(ax: Axes, text: str) -> None:
    """A caption under the axes, in lines that are no wider than they are."""
    place = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "top"}
    lines = [as_label(part) for line in text.splitlines() for part in wrap(line, 100)]
    ax.annotate("\n".join(lines), (0, 0), (0, -42), **place, fontsize=8.5, color="#444444")


def heatmap(
    table: pd.DataFrame,
    ax: Axes | None = None,
    rows: str = "dims",
    columns: str = "budget",
    mixed: bool = False,
    against: Any = None,
) -> Axes:
    """Mean test accuracy over two parameters, a cell a pair, or its difference to the row `against`.

    Raises InputError as `points` does, and if there is no such parameter and no row `against`.
    """  # fmt: skip
    check_columns(table, DRAWN, among=[*SETTING, "parameters"], rows=rows, columns=columns)
    ax = ax or plt.subplots()[1]
    table = table[~table.decomp.isin(PLAIN)]
    cells = 100 * points(table, mixed=mixed).pivot_table("mean", rows, columns)
    look = {"fmt": ".1f", "cmap": "cividis", "cbar_kws": {"label": "test accuracy (%)"}}
    if against is not None:
        if against not in cells.index:
            raise InputError(f"against={against!r}: allowed is a value of {rows}, {listed(cells.index)}")
        cells = (cells - cells.loc[against]).drop(index=against)
        label = f"test accuracy, difference to {rows} {against} (points)"
        look = {"fmt": "+.1f", "cmap": "PuOr_r", "center": 0, "cbar_kws": {"label": label}}
    sns.heatmap(cells, ax=ax, annot=True, **look)
    ax.grid(False)
    ax.set(xlabel=columns, ylabel=rows)
    note(ax, f"{listed(table.dataset)}, {scope(table)}; each number a mean over seeds")
    return ax


# --- one run, and sizes


def curves(history: pd.DataFrame, axes: Sequence[Axes] | None = None) -> Sequence[Axes]:
    """Loss and accuracy over epochs of the history of one run, on two axes: in training, test and, if any, validation.

    Raises InputError if the history is no table that has them.
    """
    columns = ["epoch", *(f"{part}_{name}" for part in ("train", "test") for name in ("loss", "accuracy"))]
    check_columns(history, columns, name="history")
    axes = plt.subplots(1, 2, figsize=(9, 3.5))[1] if axes is None else axes
    for ax, name in zip(axes, ("loss", "accuracy"), strict=True):
        for part in [part for part in PARTS if f"{part}_{name}" in history]:
            colour = COLOURS[PARTS[part]]
            ax.plot(history.epoch, history[f"{part}_{name}"], ".-", color=colour, label=part)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set(xlabel="epoch", ylabel=name)
    axes[1].yaxis.set_major_formatter(PercentFormatter(1))
    axes[0].legend()
    return axes


def parameter_counts(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """`parameters` (log) over `rank_scale`: a colour for each of `dims`, a dashed line for the original rank rule."""
    check_columns(table, ["dims", "rank_rule", "rank_scale", "parameters"])
    ax = ax or plt.subplots()[1]
    hues = colours("dims", table["dims"])
    for (dims, rule), line in table.groupby(["dims", "rank_rule"]):
        dashes = "--" if rule == "original" else "-"
        label = f"{dims} modes" if rule == "useful" else None
        ax.plot(line.rank_scale, line.parameters, dashes, color=hues[dims], label=label)
    ax.set_yscale("log")
    counted(ax.yaxis, steps=(1,))
    ax.set(xlabel="rank_scale", ylabel="parameters")
    return ax


# --- differences


def forest(rows: pd.DataFrame, label: str, by: str, ax: Axes | None = None, compared: str = "") -> Axes:
    """Differences with their intervals, a line for each value of `label`, a colour for each of `by`.

    `rows` comes from `inference`: `mean`, `low`, `high`, `n` and `value`, besides `label` and `by` as columns. A
    difference whose interval leaves out 0 is filled; the band is 1 point on either side. `compared` says which network
    is compared with which, on what. No interval is drawn for fewer than three seeds.
    """
    check_columns(rows, ["mean", "low", "high", "n", "value"], name="rows", label=label, by=by)
    ax = ax or plt.subplots()[1]
    labels, groups = list(dict.fromkeys(rows[label])), list(colours(by, rows[by]))
    hues, points = colours(by, groups), str(rows["value"].iloc[0]).endswith("accuracy")
    scale = 100 if points else 1
    rows = rows.assign(**{name: scale * rows[name] for name in ("mean", "low", "high")})
    rows.loc[rows.n < FEWEST, ["low", "high"]] = np.nan
    for k, group in enumerate(groups):
        lines = rows[rows[by] == group]
        heights = [labels.index(each) + (k - (len(groups) - 1) / 2) * 0.8 / len(groups) for each in lines[label]]
        errors = np.abs(lines[["low", "high"]].to_numpy() - lines[["mean"]].to_numpy()).T
        ax.errorbar(lines["mean"], heights, xerr=errors, fmt="none", color=hues[group], elinewidth=1.6, capsize=3)
        fills = np.where((lines.low > 0) | (lines.high < 0), to_hex(hues[group]), "white")
        name = as_label(f"{by} {group}")
        ax.scatter(lines["mean"], heights, c=fills, edgecolors=[hues[group]], zorder=3, label=name)
    if points:
        ax.axvspan(-scale * MARGIN, scale * MARGIN, color="#EEEEEE", zorder=0)
    ax.axvline(0, color="#444444", linewidth=1)
    ax.set_yticks(range(len(labels)), [as_label(each) for each in labels])
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="difference in test accuracy (points)" if points else "difference in test loss", ylabel="")
    if len(groups) > 1:
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    lines = [compared, f"simultaneous {CONFIDENCE:.0%} intervals, n = {span(rows.n)}; filled: clear of 0"]
    note(ax, "\n".join(line for line in lines if line) + ("; band: 1 point either way" if points else ""))
    return ax
