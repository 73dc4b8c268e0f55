"""Folding: the modes multiply up to the weight, evenly, outputs and inputs apart."""

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import foldings

from lowrank import InputError
from lowrank.formats import fold


@given(foldings)
def test_the_modes_multiply_up_to_the_weight(folding):
    assert prod(folding.modes) == folding.outputs * folding.inputs
    assert 1 <= folding.rows < len(folding.modes)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(2, 7), st.sampled_from([1, 9, 49]))
def test_rows_and_columns_fold_separately_and_evenly(outputs, inputs, dims, kernel):
    folding = fold(outputs, inputs, dims, kernel)
    assert folding.has_cut and len(folding.modes) == dims
    assert prod(folding.modes[folding.rows :]) == inputs * kernel
    assert folding.modes[-1] % kernel == 0  # a kernel is never torn apart


def test_powers_of_two_fold_into_nearly_equal_modes():
    assert fold(512, 512, 6).modes == (8, 8, 8, 8, 8, 8)
    for dims in range(2, 8):
        modes = fold(512, 256, dims).modes
        rows = fold(512, 256, dims).rows
        assert all(max(side) <= 2 * min(side) for side in (modes[:rows], modes[rows:]))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(2, 7))
def test_the_original_modes_are_the_nearest_divisors_of_what_is_left(outputs, inputs, dims):
    left = outputs * inputs
    for mode, parts in zip(fold(outputs, inputs, dims, 1, "original").modes, range(dims, 0, -1), strict=True):
        divisors = [divisor for divisor in range(1, left + 1) if left % divisor == 0]
        assert abs(mode - left ** (1 / parts)) == min(abs(divisor - left ** (1 / parts)) for divisor in divisors)
        left //= mode
    assert left == 1


@pytest.mark.parametrize(("dims", "text"), [(2, "12 | 30"), (3, "12 | 5 x 6"), (4, "3 x 4 | 5 x 6")])
def test_a_folding_is_shown_with_its_cut(dims, text):
    assert str(fold(12, 30, dims)) == text


@pytest.mark.parametrize("rule", ["useful", "original"])
@pytest.mark.parametrize("dims", [-1, 0, 1, 33, 2.5, "3", None])
def test_modes_that_no_weight_has_are_refused(dims, rule):
    with pytest.raises(InputError, match="^dims=.*; allowed: an int, 2 to 32$"):
        fold(12, 8, dims, rank_rule=rule)
