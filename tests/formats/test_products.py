"""Products and sums of products: their parts are torch's Kronecker products, and obey the laws of a sum."""

from functools import reduce

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank.formats import FORMATS, fold
from lowrank.formats.products import expand, khatri_rao, kronecker

pytestmark = pytest.mark.usefixtures("seeded")

sides = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=4)  # modes with their ranks


def draw_factors(shapes) -> list[torch.Tensor]:
    """Of whole numbers, whose products are exact."""
    return [torch.randint(-3, 4, shape).double() for shape in shapes]


@given(sides)
@settings(deadline=None)
def test_a_product_of_factors_is_torchs_kronecker_product(shapes):
    factors = draw_factors(shapes)
    assert torch.equal(kronecker(factors), reduce(torch.kron, factors))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 5))
@settings(deadline=None)
def test_each_column_of_a_sum_is_the_kronecker_product_of_the_factors_columns(modes, rank):
    factors = draw_factors((mode, rank) for mode in modes)
    columns = [reduce(torch.kron, [factor[:, k] for factor in factors]) for k in range(rank)]
    assert torch.equal(khatri_rao(factors), torch.stack(columns, 1))


@given(sides, st.integers(1, 4))
@settings(deadline=None)
def test_a_core_is_expanded_by_the_kronecker_product_of_the_factors(shapes, width):
    factors = draw_factors(shapes)
    core = torch.randint(-3, 4, (width, *(rank for _, rank in shapes))).double()
    assert torch.equal(expand(core, factors), core.flatten(1) @ reduce(torch.kron, factors).T)


def test_a_sum_of_columns_is_the_sum_of_their_weights_in_any_order():
    form, folding = FORMATS["cp"], fold(12, 30, 4)
    cores = [torch.randn(shape, dtype=torch.float64) for shape in form.shapes(folding, (5,))]
    single = [form.weight([core[:, [k]] for core in cores], folding) for k in range(5)]
    torch.testing.assert_close(form.weight(cores, folding), sum(single))
    turned = [core[:, [3, 1, 4, 0, 2]] for core in cores]
    torch.testing.assert_close(form.weight(turned, folding), form.weight(cores, folding))


@pytest.mark.parametrize("outputs, inputs, dims", [(12, 30, 4), (2, 30, 3), (1, 7, 2)])
def test_the_largest_ranks_of_a_tucker_are_those_of_a_random_weight(outputs, inputs, dims):
    folding = fold(outputs, inputs, dims)
    weight = torch.randn(folding.modes, dtype=torch.float64)
    ranks = [torch.linalg.matrix_rank(weight.movedim(k, 0).flatten(1)).item() for k in range(dims)]
    assert FORMATS["tucker"].largest(folding) == tuple(ranks)
