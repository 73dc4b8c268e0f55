"""Is it better to train a decomposed network or to decompose a trained one?

A network that was trained, decomposed and trained on has had as many epochs as two others that began at random: the
same decomposition at the same budget, and a plain narrow network of the trained one's form and nearly the same size.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ..config import PLAIN
from .inference import Groups, as_weights, average_over, combine, group_runs

TOLD_APART = ["start_decomp", "decomp", "budget", "width", "epochs"]  # what tells the networks of the study apart
OTHERS = ("from scratch", "narrow")
NEAR = 1.1  # times as large, or as small, is still nearly the same size


def select_longest(table: pd.DataFrame) -> pd.DataFrame:
    """The runs that were trained on for longest, and those from scratch that had as many epochs altogether."""
    started = table.start_decomp != ""
    longest = table.groupby(started).epochs.transform("max")
    return table[table.epochs == longest]


def choose_rates(table: pd.DataFrame) -> pd.DataFrame:
    """The runs, but of networks that were trained on at several rates those at the best: see `tabulate_rates`."""
    tried = select_longest(table)
    means = tried.groupby([*TOLD_APART, "learning_rate"]).validation_accuracy.transform("mean").fillna(0)
    best = means.groupby([tried[name] for name in TOLD_APART]).transform("max")
    return table[~table["run"].isin(tried["run"][means < best])]


def tabulate_rates(table: pd.DataFrame) -> pd.DataFrame:
    """The mean accuracies by the rate of training on, of networks for which several were tried.

    The rate with the best accuracy on the validation images, which no run was trained on, is taken.
    """
    tried = select_longest(table[table.start_decomp != ""])
    rates = tried.groupby(TOLD_APART).learning_rate.transform("nunique")
    means = tried[rates > 1].groupby([*TOLD_APART[:3], "learning_rate"])
    return means[["validation_accuracy", "test_accuracy"]].mean()


def find_others(groups: Groups, parameters: pd.Series) -> Iterator[tuple[tuple, str, tuple]]:
    """Each decomposed trained network, by its place in the groups, with what it is compared with and that one's."""
    places = groups.rows.index
    for key in places[places.get_level_values("start_decomp") != ""]:
        form, decomp, budget, width, _ = key
        alike = [other for other in places if other[:4] == ("", decomp, budget, width)]
        if form == "separable":  # of a dense network the decomposed design is another
            yield from ((key, "from scratch", other) for other in alike)
        apart = {other: abs(np.log(parameters[other] / parameters[key])) for other in places if other[:2] == ("", form)}
        if apart and min(apart.values()) < np.log(NEAR):
            yield key, "narrow", min(apart, key=apart.get)


def against_others(table: pd.DataFrame, looks: int = 1, over: str = "") -> pd.DataFrame:
    """Decomposed after training, minus the others, a row each; with `over` the mean over that level.

    `table` holds the runs of the study `compress`. The index has `start_decomp`, `decomp`, `budget` and `other`, one of
    OTHERS; the columns are those of `inference.combine`, with intervals simultaneous over all rows, and `ratio`: the
    parameters over those of the other.
    """
    runs = select_longest(table)
    groups = group_runs(runs, TOLD_APART, check=["budget"], looks=looks)
    parameters = runs.groupby(TOLD_APART).parameters.first()
    weights, ratios = {}, {}
    for key, name, other in find_others(groups, parameters):
        row = (*key[:3], name)
        weights[row], ratios[row] = {key: 1.0, other: -1.0}, parameters[key] / parameters[other]
    matrix = as_weights(weights, [*TOLD_APART[:3], "other"], groups)
    ratio = average_over(pd.DataFrame({"ratio": list(ratios.values())}, matrix.index, dtype=float), over)
    return combine(groups, average_over(matrix, over)).assign(ratio=ratio["ratio"].to_numpy())


def tabulate_epochs(table: pd.DataFrame) -> pd.DataFrame:
    """The mean test accuracy after each number of epochs of training on, a row a decomposed network; `start_error`."""
    started = table[table.start_decomp != ""]
    keys = TOLD_APART[:3]
    means = started.pivot_table("test_accuracy", keys, "epochs")
    return means.join(started.groupby(keys).start_error.mean())


def average_parents(table: pd.DataFrame) -> pd.Series:
    """The mean test accuracy of the trained networks that were decomposed, by their form."""
    parents = table[table["run"].isin(table.start) & table.decomp.isin(PLAIN)]
    return parents.groupby("decomp").test_accuracy.mean()
