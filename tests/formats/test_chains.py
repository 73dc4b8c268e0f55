"""Chains of cores: trains, rings and a Tucker whose core is a train, joined in the cheapest order."""

from string import ascii_lowercase, ascii_uppercase

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank.formats import FORMATS, fold, raise_rank, solve
from lowrank.formats.chains import join

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("dims", [2, 3, 4, 6])
@given(outputs=st.integers(1, 200), inputs=st.integers(1, 200))
def test_a_ring_at_its_largest_is_as_large_as_the_weight_but_for_one_increment(dims, outputs, inputs):
    layout = solve("ring", [fold(outputs, inputs, dims)], rank_scale=1)[0]
    if max(layout.ranks) > 1:
        assert layout.parameters <= layout.size
    steps = [raise_rank("ring", layout.folding, list(layout.ranks), k) for k in range(dims)]
    assert layout.parameters + max(steps) * dims > layout.size


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=7), st.integers(1, 4))
@settings(deadline=None)
def test_cores_are_joined_to_what_their_chain_is_in_whatever_order(parts, end):
    """Of whole numbers, whose products are exact."""
    bonds = [bond for bond, _ in parts] + [end]
    shapes = [(before, mode, after) for before, (_, mode), after in zip(bonds, parts, bonds[1:], strict=False)]
    cores = [torch.randint(-3, 4, shape).double() for shape in shapes]
    chain = [ascii_lowercase[k] + ascii_uppercase[k] + ascii_lowercase[k + 1] for k in range(len(cores))]
    ends = "a" + ascii_uppercase[: len(cores)] + ascii_lowercase[len(cores)]
    expected = torch.einsum(f"{','.join(chain)}->{ends}", *cores).reshape(bonds[0], -1, end)
    assert torch.equal(join(cores), expected)


@pytest.mark.parametrize("outputs, inputs, dims", [(12, 30, 4), (16, 16, 5), (7, 24, 3)])
def test_the_largest_ranks_of_a_train_are_those_of_a_random_weight(outputs, inputs, dims):
    folding = fold(outputs, inputs, dims)
    weight = torch.randn(folding.modes, dtype=torch.float64)
    ranks = [torch.linalg.matrix_rank(weight.flatten(0, k).flatten(1)).item() for k in range(dims - 1)]
    assert FORMATS["tt"].largest(folding) == tuple(ranks)


@pytest.mark.parametrize("dims", [2, 3, 5])
def test_a_ring_that_is_closed_by_a_rank_of_one_is_a_train(dims):
    folding = fold(12, 30, dims)
    cores = [torch.randn(shape) for shape in FORMATS["tt"].shapes(folding, (3,) * (dims - 1))]
    assert FORMATS["ring"].shapes(folding, (1, *(3,) * (dims - 1))) == [tuple(core.shape) for core in cores]
    torch.testing.assert_close(FORMATS["ring"].weight(cores, folding), FORMATS["tt"].weight(cores, folding))


def test_a_train_in_a_tucker_whose_factors_are_unit_matrices_is_that_train():
    folding = fold(12, 30, 4)
    cores = [torch.randn(shape) for shape in FORMATS["tt"].shapes(folding, (2, 3, 4))]
    units = [torch.eye(mode) for mode in folding.modes]
    torch.testing.assert_close(
        FORMATS["tucker_tt"].weight([*units, *cores], folding), FORMATS["tt"].weight(cores, folding)
    )
