"""A budget is never exceeded and is spent where it helps; an error is kept; ranks by hand are taken as they are."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import layouts, uneven
from small import fall, kinds
from torch import nn

import lowrank
from lowrank import decompose, summary
from lowrank.formats import FORMATS, Folding, Layout, fold
from lowrank.layers import Decomposed
from lowrank.surgery.allocation import Option, list_foldings, spend_budget

pytestmark = pytest.mark.usefixtures("seeded")
cuts = pytest.mark.parametrize("decomp", ["bottleneck", "tt", "tucker", "tucker_tt"])
shapes = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 9])), min_size=1, max_size=4)


def smallest(decomp: str, folding: Folding) -> int:
    return Layout(decomp, folding, (1,) * len(FORMATS[decomp].largest(folding))).parameters


@kinds
@given(shapes=shapes, dims=st.integers(2, 6), budget=st.floats(0.01, 1.0), zero=st.booleans())
@settings(deadline=None, max_examples=15)
def test_a_budget_is_never_exceeded(decomp, shapes, dims, budget, zero):
    weights = [torch.randn(outputs, inputs * kernel) for outputs, inputs, kernel in shapes]
    if zero:
        weights[0].zero_()
    foldings = [list_foldings(decomp, outputs, inputs, dims, kernel) for outputs, inputs, kernel in shapes]
    size = sum(weight.numel() for weight in weights)
    try:
        found = spend_budget(decomp, weights, foldings, budget)
    except ValueError as error:
        least = sum(min(smallest(decomp, folding) for folding in choices) for choices in foldings)
        assert least > budget * size and re.search("allowed is|no budget allows it", str(error))
        return
    taken = sum(layout.parameters if layout else weight.numel() for layout, weight in zip(found, weights, strict=True))
    assert taken <= budget * size + 1e-6 and any(found)
    for layout, choices in [pair for pair in zip(found, foldings, strict=True) if pair[0]]:
        assert layout.folding in choices and min(layout.ranks) >= 1
        largest = FORMATS[decomp].largest(layout.folding)
        assert all(rank <= most for rank, most in zip(layout.ranks, largest, strict=True))


@cuts
@pytest.mark.parametrize("dims", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("budget", [0.3, 0.6, 0.9])
def test_ranks_that_are_of_use_only_together_rise_together(decomp, dims, budget):
    """As those at both ends of a core that is a matrix: one layer takes what the even path takes."""
    layer = nn.Linear(128, 128)
    layer.weight.data = torch.randn(128, 12) @ torch.randn(12, 128) / 12**0.5 + 0.3 * torch.randn(128, 128)
    by_error, even = (
        decompose(layer, decomp=decomp, dims=dims, budget=budget, allocation=allocation)
        for allocation in ("error", "even")
    )
    assert by_error.error < 1.03 * even.error and by_error.compression > budget - 0.05


@pytest.mark.parametrize("decomp", ["cp", "ring"])
def test_a_format_without_cuts_takes_about_what_the_even_path_takes(decomp):
    """Although a step of one rank may gain less than a whole term of the sum that stands for it."""
    layer = nn.Linear(40, 48)
    for budget in (0.2, 0.3, 0.5, 0.7, 0.9):
        by_error, even = (
            decompose(layer, decomp=decomp, budget=budget, allocation=allocation) for allocation in ("error", "even")
        )
        assert by_error.compression > 0.9 * even.compression and by_error.error < 1.15 * even.error, budget


class Blocks(lowrank.Format):
    """One to four blocks on the diagonal: a size that is no rank, and none beyond the largest."""

    uses_dims = False

    def refusal(self, folding):
        return "" if folding.outputs % 4 == folding.inputs % 4 == 0 else "its sides are not divisible by 4"

    def largest(self, folding):
        return (3,)

    def shapes(self, folding, ranks):
        count = (4, 2, 1)[ranks[0] - 1]
        return [(count, folding.outputs // count, folding.inputs // count)]

    def weight(self, cores, folding):
        return torch.block_diag(*cores[0])

    def weight_work(self, folding, ranks):
        return folding.outputs * folding.inputs


def test_no_size_beyond_the_largest_is_asked_of_a_format(nothing_registered):
    lowrank.register("blocks", Blocks())
    net = decompose(nn.Linear(64, 64), decomp="blocks", budget=0.5)
    assert net.layout.ranks == (2,) and net.compression == 0.5


@cuts
@pytest.mark.parametrize("budget", [0.1, 0.25, 0.5])
def test_it_loses_less_than_the_even_path(decomp, budget):
    """In the squared relative errors of all layers, some of which need far less than others."""
    net = uneven()
    lost = {}
    for allocation in ("even", "error"):
        small = decompose(net, decomp=decomp, budget=budget, allocation=allocation)
        lost[allocation] = sum(layer.error**2 for layer in small.modules() if isinstance(layer, Decomposed))
    assert lost["error"] < lost["even"] - 0.01


@cuts
def test_a_layer_that_needs_all_its_weights_is_left_dense_and_said_so(decomp):
    """Small ones of full rank beside large ones that need little."""
    net = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 256), nn.Linear(256, 256))
    net[0].weight.data = torch.nn.init.orthogonal_(torch.empty(16, 16))
    for layer in (net[1], net[2]):
        layer.weight.data = fall(*layer.weight.shape, 0.05)
    small = decompose(net, decomp=decomp, budget=0.3)
    table = summary(small)
    assert type(small[0]) is nn.Linear and table.left["0"] == "worth its parameters as it is"
    assert (table.parameters <= table.weights).all() and table.parameters.sum() <= 0.3 * table.weights.sum()
    again = decompose(small, decomp=decomp, budget=0.5)
    assert isinstance(again[0], Decomposed) and summary(again).left["0"] == ""


@cuts
def test_no_rank_is_above_what_a_weight_needs(decomp):
    for rank in (1, 2, 5):
        weight = torch.randn(40, rank) @ torch.randn(rank, 36)
        layout = spend_budget(decomp, [weight], [[fold(40, 36, 2)]], 0.9)[0]
        assert max(layout.ranks) <= rank


@cuts
def test_a_larger_budget_loses_no_more(decomp):
    weights, foldings = [fall(48, 40), fall(20, 30)], [[fold(48, 40, 3)], [fold(20, 30, 3)]]
    options = [Option(decomp, choices[0], weight) for weight, choices in zip(weights, foldings, strict=True)]
    losses = []
    for budget in (0.2, 0.3, 0.4, 0.6, 0.8):
        found = spend_budget(decomp, weights, foldings, budget)
        pairs = zip(options, found, strict=True)
        losses.append(sum(option.loss(layout.ranks) if layout else 0.0 for option, layout in pairs))
    assert all(after <= before * 1.02 + 1e-6 for before, after in zip(losses, losses[1:], strict=False))


@kinds
@pytest.mark.parametrize("error", [0.1, 0.3, 0.6])
def test_no_layer_is_off_by_more_than_the_error(decomp, error):
    """Those that would have to be as large as their weight are left dense."""
    net = uneven()
    small = decompose(net, decomp=decomp, error=error)
    held = [layer for layer in small.modules() if isinstance(layer, Decomposed)]
    assert held and all(layer.error <= error for layer in held)
    assert all(layer.layout.parameters < layer.layout.size for layer in held)


@kinds
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_error_is_that_of_the_weight_as_its_precision_has_it(decomp, dtype):
    layer = nn.Linear(64, 48, dtype=dtype)
    layer.weight.data = fall(48, 64, 0.1).to(dtype)
    small, true = decompose(layer, decomp=decomp, error=0.02), layer.weight.double()
    error = ((small.weight.double() - true).norm() / true.norm()).item()
    assert small.error <= 0.02 and small.error == pytest.approx(error, rel=1e-3, abs=1e-6)


@cuts
def test_a_larger_error_needs_no_more_parameters(decomp):
    layer = nn.Linear(36, 40)
    layer.weight.data = fall(40, 36)
    sizes = [layouts(decompose(layer, decomp=decomp, error=error))[0].parameters for error in (0.1, 0.2, 0.4, 0.8)]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0]


def test_a_kernel_may_be_a_mode_of_its_own():
    weight = torch.einsum("oa,ca,ka->ock", torch.randn(24, 3), torch.randn(20, 3), torch.randn(9, 3)).reshape(24, 180)
    foldings = list_foldings("tucker", 24, 20, 3, 9)
    assert [folding.modes for folding in foldings] == [(24, 10, 18), (24, 20, 9)]
    assert spend_budget("tucker", [weight], [foldings], 0.06)[0].folding == foldings[1]
