"""What differences between settings are worth: intervals from the spread of all settings of a study together.

The seeds of one setting scatter about as much as those of any other, so their spread is estimated from all of them
(pooled standard deviation) and an interval needs few seeds a setting. Intervals that stand side by side are
simultaneous: in 95% of studies all of them hold the truth. For comparisons with one control these are Dunnett's
(1955), among all Tukey's (1949), and for any other linear combination of means the same idea: the quantile of the
largest |t|, whose joint distribution follows from the combinations and the numbers of seeds (Hothorn, Bretz &
Westfall 2008). Nothing is paired by seed: the same seed makes two settings no more alike.

A difference is *clear* if its simultaneous interval leaves out 0, and *equal within 1 point* if the interval lies
within 1 point of 0. Everything else is open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, stats

CONFIDENCE = 0.95
POWER = 0.8
MARGIN = 0.01  # 1 point of accuracy: what is no difference in practice
UNEQUAL = 0.5  # below this p-value of Levene's test a common spread is given up: at 0.25 some coverage is below 93%
DRAWS = 2**16  # the confidence of a simulated quantile is exact to 0.1%


# --- means and spread


class Spread(NamedTuple):
    """The standard deviation between seeds of one setting, estimated from all settings together."""

    sd: float
    df: int  # degrees of freedom: runs less settings
    levene: float  # p-value of equal spreads; NaN if there are too few runs to ask

    @property
    def common(self) -> bool:
        """Whether one spread may stand for all settings."""
        return not self.levene < UNEQUAL

    def __str__(self) -> str:
        if not self.df:
            return "one seed a setting: no spread, no intervals"
        if not self.common:
            return f"not pooled, as Levene's p = {self.levene:.2g} is below {UNEQUAL:g}"
        equal = f"Levene p = {self.levene:.2f}" if self.levene == self.levene else "too few runs for Levene's test"
        return f"pooled SD {100 * self.sd:.2f} points with {self.df} degrees of freedom ({equal})"


@dataclass(frozen=True)
class Groups:
    """A value of every setting over its seeds, a row a setting: `mean`, `n`, and `level`, `sd`, `df`.

    If the spread is not common these are the level that has a spread of its own, its pooled SD and degrees of freedom.
    """

    rows: pd.DataFrame
    spread: Spread
    value: str = "test_accuracy"
    looks: int = 1  # how often the data may have decided whether to go on

    def at(self, **levels: Any) -> Groups:
        """The settings at these levels, with the spread of all."""
        kept = [self.rows.index.get_level_values(name) == value for name, value in levels.items()]
        return replace(self, rows=self.rows[np.logical_and.reduce(kept)])

    @property
    def confidence(self) -> float:
        """The confidence of all intervals together: 95%, corrected for the looks (Bonferroni)."""
        return 1 - (1 - CONFIDENCE) / self.looks


def group_runs(
    table: pd.DataFrame, by: Sequence[str], value: str = "test_accuracy", check: Sequence[str] = (), looks: int = 1
) -> Groups:
    """Means over seeds of the settings that `by` tells apart, with their common spread.

    Levene's test compares the spreads between the levels of the columns `check`, which are some of `by`: all of them
    if there are none. If it finds them unequal each level keeps a spread of its own. Runs in which the value was not
    measured, because they diverged, are left out.
    """
    table = table.dropna(subset=value)
    rows = table.groupby(list(by), sort=True)[value].agg(["mean", "var", "size"]).reset_index()
    levels = rows.groupby(list(check or by), sort=True)
    df = rows["size"] - 1
    rows = rows.assign(n=rows["size"], level=levels.ngroup(), df=df, squares=rows["var"].fillna(0) * df)
    pooled = rows.groupby("level")[["squares", "df"]].transform("sum")
    rows = rows.assign(df=pooled.df, sd=np.sqrt(pooled.squares / pooled.df.where(pooled.df > 0)))
    index = pd.MultiIndex.from_frame(rows[list(by)])  # of one level, too
    rows = rows[["mean", "n", "level", "sd", "df"]].set_axis(index)
    return Groups(rows, pool_spread(table, by, value, check), value, looks)


def pool_spread(
    table: pd.DataFrame, by: Sequence[str], value: str = "test_accuracy", check: Sequence[str] = ()
) -> Spread:
    """The standard deviation within the settings that `by` tells apart, and whether it is the same for all."""
    table = table.reset_index(drop=True)  # joined tables repeat it
    runs = table.groupby(list(by))[value]
    n, df = runs.transform("size"), len(table) - runs.ngroups
    residuals = ((table[value] - runs.transform("mean")) * np.sqrt(n / (n - 1).clip(lower=1)))[n > 1]
    parts = [part for _, part in residuals.groupby([table[name] for name in check or by]) if len(part) > 2]
    levene = stats.levene(*parts).pvalue if len(parts) > 1 and np.ptp(residuals) > 0 else np.nan
    return Spread(np.sqrt(runs.var().mul(runs.size() - 1).sum() / df) if df else np.nan, df, levene)


# --- differences


class Effect(NamedTuple):
    """A difference with its simultaneous interval, and the smallest that would have been seen with 80% power."""

    mean: float
    low: float
    high: float
    n: int  # seeds of the smaller side
    visible: float
    value: str = "test_accuracy"

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    @property
    def equal(self) -> bool:
        """Whether the interval lies within 1 point of 0."""
        return self.value.endswith("accuracy") and self.low >= -MARGIN and self.high <= MARGIN

    @property
    def verdict(self) -> str:
        """The difference in one word or two."""
        if self.clear:
            return "clear"
        return "equal within 1 point" if self.equal else "open"

    def __str__(self) -> str:
        points = self.value.endswith("accuracy")
        mean, low, high = (f"{100 * x:+.1f}" if points else f"{x:+.3f}" for x in self[:3])
        unit = " points" if points else ""
        if not np.isfinite(self.low):
            return f"{mean}{unit} (n = {self.n}, no interval)"
        return f"{mean}{unit} ({CONFIDENCE:.0%} interval {low} to {high}, n = {self.n})"


def effect(row: Mapping[str, Any]) -> Effect:
    """A row of `combine`, `against` or `among` as an Effect."""
    return Effect(row["mean"], row["low"], row["high"], int(row["n"]), row["visible"], row["value"])


def combine(groups: Groups, weights: pd.DataFrame) -> pd.DataFrame:
    """Linear combinations of the means with simultaneous intervals.

    `weights` has a row a combination and a column a setting of `groups`. Returns for each row `mean`, `low`, `high`,
    `n` (the fewest seeds of a setting in it), `se`, `visible` (the smallest difference seen with 80% power), `value`.
    If the spreads differ each level keeps its own: Welch's t with Satterthwaite's degrees of freedom, Sidak's level.
    """
    w, rows = weights.to_numpy(float), groups.rows.loc[list(weights.columns)]
    n, mean = rows.n.to_numpy(), w @ rows["mean"].to_numpy()
    if groups.spread.common:
        se, df = groups.spread.sd * np.sqrt(w**2 @ (1 / n)), np.full(len(w), groups.spread.df)
        critical = np.full(len(w), critical_value(w / np.sqrt(n), groups.spread.df, groups.confidence))
    else:
        levels = rows.level.to_numpy()[:, None] == rows.level.unique()
        own = rows.groupby("level", sort=False)[["sd", "df"]].first().fillna({"sd": 1}).to_numpy().T
        parts = (w**2 / n) @ levels * own[0] ** 2  # [combinations, levels]: variances
        se, df = np.sqrt(parts.sum(axis=1)), satterthwaite(parts, own[1])
        critical = stats.t.ppf((1 + groups.confidence ** (1 / max(len(w), 1))) / 2, df)
    index = weights.index if weights.index.nlevels > 1 else weights.index.get_level_values(0)
    fewest = [int(n[row != 0].min()) for row in w]
    columns = {"mean": mean, "low": mean - critical * se, "high": mean + critical * se, "n": fewest, "se": se}
    visible = [size * visible_difference(c, d) for size, c, d in zip(se, critical, df, strict=True)]
    return pd.DataFrame(columns | {"visible": visible, "value": groups.value}, index=index)


def satterthwaite(parts: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Degrees of freedom of sums of variances, [combinations, levels]; NaN if one of them is not known."""
    unknown = ((parts > 0) & (df == 0)).any(axis=1)
    found = parts.sum(axis=1) ** 2 / np.maximum((parts**2 / np.maximum(df, 1)).sum(axis=1), 1e-300)
    return np.where(unknown, np.nan, found)


