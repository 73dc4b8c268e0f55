"""Chains of cores: trains, rings and a Tucker whose core is a train, joined in the cheapest order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowrank.formats import fold, raise_rank, solve


@pytest.mark.parametrize("dims", [2, 3, 4, 6])
@given(outputs=st.integers(1, 200), inputs=st.integers(1, 200))
def test_a_ring_at_its_largest_is_as_large_as_the_weight_but_for_one_increment(dims, outputs, inputs):
    layout = solve("ring", [fold(outputs, inputs, dims)], rank_scale=1)[0]
    if max(layout.ranks) > 1:
        assert layout.parameters <= layout.size
    steps = [raise_rank("ring", layout.folding, list(layout.ranks), k) for k in range(dims)]
    assert layout.parameters + max(steps) * dims > layout.size
