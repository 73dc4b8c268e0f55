"""What the analysis notebooks share: the runs of a study, differences between paired runs, and the words for them.

DataFrame in, DataFrame or words out. Two runs are a pair where they agree in all but what is compared: the same seed
gives them the same images in the same order, so that their difference varies less than either of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from .config import Config, InputError
from .display import as_text
from .plan import planned
from .plots import CONFIDENCE, SETTING, listed, one_source
from .studies import SCALES, SEEDS, STUDIES


@dataclass(frozen=True)
class Evidence:
    """The runs of a study at one scale, of the settings that have all their seeds."""

    study: str
    scale: str
    table: pd.DataFrame  # a row a run
    missing: int  # settings of the study that are not in the table

    def method(self) -> str:
        """How the runs were made, in a paragraph of Markdown."""
        table, gap = self.table, ""
        data, device, torch, revision, precision = (
            as_text(listed(table[name])) for name in ("dataset", "device", "torch", "revision", "precision")
        )
        if self.missing:
            gap = f" {self.missing} settings of the study have not all their seeds yet and are left out."
        return (
            f"Study `{self.study}` at the scale `{self.scale}`: {len(table)} runs on {data}, width "
            f"{listed(table.width)}, {listed(table.epochs)} epochs, {precision}; n = {SEEDS[self.scale]} "
            f"seeds a setting; {table.seconds.sum() / 3600:.1f} hours of training on {device}; torch "
            f"{torch}, revision {revision}.{gap} An accuracy is that after the last epoch."
        )


def evidence(table: pd.DataFrame, study: str, mixed: bool = False) -> Evidence:
    """The runs of a named study at the largest scale that has a setting with all its seeds.

    A run belongs where it agrees with the study on every parameter but `dataset`, and `precision` where the study
    leaves it open. Raises InputError where there is none, and where revisions or data are mixed, unless `mixed`.
    """
    for scale in reversed(SCALES):
        plan = pd.DataFrame(asdict(Config.of(run)) for run in planned(study, scale))
        open_ones = {"dataset"} | ({"precision"} if "auto" in set(plan.precision) else set())
        names = [name for name in SETTING if name not in open_ones]
        settings = plan[names].drop_duplicates()
        found = table[(table.status == "done") & (table.seed < SEEDS[scale])].merge(settings, on=names)
        whole = found.groupby(names).filter(lambda runs, n=SEEDS[scale]: runs.seed.nunique() == n)
        if len(whole):
            whole = one_source(whole, mixed)
            return Evidence(study, scale, whole, len(settings) - len(whole[names].drop_duplicates()))
    raise InputError(f"study={study!r}: none of its settings has all its seeds; lowrank.sweep({study!r}) trains them")


def ledger(table: pd.DataFrame, mixed: bool = False) -> pd.DataFrame:
    """What there is of every study at its largest scale: a row a study."""
    rows = {}
    for study in STUDIES:
        with suppress(InputError):
            found = evidence(table, study, mixed)
            rows[study] = {
                "runs": len(found.table),
                "scale": found.scale,
                "seeds a setting": SEEDS[found.scale],
                "settings missing": found.missing,
                "dataset": listed(found.table.dataset),
                "device": listed(found.table.device),
                "hours": round(found.table.seconds.sum() / 3600, 2),
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("study")


# --- differences


class Effect(NamedTuple):
    """A mean difference in test accuracy with its Student t 95% interval over n pairs."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if self.n < 2:
            return f"{100 * self.mean:+.1f} points (one pair, no interval)"
        interval = f"{CONFIDENCE:.0%} interval {100 * self.low:+.1f} to {100 * self.high:+.1f}"
        return f"{100 * self.mean:+.1f} points ({interval}, n = {self.n} pairs)"

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def differences(
    table: pd.DataFrame, one: Mapping[str, Any], other: Mapping[str, Any], pair: Iterable[str] = ()
) -> pd.Series:
    """Test accuracy of the runs that match `one` minus that of those that match `other`, paired by `pair`.

    `pair` are columns that together with the seed tell the runs of each side apart; they are the index of what comes
    back. Runs without a partner are left out.
    """
    keys = [*pair, "seed"]
    sides = [table[matching(table, values)].set_index(keys).test_accuracy for values in (one, other)]
    return (sides[0] - sides[1]).dropna()


def matching(table: pd.DataFrame, values: Mapping[str, Any]) -> pd.Series:
    return np.logical_and.reduce([table[name] == value for name, value in values.items()])


def effect(differences: pd.Series) -> Effect:
    """The mean of paired differences with its interval; NaN for an interval of fewer than two."""
    if len(differences) < 2:
        return Effect(differences.mean(), np.nan, np.nan, len(differences))
    low, high = stats.ttest_1samp(differences, 0).confidence_interval(CONFIDENCE)
    return Effect(differences.mean(), low, high, len(differences))


def effects(differences: pd.Series, by: str) -> pd.DataFrame:
    """An Effect for each value of one level of the index: columns `mean`, `low`, `high`, `n`."""
    groups = differences.groupby(level=by, sort=True)
    return pd.DataFrame({key: effect(group)._asdict() for key, group in groups}).T.rename_axis(by)