def critical_value(loadings: np.ndarray, df: int, confidence: float = CONFIDENCE) -> float:
    """The quantile of the largest |t| of several combinations of independent means with one pooled spread.

    `loadings` [K, G]: of each combination the weight of each mean, divided by the root of its number of seeds.
    """
    if not df or not len(loadings):
        return np.nan
    scaled = loadings / np.linalg.norm(loadings, axis=1, keepdims=True)
    if len(scaled) == 1:
        return stats.t.ppf((1 + confidence) / 2, df)
    return simulated_quantile(np.round(scaled, 9).tobytes(), scaled.shape, df, confidence)


@lru_cache(maxsize=256)
def simulated_quantile(scaled: bytes, shape: tuple[int, int], df: int, confidence: float) -> float:
    """The quantile of max |z_k| / s, with z ~ N(0, R), R the correlation of the combinations, and s^2 ~ chi^2 / df."""
    rng, scaled = np.random.default_rng(0), np.frombuffer(scaled).reshape(shape)
    correlation = scaled @ scaled.T  # [K, K], of which a root is enough: fewer draws if means outnumber combinations
    values, vectors = np.linalg.eigh(correlation)
    kept = values > 1e-9
    root = (vectors[:, kept] * np.sqrt(values[kept])).astype(np.float32)
    parts = (rng.standard_normal((2**12, kept.sum()), np.float32) @ root.T for _ in range(DRAWS // 2**12))
    largest = np.concatenate([np.abs(part).max(axis=1) for part in parts])
    return float(np.quantile(largest / np.sqrt(rng.chisquare(df, DRAWS) / df), confidence))


@lru_cache(maxsize=4096)
def visible_difference(critical: float, df: float, power: float = POWER) -> float:
    """The smallest true difference, in standard errors, whose interval leaves out 0 with this power."""
    if not np.isfinite(critical):
        return np.nan
    missed = lambda shift: stats.nct.sf(critical, df, shift) - power  # noqa: E731 (the other tail holds nothing)
    return optimize.brentq(missed, 0.01, 3 * critical + 10)


def against(groups: Groups, over: str = "", **control: Any) -> pd.DataFrame:
    """Every setting minus its control, the setting that differs from it in the named levels alone (Dunnett 1955).

    `against(groups, decomp="bottleneck")` compares at every budget, if budgets tell settings apart, too. With `over`
    each difference is an average over that level. Settings without a control are left out.
    """
    frame, weights = groups.rows.index.to_frame(index=False), {}
    for key, row in zip(groups.rows.index, frame.to_dict("records"), strict=True):
        other = tuple((row | control).values())
        if other != key and other in groups.rows.index:
            weights[key] = {key: 1.0, other: -1.0}
    return combine(groups, average_over(as_weights(weights, list(frame), groups), over))


def among(groups: Groups, level: str, over: str = "") -> pd.DataFrame:
    """All differences between settings that differ in one level alone (Tukey 1949).

    The index has the other levels and then `level` and `minus`, the two that are compared. With `over` each
    difference is an average over that level.
    """
    frame, weights = groups.rows.index.to_frame(index=False), {}
    rest = [name for name in frame if name != level]
    for one, other in combinations(frame.to_dict("records"), 2):
        if all(one[name] == other[name] for name in rest):
            key = *(one[name] for name in rest), one[level], other[level]
            weights[key] = {tuple(one.values()): 1.0, tuple(other.values()): -1.0}
    return combine(groups, average_over(as_weights(weights, [*rest, level, "minus"], groups), over))


def as_weights(weights: Mapping[tuple, Mapping[tuple, float]], names: list[str], groups: Groups) -> pd.DataFrame:
    """Weights by name as the table that `combine` takes: a row a combination, a column a setting of `groups`."""
    places = {key: k for k, key in enumerate(groups.rows.index)}
    matrix = np.zeros((len(weights), len(places)))
    for row, parts in zip(matrix, weights.values(), strict=True):
        for key, weight in parts.items():
            row[places[key]] += weight
    levels = list(zip(*weights, strict=True)) or [[]] * len(names)
    return pd.DataFrame(matrix, pd.MultiIndex.from_arrays(levels, names=names), groups.rows.index)


def average_over(weights: pd.DataFrame, over: str) -> pd.DataFrame:
    """The mean of combinations over one level of their index."""
    names = [name for name in weights.index.names if name != over]
    return weights.groupby(level=names, sort=False).mean() if over and len(weights) else weights


def main_effects(groups: Groups) -> pd.DataFrame:
    """What each factor does, averaged over all others: settings that have it minus those that have not, a row each.

    Every level of the index is a factor, True or False. In a half fraction of resolution IV no main effect is
    confounded with what two factors do together.
    """
    weights = {}
    for name in groups.rows.index.names:
        has = groups.rows.index.get_level_values(name).to_numpy(bool)
        if has.any() and not has.all():
            weights[(name,)] = dict(zip(groups.rows.index, has / has.sum() - ~has / (~has).sum(), strict=True))
    return combine(groups, as_weights(weights, ["factor"], groups))
