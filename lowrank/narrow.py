"""Is a network with decomposed weights better than a plain one of equal size that is simply narrower?

Plain separable networks of several widths make a curve: accuracy over the logarithm of their parameters, or of their
multiply-adds. Between two neighbouring widths it is taken as a straight line, which follows a rising curve and never
overshoots; beyond the narrowest and the widest nothing is said. The network beside a decomposed one is then a mix of
two neighbours, whose weights also give its variance.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from .inference import Groups, combine, group_runs

SIZES = ("parameters", "multiply_adds")
NETWORK = ["decomp", "dims", "budget", "width"]  # what tells the networks of one training setting apart
PLAIN = "separable"
UNFOLDED = ("dense", "separable", "bottleneck")  # which ignore the number of modes that a record names


def bracket(sizes: pd.Series, size: float) -> pd.Series | None:
    """How much of each plain network makes one of this size: weights of the two neighbours; None beyond the curve."""
    logs, own = np.log(sizes.sort_values()), np.log(size)
    if not logs.iloc[0] <= own <= logs.iloc[-1]:
        return None
    upper = max(1, int(np.searchsorted(logs, own)))
    share = (own - logs.iloc[upper - 1]) / (logs.iloc[upper] - logs.iloc[upper - 1])
    return pd.Series([1 - share, share], logs.index[upper - 1 : upper + 1])


def against_narrow(table: pd.DataFrame, looks: int = 1) -> pd.DataFrame:
    """Decomposed minus narrow at equal parameters and at equal multiply-adds, a row each.

    `table` holds runs of plain separable networks of two widths or more beside decomposed ones, of one training
    setting. The index has `decomp`, `dims`, `budget`, `width` (of the parent) and `at` ("parameters" or
    "multiply_adds"); the columns are those of `inference.combine`, with intervals simultaneous over all rows, and
    `ratio`: multiply-adds (parameters, at equal multiply-adds) over those of the narrow network.
    """
    table = table.assign(dims=table.dims.mask(table.decomp.isin(UNFOLDED), 0))
    groups = group_runs(table, NETWORK, check=["budget"], looks=looks)
    sizes = table.groupby(NETWORK)[list(SIZES)].first().loc[groups.rows.index]
    plain = sizes[sizes.index.get_level_values("decomp") == PLAIN]
    rows, ratios = {}, {}
    for key, own in sizes[~sizes.index.get_level_values("decomp").isin([PLAIN, "dense"])].iterrows():
        for at, other in zip(SIZES, SIZES[::-1], strict=True):
            parts = bracket(plain[at], own[at]) if len(plain) > 1 else None
            if parts is not None:
                rows[(*key, at)] = -parts.reindex(sizes.index, fill_value=0.0)
                rows[(*key, at)][key] = 1.0
                ratios[(*key, at)] = own[other] / np.exp(np.log(plain[other][parts.index]) @ parts)
    index = pd.MultiIndex.from_tuples(list(rows), names=[*NETWORK, "at"]) if rows else sizes.index[:0]
    weights = pd.DataFrame([row.to_numpy() for row in rows.values()], index, sizes.index, dtype=float)
    return combine(groups, weights).assign(ratio=list(ratios.values()))


def curvature(groups: Groups, sizes: pd.Series) -> float:
    """By how much the straight line may miss: each inner width left out, interpolated from its neighbours, on average.

    Positive if the curve lies above the line. A gap that is left out is twice as wide: the line itself misses by
    about a quarter of this. NaN for fewer than three widths.
    """
    order, means = sizes.sort_values().index, groups.rows["mean"]
    missed = []
    for left, inner, right in zip(order, order[1:], order[2:], strict=False):
        parts = bracket(sizes[[left, right]], sizes[inner])
        missed.append(means[inner] - parts @ means[parts.index])
    return float(np.mean(missed)) if missed else np.nan
