"""Layout: the weight is the one that the format defines, the work what opt_einsum counts, the contraction the least."""

from itertools import product
from math import prod
from string import ascii_lowercase, ascii_uppercase

import opt_einsum
import pytest
import tltorch
import tntorch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layers_at_random import convolution, einsum, filled
from small import kinds
from torch import nn

from lowrank.formats import FORMATS, Layout, fold, solve
from lowrank.layers import DecomposedConv2d

pytestmark = pytest.mark.usefixtures("seeded")


def cost(expression: str, shapes: list[tuple[int, ...]]) -> int:
    """opt_einsum's, with the operands in turn: 2 for a multiplication with its addition, 1 for one without."""
    if len(shapes) == 1:
        return 0
    in_turn = [(0, 1), *[(0, left) for left in range(len(shapes) - 2, 0, -1)]]  # a result goes to the end
    return int(opt_einsum.contract_path(expression, *shapes, shapes=True, optimize=in_turn)[1].opt_cost)


def chain_cost(cores: list[tuple[int, ...]]) -> int:
    """Of the cheapest order of all, which opt_einsum finds."""
    bonds, modes = ascii_lowercase, ascii_uppercase
    terms = ",".join(bonds[k] + modes[k] + bonds[k + 1] for k in range(len(cores)))
    chain = f"{terms}->{bonds[0]}{modes[: len(cores)]}{bonds[len(cores)]}"
    best = opt_einsum.contract_path(chain, *cores, shapes=True, optimize="dp")[1].opt_cost
    return int(best) // 2 if len(cores) > 1 else 0


def cp_cost(factors: list[tuple[int, ...]]) -> int:
    modes = ascii_uppercase[: len(factors)]
    return cost(f"{','.join(mode + 'z' for mode in modes)}->{modes}z", factors)


def tucker_cost(layout: Layout) -> int:
    rows, (core, *factors) = layout.folding.rows, layout.shapes
    sides = sorted([(core[:rows], factors[:rows]), (core[rows:], factors[rows:])], key=lambda side: prod(side[0]))
    (thin, outer), (wide, inner) = sides
    ranks, modes = ascii_lowercase[: len(core)], ascii_uppercase[: len(core)]
    pairs = [mode + rank for mode, rank in zip(modes, ranks, strict=True)]
    outer_product = f"{','.join(pairs[: len(thin)])}->{modes[: len(thin)]}{ranks[: len(thin)]}"
    expansion = f"z{ranks[: len(wide)]},{','.join(pairs[: len(wide)])}->z{modes[: len(wide)]}"
    return cost(outer_product, outer) + cost(expansion, [(prod(thin), *wide), *inner]) // 2


def train_of(layout: Layout) -> tuple[int, list[tuple[int, ...]]]:
    """What the factors of `tucker_tt` take to become part of its train, and the cores of the train or ring."""
    dims, shapes = len(layout.folding.modes), layout.shapes
    if layout.decomp != "tucker_tt":
        return 0, shapes
    pairs = list(zip(shapes[:dims], shapes[dims:], strict=True))
    cores = [(core[0], factor[0], core[2]) for factor, core in pairs]
    return sum(cost("Az,azb->aAb", list(pair)) for pair in pairs) // 2, cores


def build_cost(layout: Layout) -> int:
    """Multiply-adds that make the two thin factors, by opt_einsum."""
    rows, shapes = layout.folding.rows, layout.shapes
    if layout.decomp in ("tt", "ring", "tucker_tt"):
        factors, cores = train_of(layout)
        return factors + chain_cost(cores[:rows]) + chain_cost(cores[rows:])
    if layout.decomp == "cp":
        return cp_cost(shapes[:rows]) + cp_cost(shapes[rows:])
    return tucker_cost(layout) if layout.decomp == "tucker" else 0


def weight_cost(layout: Layout) -> int:
    """Multiply-adds that make the weight, by opt_einsum."""
    if layout.decomp in ("tt", "tucker_tt"):
        factors, cores = train_of(layout)
        return factors + chain_cost(cores)
    return build_cost(layout) + layout.inner * layout.size


layouts = st.builds(
    lambda decomp, outputs, inputs, dims, scale: solve(decomp, [fold(outputs, inputs, dims)], rank_scale=scale)[0],
    st.sampled_from(sorted(FORMATS)),
    st.integers(1, 128),
    st.integers(1, 128),
    st.integers(2, 6),
    st.floats(0.01, 1),
)


@given(layouts)
@settings(deadline=None)
def test_multiply_adds_of_building_are_opt_einsums(layout):
    assert layout.build_multiply_adds("factors") == build_cost(layout)
    assert layout.build_multiply_adds("weight") == weight_cost(layout)


@pytest.mark.parametrize("channels", [128, 256, 512])
def test_the_contraction_is_the_one_with_less_work(channels):
    folding = fold(channels, channels, 2)
    for rank, contraction in ((channels // 4, "factors"), (channels * 6 // 10, "weight")):
        layout = Layout("bottleneck", folding, (rank,))
        thin, full = layout.multiply_adds("factors"), layout.multiply_adds("weight")
        assert thin == rank * 2 * channels and full == channels**2
        assert layout.contraction == contraction and layout.multiply_adds() == min(thin, full)


@kinds
@pytest.mark.parametrize("rank_rule", ["useful", "original"])
def test_the_weight_is_the_formats_definition(decomp, rank_rule):
    for dims, (outputs, inputs, kernel) in product([2, 3, 5], [(12, 10, 3), (7, 1, 1), (1, 13, 1), (30, 64, 1)]):
        for scale in (1e-9, 0.3, 1):
            folding = fold(outputs, inputs, dims, kernel**2, rank_rule)
            layout = solve(decomp, [folding], rank_scale=scale, rank_rule=rank_rule)[0]
            layer = filled(DecomposedConv2d(nn.Conv2d(inputs, outputs, kernel), layout))
            defined = einsum(layout, [core.double() for core in layer.cores]).reshape(layer.weight.shape)
            torch.testing.assert_close(layer.weight, defined.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("decomp", ["tt", "tucker", "tucker_tt", "cp"])
def test_the_weight_is_tntorchs(decomp):
    layer = convolution(decomp, kernel=3)
    cores, dims = [core.detach() for core in layer.cores], 4
    tensor = {
        "tt": lambda: tntorch.Tensor(cores),
        "cp": lambda: tntorch.Tensor(cores),
        "tucker_tt": lambda: tntorch.Tensor(cores[dims:], Us=cores[:dims]),
        "tucker": lambda: tntorch.Tensor(tntorch.Tensor(cores[0]).cores, Us=cores[1:]),
    }[decomp]()
    torch.testing.assert_close(layer.weight, tensor.torch().reshape(layer.weight.shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decomp", ["tt", "tucker", "cp"])
def test_the_weight_is_tensorly_torchs(decomp):
    layer = convolution(decomp, kernel=3)
    cores = list(layer.cores)
    tensor = {
        "tt": lambda: tltorch.TTTensor(cores),
        "cp": lambda: tltorch.CPTensor(torch.ones(layer.layout.ranks[0]), cores),
        "tucker": lambda: tltorch.TuckerTensor(cores[0], cores[1:]),
    }[decomp]()
    torch.testing.assert_close(layer.weight, tensor.to_tensor().reshape(layer.weight.shape), rtol=1e-4, atol=1e-5)
