"""What the analysis notebooks rest on: the recorded runs of a study, and what is missing of them.

A run belongs to a study if it would have the same id but for its seed, its data and, if the study leaves it open, its
precision; and so must the run that it starts from. More seeds than asked are used. Runs count together if their
training code and their data have the same fingerprints and, if the study leaves it open, one precision; of several such
sources the one with the most settings is taken, and what was left out is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from ..config import Config, InputError
from ..display import as_text, how_many
from ..paths import ROOT
from ..records import FINAL, record
from ..sweeps.plan import plan_runs
from ..sweeps.studies import SCALES, STUDIES
from .inference import Groups, group_runs
from .settings import PARAMETERS, SETTING, code_of, listed, scope, span
from .variance import error_of_test_set, right_answers

CIFAR = 50_000  # training images, which decide what a study leaves to the data
LOOKS = 3  # how often a contest that stays open gets two seeds more; see studies.py


@dataclass(frozen=True)
class Evidence:
    """The runs of a study at one scale: of the settings that have all their seeds, done or diverged.

    False if there is no such setting: a notebook then shows `gap`.
    """

    study: str
    scale: str
    table: pd.DataFrame  # a row a run that is done
    settings: int  # of the study
    missing: int  # settings that have not all their seeds yet
    asked: int  # runs of the study
    found: int  # of these, runs that are done or diverged
    diverged: int
    looks: int = 1  # how often the data may have decided whether to go on
    others: dict[str, int] = field(default_factory=dict)  # runs left out: of other scales, code, data, precision

    def __bool__(self) -> bool:
        return len(self.table) > 0

    @property
    def gap(self) -> str:
        """What is said in place of an answer, in Markdown."""
        return (
            f"**Not answered yet: {self.found} of {self.asked} runs of the study `{self.study}` at the scale "
            f"`{self.scale}`.** `lowrank.sweep({self.study!r}, scale={self.scale!r})` trains the others."
        )

    @property
    def scope(self) -> str:
        """Width, epochs and seeds a setting, for every sentence in bold."""
        return scope(self.table)

    def groups(self, *by: str, value: str = "test_accuracy", check: Iterable[str] = ()) -> Groups:
        """Means over the seeds of what `by` tells apart, with the spread of the whole study."""
        return group_runs(self.table, by, value, list(check), self.looks)

    def method(self) -> str:
        """How the runs were made and which were left out, in a paragraph."""
        table, notes = self.table, []
        if self.missing:
            notes.append(f"{self.missing} of {self.settings} settings have not all their seeds yet and are left out.")
        if self.diverged:
            notes.append(f"Diverged, without an accuracy and not in the means: {how_many(self.diverged, 'run')}.")
        if self.looks > 1:
            notes.append(f"Open contests got more seeds: intervals are those of {self.looks} looks (Bonferroni).")
        notes += [f"Left out: {how_many(runs, 'run')} of {what}." for what, runs in self.others.items()]
        data, precision, torch = (as_text(listed(table[name])) for name in ("dataset", "precision", "torch"))
        held = "of the training images a share of " + listed(table.validation) + " held out"
        total = how_many(len(table), "run")
        first = (
            f"Study `{self.study}` at the scale `{self.scale}`: {total} on {data}, {held}, {self.scope}, "
            f"{precision}, torch {torch}, training code {as_text(listed(code_of(table)))}. An accuracy is that after "
            "the last epoch."
        )
        return " ".join([first, *notes])


# --- which runs belong


def setting_id(
    values: Mapping[str, Any], open_precision: bool, rows: Mapping[str, Mapping[str, Any]] | None = None
) -> str:
    """The same for all runs of one setting, whatever their seed and data; "" if this version has no such setting.

    `rows` are all runs by their id: of one that starts from another it is "" if that one is not among them.
    """
    data = "digits" if values["dataset"] == "digits" else "cifar10"  # digits are not augmented unless asked
    asked = {name: values[name] for name in PARAMETERS if name in values} | {"dataset": data}
    if start := values.get("start"):
        parent = start if isinstance(start, Mapping) else (rows or {}).get(start)
        asked["start"] = setting_id(parent, open_precision, rows) if parent else ""
        if not asked["start"]:
            return ""
    return id_of(tuple((asked | ({"precision": "auto"} if open_precision else {})).items()))


@lru_cache(maxsize=2**16)
def id_of(asked: tuple[tuple[str, Any], ...]) -> str:
    try:
        return Config.of(dict(asked)).fitted(CIFAR).run_id("")
    except InputError:  # a decomposition that somebody had registered
        return ""


def seeds_of(study: str, scale: str, open_precision: bool) -> pd.Series:
    """How many seeds a study asks of each setting, by setting_id."""
    runs = pd.DataFrame([(setting_id(run, open_precision), run["seed"]) for run in plan_runs(study, scale)])
    return runs.groupby(0)[1].nunique()


def is_open(study: str, scale: str) -> bool:
    """Whether a study leaves the precision to the machine."""
    return any(run.get("precision", "auto") == "auto" for run in plan_runs(study, scale))


def evidence(table: pd.DataFrame, study: str, scale: str = "", mixed: bool = False) -> Evidence:
    """The runs of a named study at one scale, or at the largest at which half of the settings have all their seeds.

    If there is no such scale it is that with most settings. Never raises for want of runs: see Evidence.
    """
    if scale:
        return at_scale(table, study, scale, mixed)
    found = {scale: at_scale(table, study, scale, mixed) for scale in reversed(SCALES)}
    whole = {scale: each.settings - each.missing for scale, each in found.items()}
    half = [scale for scale, each in found.items() if 2 * whole[scale] >= each.settings]
    most = max(found, key=lambda scale: (whole[scale], found[scale].found, scale == "cpu"))
    chosen = found[half[0] if half else most]
    hidden = {f"the scale `{name}`": each.found for name, each in found.items() if each is not chosen and each.found}
    chosen.others.update(hidden)
    return chosen


def at_scale(table: pd.DataFrame, study: str, scale: str, mixed: bool) -> Evidence:
    """The runs of a study at one scale."""
    open_precision = is_open(study, scale)
    seeds = seeds_of(study, scale, open_precision)
    runs, rows = table[table.status.isin(FINAL)], {row["run"]: row for row in table.to_dict("records")}
    ids = [setting_id(run, open_precision, rows) for run in runs.to_dict("records")]
    runs = runs.assign(setting=pd.Series(ids, runs.index, dtype=object), source=source_of(runs, open_precision))
    runs = runs[runs.setting.isin(seeds.index)].drop_duplicates(["setting", "source", "seed"], keep="last")
    whole = runs.groupby(["source", "setting"]).filter(lambda part: part.seed.nunique() >= seeds[part.name[1]])
    others: dict[str, int] = {}
    if not mixed and len(runs):
        counts = (whole if len(whole) else runs).groupby("source").setting.agg(["nunique", "size"])
        chosen = counts.sort_values(["nunique", "size"]).index[-1]
        others = {source: int(n) for source, n in runs.source.value_counts().items() if source != chosen}
        runs, whole = runs[runs.source == chosen], whole[whole.source == chosen]
    extra = (whole.groupby("setting").seed.nunique() - seeds).max()
    return Evidence(
        study, scale, whole[whole.status == "done"].drop(columns=["setting", "source"]),
        settings=len(seeds), missing=len(seeds) - whole.setting.nunique(), asked=int(seeds.sum()), found=len(runs),
        diverged=int((whole.status == "diverged").sum()), looks=LOOKS if extra >= 2 else 1, others=others,
    )  # fmt: skip


def source_of(runs: pd.DataFrame, open_precision: bool) -> pd.Series:
    """What must be the same for runs to count together, in words for Markdown."""
    words = "training code " + code_of(runs).map(as_text) + " on data " + runs.data.fillna("").map(as_text)
    return words + (" in " + runs.precision.map(as_text) if open_precision else "")


def ledger(table: pd.DataFrame, mixed: bool = False) -> pd.DataFrame:
    """What there is of every study, at the scale that `evidence` takes: a row a study.

    `hours` is training time added up, no timing: other work ran beside.
    """
    rows = {}
    for study in STUDIES:
        found = evidence(table, study, mixed=mixed)
        runs = found.table
        names = [name for name in SETTING if name in runs]
        rows[study] = {
            "scale": found.scale,
            "settings": found.settings,
            "settings missing": found.missing,
            "runs": len(runs),
            "runs asked": found.asked,
            "diverged": found.diverged,
            "n": span(runs.groupby(names).size()) if len(runs) else "",
            "data": listed(runs.data),
            "code": listed(code_of(runs)),
            "hours (no timing: other work ran beside)": round(runs.seconds.sum() / 3600, 2),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("study")


# --- what only the records hold


def known_images(runs: str, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """The test images that each run of the table knew, bool [images]; runs without are left out."""
    records = {run: record(ROOT / runs, run) for run in table.run}
    known = {run: right_answers(each["correct"], each["test_accuracy"] or 0) for run, each in records.items() if each}
    return {run: answers for run, answers in known.items() if answers is not None}


def share_of_test_set(runs: str, one: pd.DataFrame, other: pd.DataFrame) -> float:
    """The standard error that the choice of test images adds to the difference of two settings; NaN if not recorded."""
    sides = [list(known_images(runs, side).values()) for side in (one, other)]
    return error_of_test_set(*map(np.array, sides)) if all(sides) else np.nan
