"""Do the intervals hold what they promise? Simulated studies whose truth is known, judged as the notebooks judge.

A study has narrow plain networks, which lie on a concave curve, and five formats at three budgets, with three seeds a
setting, five of some. Counted is how often *all* intervals of a family hold the truth: 95% are promised. `differing`
has the spreads that two-epoch runs had by budget (1.32 to 0.69 points), `schedule` one of three times the others,
which must not be pooled. `curve` asks for the true curve, not for the straight line between two widths.

    python benchmarks/coverage.py [studies]     (1,000 by default: two minutes on one core)

writes benchmarks/results/coverage-<machine>.csv, a row a spread.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
from machine import store

from lowrank.lab import narrow
from lowrank.lab.inference import UNEQUAL, against, among, combine, group_runs, main_effects

FORMATS, BUDGETS, WIDTHS = ["bottleneck", "tt", "tucker", "cp", "ring"], [0.05, 0.1, 0.25], [5, 6, 7, 9, 10, 12, 17]
SPREADS = {"equal": {}, "differing": {0.05: 1.32, 0.1: 1.13, 0.25: 0.86, 0.0: 0.9}, "heavy tails": {}}
SD = 0.01


def curve(parameters: np.ndarray) -> np.ndarray:
    """The true accuracy of plain networks: concave in the logarithm of their size."""
    logs = np.log(parameters / 5000)
    return 0.55 + 0.12 * logs - 0.015 * logs**2


def truth() -> pd.DataFrame:
    """A row a setting: its size, its true accuracy, its seeds."""
    plain = pd.DataFrame({"decomp": "separable", "dims": 0, "budget": 0.0, "width": WIDTHS})
    plain["parameters"] = [150 * width**2 + 700 * width for width in WIDTHS]
    rows = [(decomp, 0 if decomp == "bottleneck" else 4, budget, 16) for decomp in FORMATS for budget in BUDGETS]
    held = pd.DataFrame(rows, columns=["decomp", "dims", "budget", "width"])
    held["parameters"] = 7000 + 45_000 * held.budget
    table = pd.concat([plain, held], ignore_index=True)
    table["true"] = curve(table.parameters) + 0.01 * table.decomp.map({"cp": 1, "ring": 2, "tt": -1}).fillna(0)
    factor = np.where(table.decomp == "separable", 1, 1.7)
    return table.assign(multiply_adds=70 * factor * table.parameters, n=np.where(table.decomp == "cp", 5, 3))


def simulate(settings: pd.DataFrame, spread: str, rng: np.random.Generator) -> pd.DataFrame:
    """The runs of one study."""
    runs = settings.loc[settings.index.repeat(settings.n)].reset_index(drop=True)
    noise = rng.standard_t(5, len(runs)) * np.sqrt(3 / 5) if spread == "heavy tails" else rng.normal(size=len(runs))
    sd = SD * runs.budget.map(SPREADS[spread]).fillna(1.0) if SPREADS[spread] else SD
    return runs.assign(test_accuracy=runs.true + sd * noise)


def held(found: pd.DataFrame, true: np.ndarray) -> bool:
    """Whether all intervals of a family hold the truth."""
    return bool(((found.low <= true) & (true <= found.high)).all())


def families(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Every family of intervals that a study of formats leads to."""
    forms = runs[runs.decomp != "separable"]
    groups = group_runs(forms, ["decomp", "budget"], check=["budget"])
    first = pd.DataFrame(np.eye(1, len(groups.rows)), columns=groups.rows.index)
    return {
        "pooled mean": combine(groups, first),
        "Dunnett": against(groups, decomp="bottleneck"),
        "Tukey": among(groups, "decomp"),
        "narrow": narrow.against_narrow(runs),
    }


def truths(settings: pd.DataFrame) -> dict[str, np.ndarray]:
    """What the intervals should hold; of narrow networks also their curve, not only the line between two widths."""
    exact = settings.loc[settings.index.repeat(3)].assign(test_accuracy=lambda runs: runs.true)
    found = {name: family["mean"] for name, family in families(exact).items()}
    ours = settings.set_index(narrow.NETWORK).loc[list(found["narrow"].index.droplevel("at"))]
    at = found["narrow"].index.get_level_values("at")
    size = np.where(at == "parameters", ours.parameters, ours.multiply_adds / 70)
    return found | {"narrow, curve": ours.true.to_numpy() - curve(size)}


def judge(runs: pd.DataFrame, true: dict[str, np.ndarray]) -> dict[str, bool]:
    """Of each family whether all its intervals hold the truth."""
    found = families(runs)
    found["narrow, curve"] = found["narrow"]
    return {name: held(found[name], np.asarray(true[name])) for name in true}


def judge_factors(rng: np.random.Generator) -> dict[str, bool]:
    """The half fraction of four factors, of which one trebles the spread: main effects, and whether it was seen."""
    signs = [bits for bits in np.ndindex(2, 2, 2, 2) if sum(bits) % 2 == 0]
    names = ["schedule", "decay", "rank rule", "initialisation"]
    rows = [dict(zip(names, map(bool, bits), strict=True)) for bits in signs for _ in range(3)]
    runs, effect = pd.DataFrame(rows), np.array([-0.05, 0.0, -0.02, -0.01])
    sd = np.where(runs.schedule, 3 * SD, SD)
    runs["test_accuracy"] = 0.6 + runs[names].to_numpy() @ effect + sd * rng.normal(size=len(runs))
    groups = group_runs(runs, names, check=["schedule"])
    return {"main effects": held(main_effects(groups), effect)}


def main(studies: int) -> pd.DataFrame:
    settings, rng = truth(), np.random.default_rng(0)
    true = truths(settings)
    rows = {name: [judge(simulate(settings, name, rng), true) for _ in range(studies)] for name in SPREADS}
    rows["schedule"] = [judge_factors(rng) for _ in range(studies)]
    table = pd.DataFrame({name: pd.DataFrame(found).mean() for name, found in rows.items()}).T
    print(f"\n{studies} studies: share in which all intervals hold the truth (Levene's p < {UNEQUAL}: not pooled)")
    print((100 * table).round(1).to_string(na_rep=""))
    return table.rename_axis("spread").reset_index()


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    store(main(count), "coverage", ("scipy", "numpy"), studies=count)
