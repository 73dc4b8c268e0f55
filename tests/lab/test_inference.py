"""Differences get the intervals that scipy and a second, independent way of computing give them."""

import sys
from pathlib import Path

import coverage  # noqa: E402
import numpy as np
import pandas as pd
import pytest
from samples import UNEQUAL_N, as_table, samples
from scipy import stats

from lowrank.lab import inference
from lowrank.lab.inference import against, among, combine, effect, group_runs, main_effects

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))


def test_the_spread_is_that_of_all_settings_together():
    parts = samples()
    spread = group_runs(as_table(parts), ["form"]).spread
    assert spread.df == sum(UNEQUAL_N) - 4 and spread.common
    assert spread.sd**2 == pytest.approx(sum(((part - part.mean()) ** 2).sum() for part in parts) / spread.df)
    assert "pooled SD" in str(spread)


def test_intervals_against_a_control_are_dunnetts():
    control, *others = samples()
    found = against(group_runs(as_table([control, *others]), ["form"]), form=0)
    expected = stats.dunnett(*others, control=control, random_state=0).confidence_interval(0.95)
    assert found.low.to_numpy() == pytest.approx(expected.low, abs=3e-4)
    assert found.high.to_numpy() == pytest.approx(expected.high, abs=3e-4)


def test_intervals_among_all_are_tukeys():
    parts = samples((4, 4, 4, 4))
    found = among(group_runs(as_table(parts), ["form"]), "form")
    expected = stats.tukey_hsd(*parts).confidence_interval(0.95)
    for (one, other), row in found.iterrows():
        assert (row.low, row.high) == pytest.approx((expected.low[one, other], expected.high[one, other]), abs=3e-4)


def test_one_difference_alone_is_students_and_no_seed_is_paired():
    parts = samples((3, 4))
    groups = group_runs(as_table(parts), ["form"])
    assert groups.spread.common
    (row,) = against(groups, form=0).itertuples()
    expected = stats.ttest_ind(parts[1], parts[0]).confidence_interval(0.95)
    assert (row.low, row.high) == pytest.approx(tuple(expected))


def test_controls_are_those_of_the_same_other_levels_and_may_be_averaged():
    table = pd.concat([as_table(samples(seed=seed), budget=budget) for seed, budget in ((4, 0.1), (5, 0.2))])
    groups = group_runs(table, ["form", "budget"])
    each, whole = against(groups, form=0), against(groups, form=0, over="budget")
    assert len(each) == 6 and list(whole.index) == [1, 2, 3]
    assert whole["mean"][2] == pytest.approx(each["mean"].xs(2, level="form").mean())
    assert (whole.se < each.se.groupby("form").min()).all()
    assert against(group_runs(table[table.form > 0], ["form"]), form=0).empty


def test_different_spreads_are_found_and_kept_apart():
    rng = np.random.default_rng(0)
    parts = [rng.normal(0, (0.001, 0.05)[k % 2], 6) for k in range(4)]
    table = as_table(parts).assign(noisy=lambda rows: rows.form % 2)
    groups = group_runs(table, ["form", "noisy"], check=["noisy"])
    assert not groups.spread.common and "not pooled" in str(groups.spread)
    quiet, loud = (
        combine(groups, pd.DataFrame([weights], columns=groups.rows.index)).se.item()
        for weights in ([1, 0, -1, 0], [0, 1, 0, -1])
    )
    assert loud > 20 * quiet
    assert group_runs(as_table(samples()), ["form"], check=["form"]).spread.common


@pytest.mark.parametrize("n", [3, 5, 12])
def test_the_smallest_visible_difference_is_seen_four_times_in_five(n):
    rng, sd = np.random.default_rng(n), 0.01
    rows = against(group_runs(as_table(samples((n, n, n))), ["form"]), form=0)
    critical = (rows.high - rows["mean"]).iloc[0] / rows.se.iloc[0]
    shift = rows.visible.iloc[0] / rows.se.iloc[0] * sd * np.sqrt(2 / n)
    draws = rng.normal(shift, sd * np.sqrt(2 / n), 20_000)
    spread = sd * np.sqrt(rng.chisquare(3 * n - 3, 20_000) / (3 * n - 3))
    assert (draws > critical * spread * np.sqrt(2 / n)).mean() == pytest.approx(0.8, abs=0.015)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.001, 0.05, "clear"), (-0.009, 0.008, "equal within 1 point"), (-0.02, 0.001, "open")],
)
def test_clear_equal_and_open_are_defined_once(low, high, verdict):
    row = {"mean": (low + high) / 2, "low": low, "high": high, "n": 3, "visible": 0.02, "value": "test_accuracy"}
    assert effect(row).verdict == verdict
    assert effect(row | {"value": "test_loss"}).verdict == ("clear" if verdict == "clear" else "open")


def test_one_seed_a_setting_gives_differences_without_intervals():
    (row,) = against(group_runs(as_table(samples((1, 1))), ["form"]), form=0).to_dict("records")
    assert np.isnan(row["low"]) and str(effect(row)).endswith("(n = 1, no interval)")


def test_more_looks_make_wider_intervals():
    table = as_table(samples())
    once, thrice = (against(group_runs(table, ["form"], looks=looks), form=0) for looks in (1, 3))
    assert (thrice.high > once.high).all() and (thrice["mean"] == once["mean"]).all()


def test_main_effects_of_a_half_fraction_are_exact():
    names = ["a", "b", "c", "d"]
    rows = [bits for bits in np.ndindex(2, 2, 2, 2) if sum(bits) % 2 == 0 for _ in range(2)]
    table = pd.DataFrame(rows, columns=names).astype(bool)
    table["test_accuracy"] = table[names] @ [0.04, -0.02, 0.0, 0.01] + 0.03 * (table.a & table.b)
    found = main_effects(group_runs(table, names))["mean"]
    assert found.to_dict() == pytest.approx({"a": 0.055, "b": -0.005, "c": 0.0, "d": 0.01})


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    settings, rng = coverage.truth(), np.random.default_rng(7)
    true = coverage.truths(settings)
    found = pd.DataFrame([coverage.judge(coverage.simulate(settings, "equal", rng), true) for _ in range(60)])
    assert (found.mean() > 0.85).all() and found.to_numpy().mean() < 1
    assert pd.DataFrame([coverage.judge_factors(rng) for _ in range(60)]).mean().item() > 0.85


def test_the_quantile_is_simulated_once_for_a_design():
    inference.simulated_quantile.cache_clear()
    for seed in range(3):
        against(group_runs(as_table(samples(seed=seed)), ["form"]), form=0)
    assert inference.simulated_quantile.cache_info().misses == 1
