"""Is a network with decomposed weights better than a plain one of equal size that is simply narrower?

Plain separable networks of several widths make a curve: accuracy over the logarithm of their parameters, or of their
multiply-adds. Between two neighbouring widths it is taken as a straight line, which follows a rising curve and never
overshoots; beyond the narrowest and the widest nothing is said. The network beside a decomposed one is then a mix of
two neighbours, whose weights also give its variance.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..formats import uses_dims
from .inference import combine, group_runs

SIZES = ("parameters", "multiply_adds")
NETWORK = ["decomp", "dims", "budget", "width"]  # what tells the networks of one training setting apart
CURVE = "separable"


def bracket(plain: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """How much of each plain network makes one of each size, [sizes, plain]: its two neighbours; NaN beyond them."""
    order = np.argsort(plain)
    logs, own = np.log(plain[order]), np.log(sizes)
    upper = np.clip(np.searchsorted(logs, own), 1, len(logs) - 1)
    share = (own - logs[upper - 1]) / (logs[upper] - logs[upper - 1])
    weights, rows = np.zeros((len(sizes), len(plain))), np.arange(len(sizes))
    weights[rows, order[upper - 1]], weights[rows, order[upper]] = 1 - share, share
    weights[(own < logs[0]) | (own > logs[-1])] = np.nan
    return weights


def against_narrow(table: pd.DataFrame, looks: int = 1) -> pd.DataFrame:
    """Decomposed minus narrow at equal parameters and at equal multiply-adds, a row each.

    `table` holds runs of plain separable networks of two widths or more beside decomposed ones, of one training
    setting. The index has `decomp`, `dims`, `budget`, `width` (of the parent) and `at` ("parameters" or
    "multiply_adds"); the columns are those of `inference.combine`, with intervals simultaneous over all rows, and
    `ratio`: multiply-adds (parameters, at equal multiply-adds) over those of the narrow network.
    """
    table = table.assign(dims=table.dims.mask(~table.decomp.map(uses_dims), 0))
    groups = group_runs(table, NETWORK, check=["budget"], looks=looks)
    sizes = table.groupby(NETWORK)[list(SIZES)].first().loc[groups.rows.index]
    decomp = sizes.index.get_level_values("decomp")
    plain, ours = np.flatnonzero(decomp == CURVE), np.flatnonzero(~decomp.isin([CURVE, "dense"]))
    frames, matrices, ratios = [], [], []
    for at, other in zip(SIZES, SIZES[::-1], strict=True) if len(plain) > 1 else ():
        mixed = bracket(sizes[at].to_numpy()[plain], sizes[at].to_numpy()[ours])
        weights = np.eye(len(sizes))[ours]
        weights[:, plain] -= mixed
        logs, inside = np.log(sizes[other].to_numpy()), ~np.isnan(mixed).any(axis=1)
        matrices.append(weights[inside])
        ratios.append(np.exp(logs[ours] - mixed @ logs[plain])[inside])
        frames.append(sizes.index[ours][inside].to_frame(index=False).assign(at=at))
    if not frames:
        nothing = pd.MultiIndex.from_arrays([[]] * (len(NETWORK) + 1), names=[*NETWORK, "at"])
        return combine(groups, pd.DataFrame(index=nothing, columns=sizes.index, dtype=float)).assign(ratio=[])
    index = pd.MultiIndex.from_frame(pd.concat(frames))
    found = combine(groups, pd.DataFrame(np.vstack(matrices), index, sizes.index))
    return found.assign(ratio=np.concatenate(ratios)).sort_index(level=NETWORK, sort_remaining=False)


def curvature(means: np.ndarray, sizes: np.ndarray) -> float:
    """By how much the straight line may miss: each inner width left out, interpolated from its neighbours, on average.

    Positive if the curve lies above the line. A gap that is left out is twice as wide: the line itself misses by
    about a quarter of this. NaN for fewer than three widths.
    """
    order = np.argsort(sizes)
    missed = []
    for left, inner, right in zip(order, order[1:], order[2:], strict=False):
        mixed = bracket(sizes[[left, right]], sizes[[inner]])[0]
        missed.append(means[inner] - mixed @ means[[left, right]])
    return float(np.mean(missed)) if missed else np.nan
