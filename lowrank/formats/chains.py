"""Chains of cores: the tensor train (Oseledets 2011), the ring (Zhao et al. 2016), a Tucker whose core is a train.

A core [r[k-1], n[k], r[k]] is joined to its neighbours by the ranks r, the bonds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import isqrt, prod

from torch import Tensor

from .als import fit_ring
from .fits import fit_tt, fit_tucker_tt
from .folding import Folding
from .format import Format


class TensorTrain(Format):
    """Cores r[k-1] x n[k] x r[k] with r[0] = r[d] = 1; ranks are the dims - 1 bonds between them."""

    rank_rule = "root"

    def largest(self, folding):
        modes = folding.modes
        return tuple(min(prod(modes[:k]), prod(modes[k:])) for k in range(1, len(modes)))

    def original(self, folding):
        return neighbours(folding.modes)

    def shapes(self, folding, ranks):
        bonds = (1, *ranks, 1)
        return list(zip(bonds, folding.modes, bonds[1:], strict=False))

    def inner(self, folding, ranks):
        return ranks[folding.rows - 1]

    def factors_work(self, folding, ranks):
        return join_sides_work(folding, (1, *ranks, 1))

    def weight_work(self, folding, ranks):
        return cheapest(folding.modes, (1, *ranks, 1))[0]

    def factors(self, cores, folding):
        left, right = join_sides(cores, folding)  # [1, O, r[cut]], [r[cut], I, 1]
        return left[0], right[..., 0]  # [O, r[cut]], [r[cut], I]

    def weight(self, cores, folding):
        return join(cores).reshape(folding.outputs, -1)  # [O, I]

    def splits(self, folding, ranks):
        return towards_the_cut(folding)

    def fit(self, weight, folding, ranks):
        return fit_tt(weight.reshape(folding.modes), ranks)

    def cuts(self, folding):
        return [(range(k), (k - 1,)) for k in range(1, len(folding.modes))]


class Ring(Format):
    """A tensor train with r[d] = r[0] > 1; ranks are r[0] ... r[d-1], the first one closing the ring."""

    rank_rule = "root"

    def largest(self, folding):
        """Equal ranks, then single ones raised while the ring stays no larger than the weight."""
        size = folding.outputs * folding.inputs
        ranks = [max(1, isqrt(size // sum(folding.modes)))] * len(folding.modes)
        for k in range(len(ranks)):
            raised = [rank + (j == k) for j, rank in enumerate(ranks)]
            if sum(map(prod, self.shapes(folding, raised))) <= size:
                ranks = raised
        return tuple(ranks)

    def original(self, folding):
        return neighbours((folding.modes[-1], *folding.modes))

    def shapes(self, folding, ranks):
        return list(zip(ranks, folding.modes, (*ranks[1:], ranks[0]), strict=True))

    def inner(self, folding, ranks):
        return ranks[0] * ranks[folding.rows]

    def factors_work(self, folding, ranks):
        return join_sides_work(folding, (*ranks, ranks[0]))

    def factors(self, cores, folding):
        left, right = join_sides(cores, folding)  # [r0, O, r[cut]], [r[cut], I, r0]
        left = left.transpose(0, 1).flatten(1)  # [O, r0 * r[cut]]
        return left, right.permute(2, 0, 1).flatten(0, 1)  # [O, r0 * r[cut]], [r0 * r[cut], I]

    def splits(self, folding, ranks):
        return towards_the_cut(folding)

    def fit(self, weight, folding, ranks):
        return fit_ring(weight.reshape(folding.modes), ranks)


class TuckerTT(TensorTrain):
    """Tucker whose core is a tensor train; ranks are t[1] ... t[d], then the core's dims - 1 bonds.

    Its cores are the factors n[k] x t[k], then the cores r[k-1] x t[k] x r[k] of the train.
    """

    rank_rule = "uniform"

    def largest(self, folding):
        bonds = (1, *super().largest(folding), 1)
        return (*map(min, folding.modes, map(int.__mul__, bonds, bonds[1:])), *bonds[1:-1])

    def original(self, folding):
        return (*folding.modes, *neighbours(folding.modes))

    def pace(self, folding):
        """Tucker ranks run ahead of the bonds: a bond above the product of its side's Tucker ranks is of no use."""
        left, right = folding.rows, len(folding.modes) - folding.rows
        bonds = [*side_pace(left), *side_pace(right)[-2::-1]]
        return (*[side_pace(left)[0]] * left, *[side_pace(right)[0]] * right, *bonds)

    def shapes(self, folding, ranks):
        dims = len(folding.modes)
        bonds = (1, *ranks[dims:], 1)
        return [*zip(folding.modes, ranks, strict=False), *zip(bonds, ranks[:dims], bonds[1:], strict=False)]

    def inner(self, folding, ranks):
        return super().inner(folding, ranks[len(folding.modes) :])

    def factors_work(self, folding, ranks):
        return self.merge_work(folding, ranks) + super().factors_work(folding, ranks[len(folding.modes) :])

    def weight_work(self, folding, ranks):
        return self.merge_work(folding, ranks) + super().weight_work(folding, ranks[len(folding.modes) :])

    def merge_work(self, folding: Folding, ranks: Sequence[int]) -> int:
        """Multiply-adds of `merge`."""
        dims = len(folding.modes)
        bonds = (1, *ranks[dims:], 1)
        return sum(bonds[k] * folding.modes[k] * ranks[k] * bonds[k + 1] for k in range(dims))

    def merge(self, cores: Sequence[Tensor]) -> list[Tensor]:
        """The cores of the tensor train that all the cores make."""
        dims = len(cores) // 2
        return [factor @ core for factor, core in zip(cores[:dims], cores[dims:], strict=True)]  # [r[k-1], n[k], r[k]]

    def factors(self, cores, folding):
        return super().factors(self.merge(cores), folding)  # [O, r[cut]], [r[cut], I]

    def weight(self, cores, folding):
        return super().weight(self.merge(cores), folding)  # [O, I]

    def splits(self, folding, ranks):
        return [1] * len(folding.modes) + towards_the_cut(folding)

    def fit(self, weight, folding, ranks):
        return fit_tucker_tt(weight.reshape(folding.modes), ranks)

    def cuts(self, folding):
        dims = len(folding.modes)
        bonds = [(rows, (dims + bond,)) for rows, (bond,) in super().cuts(folding)]
        return [((k,), (k,)) for k in range(dims)] + bonds


