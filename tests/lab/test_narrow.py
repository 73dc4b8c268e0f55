"""Decomposed networks are compared with what lies between two plain narrower ones, and with nothing beyond them."""

import numpy as np
import pandas as pd
import pytest

from lowrank.lab.narrow import SIZES, against_narrow, bracket, curvature


def network(decomp, parameters, accuracies, width=16, budget=0.0, adds=70, dims=3):
    shared = {"decomp": decomp, "dims": dims, "budget": budget, "width": width}
    sizes = {"parameters": parameters, "multiply_adds": adds * parameters}
    return [shared | sizes | {"test_accuracy": accuracy} for accuracy in accuracies]


def table(*parts):
    return pd.DataFrame([row for part in parts for row in part])


WOBBLE = np.array([-0.01, 0.0, 0.01])
PLAIN = [network("separable", 1000 * 2**k, 0.5 + 0.1 * k + WOBBLE, width=4 + k) for k in range(4)]


@pytest.mark.parametrize("size", [1000, 1414, 2000, 5000, 8000])
def test_a_size_is_a_mix_of_its_two_neighbours(size):
    plain = np.array([8000.0, 1000.0, 4000.0, 2000.0])
    (weights,) = bracket(plain, np.array([size]))
    assert weights.sum() == pytest.approx(1) and (weights >= 0).all() and (weights > 0).sum() <= 2
    assert weights @ np.log(plain) == pytest.approx(np.log(size))


@pytest.mark.parametrize("size", [999, 8001])
def test_beyond_the_curve_nothing_is_said(size):
    assert np.isnan(bracket(np.array([1000.0, 8000.0]), np.array([size]))).all()
    found = against_narrow(table(*PLAIN, network("cp", size, 0.6 + WOBBLE, budget=0.1)))
    assert "parameters" not in found.index.get_level_values("at")


def test_the_difference_is_at_equal_parameters_and_at_equal_arithmetic():
    between = int(1000 * 2**1.5)
    found = against_narrow(table(*PLAIN, network("cp", between, 0.7 + WOBBLE, budget=0.1, adds=140)))
    assert found.index.get_level_values("at").tolist() == list(SIZES)
    at = found.droplevel(["decomp", "dims", "budget", "width"])
    assert at["mean"].to_dict() == pytest.approx({"parameters": 0.05, "multiply_adds": -0.05}, abs=1e-4)
    assert at.ratio.to_dict() == pytest.approx({"parameters": 2, "multiply_adds": 0.5}, rel=1e-3)


def test_the_interval_has_the_spread_of_both_neighbours():
    at_a_width = against_narrow(table(*PLAIN, network("cp", 2000, 0.7 + WOBBLE, budget=0.1, adds=1)))
    between = against_narrow(table(*PLAIN, network("cp", int(1000 * 2**1.5), 0.7 + WOBBLE, budget=0.1, adds=1)))
    assert at_a_width.se.item() == pytest.approx(0.01 * np.sqrt(2 / 3))
    assert between.se.item() == pytest.approx(0.01 * np.sqrt((1 + 0.5) / 3), rel=1e-3)


def test_the_modes_that_a_plain_record_names_do_not_matter():
    other = [{**row, "dims": 5} for row in PLAIN[1][:1]] + PLAIN[1][1:]
    ours = network("cp", 3000, 0.7 + WOBBLE, budget=0.1)
    mixed = against_narrow(table(*PLAIN[:1], other, *PLAIN[2:], ours))
    pd.testing.assert_frame_equal(against_narrow(table(*PLAIN, ours)), mixed)


@pytest.mark.parametrize("parts", [[], PLAIN[:1], PLAIN, [network("cp", 2000, 0.7 + WOBBLE, budget=0.1)]])
def test_without_two_sides_there_is_an_empty_table(parts):
    columns = table(*PLAIN).columns
    found = against_narrow(pd.DataFrame([row for part in parts for row in part], columns=columns))
    assert found.empty and "ratio" in found and found.index.names[-1] == "at"


def test_a_concave_curve_lies_above_its_lines():
    sizes = np.array([1000.0, 2000, 4000, 8000])
    logs = np.log2(sizes)
    assert curvature(0.1 * logs - 0.02 * (logs - logs[0]) ** 2, sizes) == pytest.approx(0.02)
    assert curvature(0.1 * logs, sizes) == pytest.approx(0) and np.isnan(curvature(logs[:2], sizes[:2]))
