"""Pictures of the table of runs: DataFrame in, matplotlib Axes out; one palette, one house style.

An accuracy is a mean over seeds with its Student t 95% interval; every seed is drawn too, as a faint dot. Nothing
here reads a file: `lowrank.results()` makes the table, `lowrank.history(runs, run)` the history.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, PercentFormatter
from scipy import stats

from .config import PLAIN, Config, InputError
from .display import as_label

CONFIDENCE = 0.95
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
OWN = ("#7B3294", "#8C510A", "#A50026")  # of decompositions of a user's own, which are circles
SETTING = [each.name for each in fields(Config) if each.name not in ("seed", "save_weights", "runs")]
APART = 1.03  # factor between the colours of an axis, so that equal sizes do not hide each other
FAINT = {"alpha": 0.35, "markersize": 5, "markeredgewidth": 0}
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


# --- what is drawn


def one_source(table: pd.DataFrame, mixed: bool = False) -> pd.DataFrame:
    """The table; raises InputError where its runs come from several revisions or data, unless `mixed`."""
    for name in () if mixed else ("revision", "data"):
        found = sorted(map(str, table[name].unique()))
        if len(found) > 1:
            raise InputError(f"{name}={', '.join(found)}: one picture shows one; choose, or allow it by mixed=True")
    return table


def interval(values: Iterable[float]) -> tuple[float, float]:
    """The Student t 95% interval of the mean; NaN for fewer than two values."""
    values = np.asarray(list(values), dtype=float)
    if len(values) < 2:
        return np.nan, np.nan
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values)
    return values.mean() - half, values.mean() + half


def points(table: pd.DataFrame, value: str = "test_accuracy", mixed: bool = False) -> pd.DataFrame:
    """One row a setting (all parameters but the seed): `parameters`, `mean`, `low` and `high` of `value`, `n`.

    Runs in which the value was not measured, as they diverged, are left out. Raises InputError where none is left
    and where revisions or data are mixed, unless `mixed`.
    """
    table = one_source(table.dropna(subset=value), mixed)
    if table.empty:
        raise InputError(f"{value}: no run of the table has it")
    names = [name for name in [*SETTING, "parameters"] if name in table]
    grouped = table.groupby(names, dropna=False)[value]
    rows = grouped.agg(mean="mean", low=lambda v: interval(v)[0], high=lambda v: interval(v)[1], n="size")
    return rows.reset_index()


def pareto(rows: pd.DataFrame) -> pd.DataFrame:
    """Of the rows of `points`, by size, those that are more accurate than every smaller one."""
    rows = rows.sort_values(["parameters", "mean"], ascending=[True, False])
    return rows[rows["mean"] > rows["mean"].cummax().shift(fill_value=-np.inf)]


def caption(table: pd.DataFrame, value: str = "test_accuracy") -> str:
    """Data, scale, number of seeds and kind of interval, in one line."""
    rows = points(table, value, mixed=True)
    scale = [f"{name.replace('_', ' ')} {listed(table[name])}" for name in ("width", "epochs") if name in table]
    seeds = f"mean and Student t {CONFIDENCE:.0%} interval of n = {listed(rows.n)} seeds"
    if rows.n.max() == 1:
        seeds = "n = 1 seed and no interval"
    return ", ".join([as_label(listed(table["dataset"])), *scale]) + f"; every dot a run, {seeds}"


def listed(values: Iterable[Any]) -> str:
    """What there is: one value, or several joined by commas."""
    return ", ".join(str(value) for value in sorted(set(values)))


# --- accuracy


def accuracy_against_parameters(
    table: pd.DataFrame, ax: Axes | None = None, by: str = "decomp", mixed: bool = False
) -> Axes:
    """Test accuracy over parameters (log): a colour for each value of `by`, "decomp" or "dims".

    Every run is a faint dot, every setting a mean with its interval, every front a step; colours of equal size
    stand a little apart. `dense` and `separable` are bands across, with their size. Raises InputError as
    `points` does.
    """
    ax = ax or plt.subplots()[1]
    rows = points(table, mixed=mixed)
    for row in rows[rows.decomp.isin(PLAIN)].itertuples():
        band(ax, row)
    hues = colours(by, rows[by][~rows.decomp.isin(PLAIN)])
    for k, (key, colour) in enumerate(hues.items()):
        apart = APART ** (k - (len(hues) - 1) / 2)
        runs, group = (one[(one[by] == key) & ~one.decomp.isin(PLAIN)] for one in (table, rows))
        ax.plot(apart * runs.parameters, runs.test_accuracy, "o", color=colour, **FAINT)
        group = group.assign(parameters=apart * group.parameters)
        means(ax, group, colour, as_label(key) if by == "decomp" else f"{key} modes", MARKERS.get(key, "o"))
    ax.set_xscale("log")
    counted(ax.xaxis)
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.set(xlabel="parameters", ylabel="test accuracy")
    if hues:
        sizes = rows.parameters[~rows.decomp.isin(PLAIN)]
        ax.set_xlim(sizes.min() / 1.3, 1.3 * sizes.max())  # the baselines are larger by far, and say their size
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    sideways = f"\nneighbouring colours are drawn {APART - 1:.0%} apart in parameters" if len(hues) > 1 else ""
    note(ax, caption(table) + sideways)
    return ax


def colours(by: str, values: Iterable[Any]) -> dict[Any, Any]:
    """Of each value of `by`, in order: the house's of a decomposition, from dark to light of numbers."""
    values = set(values)
    if by == "decomp":
        own = zip(sorted(values.difference(COLOURS)), cycle(OWN), strict=False)
        return {decomp: colour for decomp, colour in (COLOURS | dict(own)).items() if decomp in values}
    return dict(zip(sorted(values), plt.get_cmap("viridis")(np.linspace(0, 0.8, len(values))), strict=True))