# --- ranks


def neighbours(modes: Sequence[int]) -> tuple[int, ...]:
    """The smaller of each two modes that stand side by side."""
    return tuple(map(min, modes, modes[1:]))


def side_pace(modes: int) -> list[float]:
    """The pace of one side's bonds, from its end to the cut; its Tucker ranks keep the pace of the first."""
    first = 1.0 if modes == 1 else 0.5 / modes
    return [first + (1 - first) * k / max(1, modes - 1) for k in range(modes)]


def towards_the_cut(folding: Folding) -> list[int]:
    """The `splits` of a chain whose cores are orthonormal towards the cut, from both ends."""
    return [2] * folding.rows + [1] * (len(folding.modes) - folding.rows)


# --- joining neighbours in the cheapest order


@lru_cache(maxsize=4096)
def cheapest(modes: tuple[int, ...], bonds: tuple[int, ...]) -> tuple[int, int]:
    """Multiply-adds of joining a chain of cores (bonds[k], modes[k], bonds[k + 1]), and where its last product is.

    Every product joins two neighbours: the matrix chain problem (Godbole 1973).
    """
    if len(modes) == 1:
        return 0, 0
    ends = bonds[0] * prod(modes) * bonds[-1]
    parts = [(modes[:k], bonds[: k + 1], modes[k:], bonds[k:]) for k in range(1, len(modes))]
    costs = [cheapest(left, b)[0] + cheapest(right, c)[0] + ends * c[0] for left, b, right, c in parts]
    return min(zip(costs, range(1, len(modes)), strict=True))


def last_product(modes: tuple[int, ...], bonds: tuple[int, ...]) -> int:
    return cheapest(modes, bonds)[1]


# Integers only: not for a compiler to trace. torch.compiler.assume_constant_result sets just this, but importing it
# takes nearly as long as importing torch.
last_product._dynamo_marked_constant = True


def join(cores: Sequence[Tensor]) -> Tensor:
    """A chain of cores [r[k-1], n[k], r[k]] as one: [r[0], n1 ... n[d], r[d]]."""
    if len(cores) == 1:
        return cores[0]  # [r0, n1, r1]
    bonds = (cores[0].shape[0], *(core.shape[2] for core in cores))
    cut = last_product(tuple(core.shape[1] for core in cores), bonds)
    left, right = join(cores[:cut]), join(cores[cut:])  # [r0, n1 ... n[k], r[k]], [r[k], n[k+1] ... n[d], r[d]]
    product = left.flatten(0, 1) @ right.flatten(1)  # [r0 * n1 ... n[k], n[k+1] ... n[d] * r[d]]
    return product.reshape(bonds[0], -1, bonds[-1])  # [r0, n1 ... n[d], r[d]]


def join_sides(cores: Sequence[Tensor], folding: Folding) -> tuple[Tensor, Tensor]:
    """What is left of the cut, [r[0], O, r[cut]], and what is right of it, [r[cut], I, r[d]]."""
    return join(cores[: folding.rows]), join(cores[folding.rows :])


def join_sides_work(folding: Folding, bonds: tuple[int, ...]) -> int:
    """Multiply-adds of `join_sides`."""
    modes, rows = folding.modes, folding.rows
    return cheapest(modes[:rows], bonds[: rows + 1])[0] + cheapest(modes[rows:], bonds[rows:])[0]
