"""Whose variance is whose: the best of several, interactions, the share of the test images."""

import base64

import numpy as np
import pandas as pd
import pytest
from samples import as_table, samples

from lowrank.lab import variance
from lowrank.lab.inference import group_runs


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
