"""How sure a ranking is, whether one factor depends on another, and what the choice of test images adds."""

from __future__ import annotations

import base64
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from .inference import CONFIDENCE, DRAWS, Groups


def best_probabilities(groups: Groups, high: bool = True) -> pd.Series:
    """How probable it is of each setting that its true mean is the best, given the means and their spread.

    A flat prior and normal spread; unlike the lead of the first over the second it is not positive by construction.
    """
    rng, rows, spread = np.random.default_rng(0), groups.rows, groups.spread
    if not spread.df:
        return pd.Series(np.nan, rows.index)
    draws = rng.standard_normal((DRAWS, len(rows))) / np.sqrt(rng.chisquare(spread.df, DRAWS) / spread.df)[:, None]
    sd = np.full(len(rows), spread.sd) if spread.common else rows.sd.fillna(spread.sd).to_numpy(float)
    true = rows["mean"].to_numpy() + draws * sd / np.sqrt(rows.n.to_numpy())
    best = (true if high else -true).argmax(axis=1)
    return pd.Series(np.bincount(best, minlength=len(rows)) / DRAWS, rows.index)


class Interaction(NamedTuple):
    """Whether what one factor does depends on the other: the F test of a two-way analysis of variance."""

    f: float
    df: int
    df_residual: int
    p: float

    def __str__(self) -> str:
        if not self.df or not self.df_residual:
            return "too few runs to test it"
        p = f"p = {self.p:.2g}" if self.p >= 1e-4 else "p < 0.0001"
        return f"F({self.df}, {self.df_residual}) = {self.f:.1f}, {p}"

    @property
    def matters(self) -> bool:
        return self.p < 1 - CONFIDENCE


def interaction(table: pd.DataFrame, one: str, other: str, value: str = "test_accuracy") -> Interaction:
    """The full model of two factors against the additive one; numbers of runs may differ and cells may be empty."""
    table = table.dropna(subset=value)
    y, cells = table[value].to_numpy(float), table.groupby([one, other])[value]
    parts = [pd.get_dummies(table[name].astype(str)).to_numpy(float) for name in (one, other)]
    design = np.hstack([np.ones((len(table), 1)), *parts])
    fitted, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    additive, full = ((y - design @ fitted) ** 2).sum(), ((y - cells.transform("mean")) ** 2).sum()
    df, df_residual = cells.ngroups - int(rank), len(table) - cells.ngroups
    if not df or not df_residual or not full:
        return Interaction(np.nan, df, df_residual, np.nan)
    f = (additive - full) / df / (full / df_residual)
    return Interaction(f, df, df_residual, stats.f.sf(f, df, df_residual))


# --- the test set's own share


def right_answers(correct: str, accuracy: float) -> np.ndarray | None:
    """Which test images a run knew, bool [images], from `correct` and `test_accuracy` of its record; None if empty."""
    if not correct or not accuracy > 0:
        return None
    bits = np.unpackbits(np.frombuffer(base64.b64decode(correct), np.uint8))
    return bits[: round(bits.sum() / accuracy)].astype(bool)  # without the padding to whole bytes


def error_of_test_set(one: np.ndarray, other: np.ndarray) -> float:
    """The standard error that the choice of test images adds to a difference in accuracy, paired over the images.

    `one` and `other` are right answers of the runs of two settings, bool [runs, images]. What seeds add to the
    variance over images is taken off if both sides have two runs or more.
    """
    shares = [side.mean(axis=0) for side in (one, other)]
    variance = (shares[0] - shares[1]).var(ddof=1)
    if min(len(one), len(other)) > 1:
        variance -= sum((p * (1 - p)).mean() / (len(side) - 1) for p, side in zip(shares, (one, other), strict=True))
    return float(np.sqrt(max(variance, 0) / one.shape[1]))
