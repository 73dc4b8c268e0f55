"""Products and sums of products: the bottleneck, CP (Kolda & Bader 2009), Tucker with a dense core (Tucker 1966)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor

from .als import fit_cp, khatri_rao
from .fits import fit_bottleneck, fit_tucker
from .format import Format


class Bottleneck(Format):
    """W = L @ R with rank r; r = OI / (O + I) holds as many parameters as W."""

    uses_dims = False
    rank_rule = "uniform"

    def largest(self, folding):
        return (max(1, folding.outputs * folding.inputs // (folding.outputs + folding.inputs)),)

    def shapes(self, folding, ranks):
        return [(folding.outputs, ranks[0]), (ranks[0], folding.inputs)]

    def inner(self, folding, ranks):
        return ranks[0]

    def factors(self, cores, folding):
        left, right = cores  # [O, r], [r, I]
        return left, right

    def fit(self, weight, folding, ranks):
        return fit_bottleneck(weight, ranks)

    def cuts(self, folding):
        return [(range(folding.rows), (0,))]


class CP(Format):
    """A sum of R rank-one tensors; factors n[k] x R; R = OI / sum(n) holds as many parameters as W."""

    rank_rule = "root"

    def largest(self, folding):
        return (max(1, folding.outputs * folding.inputs // sum(folding.modes)),)

    def original(self, folding):
        return (min(folding.modes),)

    def shapes(self, folding, ranks):
        return [(mode, ranks[0]) for mode in folding.modes]

    def inner(self, folding, ranks):
        return ranks[0]

    def factors_work(self, folding, ranks):
        modes, rows = folding.modes, folding.rows
        return ranks[0] * (running_products(modes[:rows]) + running_products(modes[rows:]))

    def factors(self, cores, folding):
        left = khatri_rao(cores[: folding.rows])  # [O, R]
        right = khatri_rao(cores[folding.rows :])  # [I, R]
        return left, right.T  # [O, R], [R, I]

    def fit(self, weight, folding, ranks):
        return fit_cp(weight.reshape(folding.modes), ranks)


class Tucker(Format):
    """A dense core t[1] x ... x t[d] and a factor n[k] x t[k] for every mode; ranks are t."""

    rank_rule = "uniform"

    def largest(self, folding):
        size = prod(folding.modes)
        return tuple(min(mode, size // mode) for mode in folding.modes)

    def original(self, folding):
        return folding.modes

    def pace(self, folding):
        """The products of both sides keep pace: a rank above the product of all others is of no use."""
        left, right = folding.rows, len(folding.modes) - folding.rows
        return (*[1 / left] * left, *[1 / right] * right)

    def shapes(self, folding, ranks):
        return [tuple(ranks), *zip(folding.modes, ranks, strict=True)]

    def inner(self, folding, ranks):
        return min(prod(ranks[: folding.rows]), prod(ranks[folding.rows :]))

    def factors_work(self, folding, ranks):
        sides = [slice(None, folding.rows), slice(folding.rows, None)]
        if prod(ranks[sides[0]]) > prod(ranks[sides[1]]):
            sides = sides[::-1]
        (thin, wide), inner = sides, self.inner(folding, ranks)
        outer = running_products([mode * rank for mode, rank in zip(folding.modes[thin], ranks[thin], strict=True)])
        modes, ranks = folding.modes[wide], ranks[wide]
        return outer + sum(inner * prod(modes[: k + 1]) * prod(ranks[k:]) for k in range(len(modes)))

    def factors(self, cores, folding):
        core, left, right = cores[0], cores[1 : folding.rows + 1], cores[folding.rows + 1 :]
        core = core.flatten(0, folding.rows - 1).flatten(1)  # [t over outputs, t over inputs]
        if core.shape[0] <= core.shape[1]:
            return kronecker(left), expand(core, right)  # [O, m], [m, I]
        return expand(core.T, left).T, kronecker(right).T  # [O, m], [m, I]

    def splits(self, folding, ranks):
        return [folding.rows] + [1] * len(folding.modes)

    def fit(self, weight, folding, ranks):
        return fit_tucker(weight.reshape(folding.modes), ranks)

    def cuts(self, folding):
        return [((k,), (k,)) for k in range(len(folding.modes))]


def running_products(sizes: Sequence[int]) -> int:
    """The sum of the running products, without the first: the elements of an outer product made step by step."""
    return sum(prod(sizes[: k + 1]) for k in range(1, len(sizes)))


def kronecker(factors: Sequence[Tensor]) -> Tensor:
    """The Kronecker product of one side's Tucker factors [n[k], t[k]]: [n1 ... n[k], t1 ... t[k]]."""
    product = factors[0]  # [n1, t1]
    for factor in factors[1:]:
        product = product[:, None, :, None] * factor[None, :, None, :]  # [n1 ..., n[k], t1 ..., t[k]]
        product = product.flatten(2).flatten(0, 1)  # [n1 ... n[k], t1 ... t[k]]
    return product


def expand(core: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """Mode products of a core [m, t1 ... t[k]] with [n[k], t[k]] over all but its first mode: [m, n1 ... n[k]]."""
    width = core.shape[0]
    for factor in factors:  # takes the first of the other modes and puts its product last
        core = core.reshape(width, factor.shape[1], -1).transpose(1, 2)  # [m, t[k+1] ... n[k-1], t[k]]
        core = core @ factor.T  # [m, t[k+1] ... n[k-1], n[k]]
    return core.reshape(width, -1)  # [m, n1 ... n[k]]
