"""The budget: parameters are those that torch counts, and ranks meet what they may use."""

from itertools import pairwise, product
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import foldings, kinds
from torch import nn

from lowrank import InputError, formats
from lowrank.formats import FORMATS, Layout, fold, path, raise_rank, solve
from lowrank.layers import DecomposedLinear
from lowrank.network import pointwise_shapes

BUDGETS = [0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
SCALES = [k / 20 for k in range(1, 21)]
every_dims = pytest.mark.parametrize("dims", [2, 3, 4, 6])

sizes = st.integers(1, 90)


def network(width: int, dims: int, rank_rule: str = "useful"):
    return tuple(fold(outputs, inputs, dims, 1, rank_rule) for outputs, inputs in pointwise_shapes(width))


def size(foldings) -> int:
    return sum(folding.outputs * folding.inputs for folding in foldings)


def parameters(layouts: list[Layout]) -> int:
    return sum(layout.parameters for layout in layouts)


def increments(layouts: list[Layout]) -> list[int]:
    """The parameters that each rank which may still grow would add."""
    grown = []
    for layout in layouts:
        limits = FORMATS[layout.decomp].largest(layout.folding)
        for k, (rank, limit) in enumerate(zip(layout.ranks, limits, strict=True)):
            if rank < limit:
                grown.append(raise_rank(layout.decomp, layout.folding, list(layout.ranks), k))
    return grown


# --- counts


@kinds
@pytest.mark.parametrize("kernel", [1, 9, 49])
def test_counts_are_torchs_counts_at_every_size_and_rank(decomp, kernel):
    sizes = [1, 3, 10, 13, 97, 1000] if kernel == 1 else [1, 3, 10, 13]
    for outputs, inputs, dims, scale in product(sizes, sizes, range(2, 8), (1e-9, 0.4, 1)):
        layout = solve(decomp, [fold(outputs, inputs, dims, kernel)], rank_scale=scale)[0]
        linear = nn.Linear(inputs * kernel, outputs, bias=False, device="meta")
        counted = sum(core.numel() for core in DecomposedLinear(linear, layout).parameters())
        assert layout.parameters == counted
        assert min(layout.ranks) >= 1


@kinds
@given(folding=foldings, data=st.data(), rule=st.sampled_from(["useful", "root", "uniform"]))
@settings(deadline=None, max_examples=100)
def test_every_step_of_the_path_raises_one_rank_and_the_parameters(decomp, folding, data, rule):
    rank_rule = rule if folding.has_cut else "original"
    way = path(decomp, (folding,), rank_rule)
    sizes = [way.start, *way.parameters]
    assert all(before < after for before, after in pairwise(sizes))
    steps = data.draw(st.integers(0, min(len(way.steps), 2000)))
    ranks = formats.walk_path(decomp, [folding], way.steps[:steps])[0]
    assert Layout(decomp, folding, tuple(ranks)).parameters == sizes[steps]


# --- the budget and rank_scale


@kinds
@every_dims
@pytest.mark.parametrize("width", [16, 64])
def test_a_budget_is_met_from_below(decomp, dims, width):
    modes = network(width, dims)
    smallest = path(decomp, modes).start / size(modes)
    before = 0
    for budget in BUDGETS:
        if budget < smallest:
            with pytest.raises(ValueError, match=f"budget={budget}: .* allowed is {smallest:.4f} or more"):
                solve(decomp, modes, budget=budget)
            continue
        layouts = solve(decomp, modes, budget=budget)
        short = budget * size(modes) - parameters(layouts)
        assert short > -1e-6
        assert short <= 0.01 * budget * size(modes) or short < min(increments(layouts))
        assert parameters(layouts) > before
        before = parameters(layouts)


@kinds
@given(st.integers(2, 6), st.lists(st.tuples(sizes, sizes), min_size=1, max_size=4), st.data())
@settings(deadline=None, max_examples=50)
def test_any_networks_size_follows_the_budget_and_never_exceeds_it(decomp, dims, shapes, data):
    modes = tuple(fold(outputs, inputs, dims) for outputs, inputs in shapes)
    way = path(decomp, modes)
    low, high = way.start, min(size(modes), max(way.start, *way.parameters, 0))
    limits = sorted(data.draw(st.lists(st.integers(min(low, high), high), min_size=2, max_size=4)))
    if low <= high:
        counts = [parameters(solve(decomp, modes, budget=limit / size(modes))) for limit in limits]
        assert all(count <= limit for count, limit in zip(counts, limits, strict=True))
        assert counts == sorted(counts)


@kinds
@every_dims
@pytest.mark.parametrize("width", [16, 64])
def test_the_size_grows_strictly_with_rank_scale(decomp, dims, width):
    sizes = [parameters(solve(decomp, network(width, dims), rank_scale=scale)) for scale in SCALES]
    assert all(before < after for before, after in pairwise(sizes))


@kinds
@pytest.mark.parametrize("dims", range(2, 8))
def test_the_largest_rank_scale_reaches_the_largest_useful_ranks(decomp, dims):
    modes = network(16, dims)
    layouts = solve(decomp, modes, rank_scale=1)
    assert [layout.ranks for layout in layouts] == [FORMATS[decomp].largest(folding) for folding in modes]
    for layout in layouts:
        if decomp in ("bottleneck", "cp"):  # one rank: the next one would make it larger than the weight
            step = raise_rank(decomp, layout.folding, list(layout.ranks), 0)
            assert layout.size - step < layout.parameters <= layout.size
        elif decomp != "ring":  # these hold any weight exactly
            assert layout.parameters >= layout.size


def trimmed(layout: Layout) -> Layout:
    """The layout with every rank cut to what the ranks around it can use; it still holds the same weights."""
    modes, dims, ranks = list(layout.folding.modes), len(layout.folding.modes), list(layout.ranks)
    for _ in range(2 * dims):
        if layout.decomp == "tucker":
            for k in range(dims):
                ranks[k] = min(ranks[k], prod(ranks) // ranks[k])
            continue
        bonds = [1, *ranks[1 - dims :], 1]
        if layout.decomp == "tucker_tt":
            modes = [min(modes[k], ranks[k], bonds[k] * bonds[k + 1]) for k in range(dims)]
        for k in range(1, dims):
            bonds[k] = min(bonds[k], bonds[k - 1] * modes[k - 1], modes[k] * bonds[k + 1])
        ranks = (modes if layout.decomp == "tucker_tt" else []) + bonds[1:-1]
    return Layout(layout.decomp, layout.folding, tuple(ranks))


@pytest.mark.parametrize("decomp", ["tt", "tucker", "tucker_tt"])
@pytest.mark.parametrize("dims", range(2, 7))
@pytest.mark.parametrize("width", [16, 64])
def test_no_parameters_go_to_ranks_that_nothing_can_use(decomp, dims, width):
    for budget in (0.05, 0.1, 0.25, 0.5, 0.9):
        layouts = solve(decomp, network(width, dims), budget=budget)
        assert parameters([trimmed(layout) for layout in layouts]) > 0.95 * parameters(layouts)


# --- other rules


@kinds
@pytest.mark.parametrize(("rule", "power"), [("uniform", 0), ("root", 0.5)])
@pytest.mark.parametrize("dims", range(2, 10))
def test_ranks_are_in_proportion_to_a_power_of_the_largest_useful_ones(decomp, rule, power, dims):
    """In all layers, to within the rounding of a rank and what filling the budget adds, where the limit allows it."""
    rank_scale = 0.1
    layouts = solve(decomp, network(64, dims), rank_scale=rank_scale, rank_rule=rule)
    limits = [FORMATS[decomp].largest(layout.folding) for layout in layouts]
    ranks = [rank for layout in layouts for rank in layout.ranks]
    pairs = list(zip(ranks, [limit for most in limits for limit in most], strict=True))
    units = [rank / limit**power for rank, limit in pairs if 1 < rank < limit]
    steps = [1 / limit**power for rank, limit in pairs if 1 < rank < limit]
    assert max(units, default=0) - min(units, default=0) <= max(steps, default=0)


@kinds
@every_dims
@pytest.mark.parametrize("rule", ["root", "uniform"])
def test_other_rules_meet_the_budget_too(decomp, dims, rule):
    for budget in (0.05, 0.1, 0.25, 0.5):
        layouts = solve(decomp, network(16, dims), budget=budget, rank_rule=rule)
        room = budget * size(network(16, dims)) - parameters(layouts)
        assert 0 <= room < max(0.01 * budget * size(network(16, dims)), min(increments(layouts), default=1))


# --- the original rule


@pytest.mark.parametrize("dims", range(2, 8))
@pytest.mark.parametrize("scale", [0.05, 0.5, 1])
def test_original_ranks_stay_below_the_neighbouring_modes(dims, scale):
    for decomp in FORMATS:
        for layout in solve(decomp, network(16, dims, "original"), rank_scale=scale, rank_rule="original"):
            modes = layout.folding.modes
            near = [min(pair) for pair in pairwise(modes)]
            caps = {
                "tt": near,
                "tucker": modes,
                "tucker_tt": [*modes, *near],
                "cp": [min(modes)],
                "ring": [min(modes[-1], modes[0]), *near],
            }
            limits = caps.get(decomp, layout.ranks)
            assert all(rank <= limit for rank, limit in zip(layout.ranks, limits, strict=True))
            if scale == 1:
                assert layout.ranks == tuple(limits)


@pytest.mark.parametrize("decomp", ["tt", "tucker", "tucker_tt"])
def test_original_ranks_are_in_proportion_to_their_caps(decomp):
    """As rank = rank_scale * cap was in 2019, to within the rounding of a rank."""
    full = solve(decomp, network(64, 3, "original"), rank_scale=1, rank_rule="original")
    half = solve(decomp, network(64, 3, "original"), rank_scale=0.5, rank_rule="original")
    for most, some in zip(full, half, strict=True):
        assert some.ranks == pytest.approx([rank / 2 for rank in most.ranks], abs=1)


@pytest.mark.parametrize("rule", ["best", "", None])
def test_a_rule_that_there_is_not_is_said_in_one_line(rule):
    with pytest.raises(InputError, match=f"^rank_rule={rule!r}; allowed: auto, useful, root, uniform, original$"):
        solve("tt", [fold(12, 8, 3)], budget=0.5, rank_rule=rule)


@pytest.mark.parametrize("sizes", [{}, {"budget": 0}, {"budget": 0.5, "rank_scale": 0.5}], ids=str)
def test_one_size_is_asked_for(sizes):
    with pytest.raises(InputError, match="^budget=.*, rank_scale=.*; allowed: one of them above 0 and up to 1$"):
        solve("tt", [fold(12, 8, 3)], **sizes)
