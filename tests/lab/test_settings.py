"""From runs to settings: a mean over seeds, an interval where there are enough of them, and words for both."""

import numpy as np
import pandas as pd
import pytest
from samples import runs
from scipy import stats

from lowrank.lab import settings


def test_the_interval_is_students_over_the_spread_of_all_settings(table):
    points = settings.points(table).set_index(["decomp", "budget"])
    runs = table.groupby(["decomp", "budget"]).test_accuracy
    df = len(table) - 5
    sd = np.sqrt((runs.var() * (runs.size() - 1)).sum() / df)
    half = stats.t.ppf(0.975, df) * sd / np.sqrt(3)
    assert points.loc[("tt", 0.1), ["low", "high"]].tolist() == pytest.approx([0.72 - half, 0.72 + half])


def test_the_caption_says_whose_spread_makes_the_intervals():
    def apart(sd, epochs):
        seeds = 0.7 + sd * np.array([-1, -0.5, 0, 0.5, 1])
        return runs(seeds, decomp="tt", budget=0.1, epochs=epochs)

    alike, unlike = (pd.concat([apart(0.01, 2), apart(sd, 9)]) for sd in (0.01, 0.1))
    assert "(SD pooled over all settings; none below n = 3)" in settings.caption(alike)
    assert "(each setting's own SD; none below n = 3)" in settings.caption(unlike)
    widths = [(rows.high - rows.low).tolist() for rows in map(settings.points, (alike, unlike))]
    assert widths[0][1] == pytest.approx(widths[0][0]) and widths[1][1] == pytest.approx(10 * widths[1][0])


def test_no_interval_is_of_two_seeds_or_leaves_0_to_1():
    table = pd.concat([runs([0.5, 0.7], decomp="tt", budget=0.1), runs([0.99, 0.7, 0.9], decomp="cp", budget=0.1)])
    points = settings.points(table).set_index("decomp")
    assert np.isnan(points.low["tt"]) and points.high["cp"] == 1
    low = settings.points(runs([0.0, 0.01, 0.2], decomp="tt", budget=0.1)).low
    assert low.item() == 0


def test_a_point_is_a_setting_over_its_seeds(table):
    points = settings.points(table).set_index(["decomp", "budget"])
    assert points.loc[("tt", 0.1), ["mean", "n"]].tolist() == pytest.approx([0.72, 3])
    assert len(points) == 5


def test_the_scope_says_which_number_is_a_width_and_which_are_epochs():
    parts = [runs([0.5], decomp="tt", width=16, budget=0.1, epochs=epochs) for epochs in (6, 30)]
    scope = settings.scope(pd.concat([*parts, runs([0.5], decomp="separable", width=7, epochs=30)]))
    assert scope == "width 16 (plain networks of width 7), 6 and 30 epochs, n = 1"


@pytest.mark.parametrize(("seeds", "words"), [([3, 3], "3"), ([5, 3], "3, 5"), ([4, 5, 3, 3], "3 to 5")])
def test_several_values_take_as_few_words_as_they_need(seeds, words):
    assert settings.span(seeds) == words
