"""Layout: the multiply-adds are what opt_einsum counts, and the contraction is the one with less work."""

from math import prod
from string import ascii_lowercase, ascii_uppercase

import opt_einsum
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank.formats import FORMATS, Layout, fold, solve


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
