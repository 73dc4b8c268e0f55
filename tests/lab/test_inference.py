"""Differences get the intervals that scipy and a second, independent way of computing give them."""

import base64
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lowrank.lab import inference, variance
from lowrank.lab.inference import against, among, combine, effect, group_runs, main_effects

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import coverage  # noqa: E402

UNEQUAL_N = (3, 5, 4, 3)


def samples(sizes=UNEQUAL_N, gap=0.01, sd=0.01, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.normal(0.7 + gap * k, sd, n) for k, n in enumerate(sizes)]


def as_table(parts, **columns):
    rows = [{"form": k, "test_accuracy": value} for k, part in enumerate(parts) for value in part]
    return pd.DataFrame(rows).assign(**columns)


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
    parts = samples((3, 4), seed=0)
    groups = group_runs(as_table(parts), ["form"])
    assert groups.spread.common
    (row,) = against(groups, form=0).itertuples()
    expected = stats.ttest_ind(parts[1], parts[0]).confidence_interval(0.95)
    assert (row.low, row.high) == pytest.approx(tuple(expected))


def test_controls_are_those_of_the_same_other_levels_and_may_be_averaged():
    table = pd.concat([as_table(samples(seed=k), budget=budget) for k, budget in enumerate((0.1, 0.2))])
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


def test_the_best_is_likely_where_it_leads_and_anyone_where_all_are_equal():
    equal = as_table([np.array([0.69, 0.7, 0.71])] * 4)
    assert variance.best_probabilities(group_runs(equal, ["form"])).to_numpy() == pytest.approx(0.25, abs=0.01)
    lead = variance.best_probabilities(group_runs(as_table(samples(gap=0.05)), ["form"]))
    assert lead.idxmax() == (3,) and lead.max() > 0.95 and lead.sum() == pytest.approx(1)
    assert variance.best_probabilities(group_runs(equal, ["form"]), high=False).sum() == pytest.approx(1)


def test_the_interaction_is_that_of_a_two_way_analysis_of_variance():
    rng = np.random.default_rng(2)
    table = pd.DataFrame([(a, b) for a in range(3) for b in range(2) for _ in range(4)], columns=["a", "b"])
    noise = rng.normal(size=len(table))
    none, strong = (
        variance.interaction(table.assign(test_accuracy=table.a + table.b + k * table.a * table.b + noise), "a", "b")
        for k in (0, 3)
    )
    assert (strong.df, strong.df_residual) == (2, 18) and strong.matters and not none.matters
    cells = table.assign(test_accuracy=noise).groupby(["a", "b"]).test_accuracy.mean().unstack()  # balanced: by hand
    rest = cells.sub(cells.mean(axis=1), axis=0).sub(cells.mean(axis=0)) + cells.to_numpy().mean()
    within = table.assign(y=noise).groupby(["a", "b"]).y.var().mean()
    assert none.f == pytest.approx(4 * (rest**2).to_numpy().sum() / 2 / within)
    assert not variance.interaction(table.iloc[:2].assign(test_accuracy=0.5), "a", "b").matters


# --- the test set's own share


@pytest.mark.parametrize("images", [8, 397, 10_000])
def test_right_answers_come_back_as_they_were(images):
    answers = np.random.default_rng(0).random(images) < 0.7
    text = base64.b64encode(np.packbits(answers).tobytes()).decode()
    assert (variance.right_answers(text, answers.mean()) == answers).all()
    assert variance.right_answers("", 0.7) is None


@pytest.mark.parametrize("runs", [1, 2, 5])
def test_the_error_of_the_test_set_is_that_of_drawing_other_images(runs):
    rng, images = np.random.default_rng(runs), 20_000
    easy = rng.random((2, images))  # how probable it is that a run of each setting knows an image
    one, other = (rng.random((runs, images)) < p for p in easy)
    expected = np.sqrt((easy[0] - easy[1]).var() / images)
    found = variance.error_of_test_set(one, other)
    assert found == pytest.approx(expected, rel=0.05) if runs > 1 else found > expected


# --- a few simulated studies; benchmarks/coverage.py has a thousand


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