def means(ax: Axes, rows: pd.DataFrame, colour: Any, label: str, marker: str) -> None:
    """Means with their intervals, and their front as a step."""
    errors = np.abs(rows[["low", "high"]].to_numpy() - rows[["mean"]].to_numpy()).T
    look = {"markersize": 6, "elinewidth": 1.6, "capsize": 3}
    ax.errorbar(rows.parameters, rows["mean"], errors, fmt=marker, color=colour, label=label, **look)
    front = pareto(rows)
    ax.step(front.parameters, front["mean"], where="post", color=colour, alpha=0.6, linewidth=1)


def band(ax: Axes, row: Any) -> None:
    """A baseline across the picture: its mean, its interval, its size."""
    colour = COLOURS[row.decomp]
    ax.axhline(row.mean, color=colour, linewidth=1, linestyle="--")
    if row.n > 1:
        ax.axhspan(row.low, row.high, color=colour, alpha=0.12, linewidth=0)
    ax.plot(row.parameters, row.mean, MARKERS[row.decomp], color=colour, markersize=7)
    text = f"{row.decomp}, {EngFormatter(places=0, sep='')(row.parameters)}"
    below = row.decomp == "separable"  # the two may be close
    place = {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points", "va": "top" if below else "bottom"}
    ax.annotate(text, (0.01, row.mean), (0, -4 if below else 4), **place, color=colour)


def counted(axis: Any, steps: Sequence[float] = (1, 1.5, 2, 3, 5, 7)) -> None:
    """Ticks of a logarithmic axis of counts: 10k, 15k, 20k, 30k."""
    axis.set_major_locator(LogLocator(subs=steps, numticks=12))
    axis.set_major_formatter(EngFormatter(sep=""))
    axis.set_minor_locator(plt.NullLocator())


def note(ax: Axes, text: str) -> None:
    """A caption under the axes."""
    place = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "top"}
    ax.annotate(text, (0, 0), (0, -42), **place, fontsize=8.5, color="#444444")


def heatmap(
    table: pd.DataFrame, ax: Axes | None = None, rows: str = "dims", columns: str = "budget", mixed: bool = False
) -> Axes:
    """Mean test accuracy over two parameters, a cell a pair. Raises InputError as `points` does."""
    ax = ax or plt.subplots()[1]
    table = table[~table.decomp.isin(PLAIN)]
    cells = points(table, mixed=mixed).pivot_table("mean", rows, columns)
    sns.heatmap(100 * cells, ax=ax, annot=True, fmt=".1f", cmap="cividis", cbar_kws={"label": "test accuracy (%)"})
    ax.grid(False)
    ax.set(xlabel=columns, ylabel=rows)
    note(ax, caption(table).partition(";")[0] + f"; mean of n = {listed(points(table, mixed=True).n)} seeds")
    return ax


# --- one run, and sizes


def curves(history: pd.DataFrame, axes: Sequence[Axes] | None = None) -> Sequence[Axes]:
    """Loss and accuracy over epochs, in training and test, of the history of one run, on two axes.

    Raises InputError if the history has not all of them.
    """
    columns = ["epoch", *(f"{part}_{name}" for part in ("train", "test") for name in ("loss", "accuracy"))]
    if lacking := [name for name in columns if name not in history]:
        raise InputError(f"history: there is no column {', '.join(lacking)}")
    axes = plt.subplots(1, 2, figsize=(9, 3.5))[1] if axes is None else axes
    for ax, name in zip(axes, ("loss", "accuracy"), strict=True):
        for part, colour in (("train", COLOURS["bottleneck"]), ("test", COLOURS["tt"])):
            ax.plot(history.epoch, history[f"{part}_{name}"], ".-", color=colour, label=part)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set(xlabel="epoch", ylabel=name)
    axes[1].yaxis.set_major_formatter(PercentFormatter(1))
    axes[0].legend()
    return axes


def parameter_counts(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """`parameters` (log) over `rank_scale`: a colour for each of `dims`, a dashed line for the original rank rule."""
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


def forest(rows: pd.DataFrame, label: str, by: str, ax: Axes | None = None) -> Axes:
    """Differences in test accuracy with their intervals, a line for each value of `label`, a colour for each of `by`.

    `rows` has the columns `mean`, `low`, `high` (of 1) and `n`, besides `label` and `by`. A difference whose
    interval leaves out 0 is filled.
    """
    ax = ax or plt.subplots()[1]
    labels, groups = list(dict.fromkeys(rows[label])), sorted(set(rows[by]))
    hues = colours(by, groups)
    for k, group in enumerate(groups):
        lines = rows[rows[by] == group]
        heights = [labels.index(each) + (k - (len(groups) - 1) / 2) * 0.8 / len(groups) for each in lines[label]]
        errors = 100 * np.abs(lines[["low", "high"]].to_numpy() - lines[["mean"]].to_numpy()).T
        ax.errorbar(100 * lines["mean"], heights, xerr=errors, fmt="none", color=hues[group], elinewidth=1.6, capsize=3)
        fills = np.where((lines.low > 0) | (lines.high < 0), to_hex(hues[group]), "white")
        name = as_label(f"{by} {group}")
        ax.scatter(100 * lines["mean"], heights, c=fills, edgecolors=[hues[group]], zorder=3, label=name)
    ax.axvline(0, color="#444444", linewidth=1)
    ax.set_yticks(range(len(labels)), [as_label(each) for each in labels])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="difference in test accuracy (points)", ylabel="")
    if len(groups) > 1:
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    n = listed(rows.n.astype(int))
    note(ax, f"paired by seed, Student t {CONFIDENCE:.0%} intervals over n = {n} pairs; filled where 0 lies outside")
    return ax
