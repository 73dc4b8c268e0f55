"""From runs to settings: what differs in its seed alone is one setting, with a mean, an interval and words for it.

DataFrame in, DataFrame or words out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ..config import PLAIN, Config, InputError
from .inference import CONFIDENCE, pool_spread

PARAMETERS = [each.name for each in fields(Config) if each.name not in ("seed", "start", "save_weights", "runs")]
SETTING = [*PARAMETERS, "start_decomp"]  # of a run that starts from another, which depends on the seed, its form
FEWEST = 3  # seeds that an interval takes
DRAWN = ["decomp", "dataset", "width", "epochs", "budget", "parameters", "test_accuracy"]  # of a table
SHARED = ["dataset", "epochs", "schedule", "width"]  # settings that differ in these may have different spreads


def check_columns(
    table: Any, needed: Iterable[str], name: str = "table", among: Iterable[str] | None = None, **named: Any
) -> None:
    """Raises InputError if this is no table with the columns `needed`, or if a parameter names none of its columns.

    `among` are those that the parameters may name, as far as the table has them; without it they may name any.
    """
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"{name}={table!r}; allowed: a table (pandas.DataFrame)")
    if lacking := [column for column in needed if column not in table]:
        raise InputError(f"{name}: there is no column {', '.join(lacking)}")
    allowed = [column for column in (table if among is None else among) if column in table]
    for parameter, column in named.items():
        if not isinstance(column, str) or column not in allowed:
            raise InputError(f"{parameter}={column!r}; allowed: a column of the table, {', '.join(map(str, allowed))}")


def code_of(table: pd.DataFrame) -> pd.Series:
    """The fingerprint of the training code of each run; the revision of older runs, which have none."""
    code = table["code"].fillna("") if "code" in table else pd.Series("", table.index)
    return code.where(code != "", "revision " + table["revision"].fillna("").astype(str))


def one_source(table: pd.DataFrame, mixed: bool = False) -> pd.DataFrame:
    """The table; raises InputError if its runs come from different training code or data, unless `mixed`."""
    for name, column in () if mixed else (("code", code_of(table)), ("data", table["data"])):
        found = sorted(map(str, column.unique()))
        if len(found) > 1:
            raise InputError(f"{name}={', '.join(found)}: one picture shows one; choose, or allow it by mixed=True")
    return table


def points(table: pd.DataFrame, value: str = "test_accuracy", mixed: bool = False) -> pd.DataFrame:
    """One row a setting (all parameters but the seed): `parameters`, `mean`, `low`, `high` of `value`, `n`, `pooled`.

    The interval is Student's. Its spread is pooled over all settings (`pooled`), or each setting's own if Levene's test
    finds them unlike; it is NaN for fewer than three seeds. Runs in which the value was not measured, as they diverged,
    are left out. Raises InputError if none is left, if training code or data are mixed, unless `mixed`, and if `value`
    is no column of numbers.
    """
    check_columns(table, [] if mixed else ["data"])
    check_columns(table, [], among=table.select_dtypes("number"), value=value)
    table = one_source(table.dropna(subset=value), mixed)
    if table.empty:
        raise InputError(f"{value}: no run of the table has it")
    names = [name for name in [*SETTING, "parameters"] if name in table]
    table = table.fillna({name: "" for name in names if table[name].isna().any()})
    rows = table.groupby(names)[value].agg(mean="mean", sd="std", n="size").reset_index()
    varied = [name for name in SHARED if name in table and table[name].nunique() > 1]
    spread = pool_spread(table, names, value, varied)
    sd, df = (spread.sd, spread.df) if spread.common else (rows.sd, rows.n - 1)
    half = (stats.t.ppf((1 + CONFIDENCE) / 2, df) * sd / np.sqrt(rows.n)).where(rows.n >= FEWEST)
    low, high = rows["mean"] - half, rows["mean"] + half
    if value.endswith("accuracy"):
        low, high = low.clip(lower=0), high.clip(upper=1)
    return rows.assign(low=low, high=high, pooled=spread.common).drop(columns="sd")


def scope(table: pd.DataFrame) -> str:
    """Width, epochs and seeds a setting, in words: what every answer carries."""
    names = [name for name in SETTING if name in table]
    plain = table["decomp"].isin(PLAIN)
    width = span(table.width[~plain] if (~plain).any() else table.width)
    if (~plain).any() and set(table.width[plain]) - set(table.width[~plain]):
        width += f" (plain networks of width {span(table.width[plain])})"
    n = table.groupby(names, dropna=False).size()
    epochs = listed(table.epochs).replace(", ", " and ")
    return f"width {width}, {epochs} epochs, n = {span(n)}"


def caption(table: pd.DataFrame, value: str = "test_accuracy") -> str:
    """Data, width, epochs, number of seeds and kind of interval, in one line."""
    table = table.dropna(subset=value)
    rows = points(table, value, mixed=True)
    spread = "SD pooled over all settings" if rows.pooled.all() else "each setting's own SD"
    seeds = f"mean and {CONFIDENCE:.0%} interval over seeds ({spread}; none below n = {FEWEST})"
    if rows.n.max() < FEWEST:
        seeds = "mean over seeds, too few for an interval"
    return f"{listed(table.dataset)}, {scope(table)}; every dot a run, {seeds}"


def listed(values: Iterable[Any]) -> str:
    """What there is: one value, or several joined by commas."""
    return ", ".join(str(value) for value in sorted(set(values)))


def span(values: Iterable[Any]) -> str:
    """One value, two, or from where to where."""
    values = sorted(set(values))
    return listed(values) if len(values) < 3 else f"{values[0]} to {values[-1]}"
