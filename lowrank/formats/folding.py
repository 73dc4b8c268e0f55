"""Folding: a weight matrix as a tensor of `dims` modes, its rows and its columns separately."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import isqrt, prod

from ..errors import whole_number

MOST_DIMS = 32  # more than the prime factors of any weight that fits into memory: modes beyond those are 1


@dataclass(frozen=True)
class Folding:
    """A weight as a tensor: `modes`, of which the first `rows` stand left of the cut."""

    outputs: int
    inputs: int
    modes: tuple[int, ...]
    rows: int

    @property
    def has_cut(self) -> bool:
        """Whether the cut parts outputs from inputs; the original rule folds across it."""
        return prod(self.modes[: self.rows]) == self.outputs

    def __str__(self) -> str:
        sides = self.modes[: self.rows], self.modes[self.rows :]
        return " | ".join(" x ".join(map(str, side)) for side in sides)


def prime_factors(size: int) -> list[int]:
    """Largest first."""
    factors, factor = [], 2
    while size > 1:
        while size % factor == 0:
            factors.append(factor)
            size //= factor
        factor += 1
    return factors[::-1]


def balance_modes(size: int, parts: int, kernel: int = 1) -> list[int]:
    """`parts` modes of nearly equal size whose product is size * kernel; the last one holds the whole kernel."""
    modes = [1] * (parts - 1) + [kernel]
    for factor in prime_factors(size):
        modes[modes.index(min(modes))] *= factor
    return modes


def nearest_divisor(size: int, target: float) -> int:
    small = [divisor for divisor in range(1, isqrt(size) + 1) if size % divisor == 0]
    return min(small + [size // divisor for divisor in small], key=lambda divisor: abs(divisor - target))


@lru_cache(maxsize=4096)
def fold(outputs: int, inputs: int, dims: int, kernel: int = 1, rank_rule: str = "useful") -> Folding:
    """Fold a weight of outputs x (inputs * kernel) into `dims` modes, an odd one going to the longer side.

    `rank_rule` "original" is the 2019 experiments': the flattened weight, each mode the divisor
    nearest to the root of what is left, whether or not it crosses from outputs to inputs. Raises InputError if `dims`
    is not one of 2 to 32.
    """
    dims = whole_number("dims", dims, 2, MOST_DIMS)
    if rank_rule == "original":
        modes, left = [], outputs * inputs * kernel
        for parts in range(dims, 0, -1):
            modes.append(nearest_divisor(left, left ** (1 / parts)))
            left //= modes[-1]
        return Folding(outputs, inputs * kernel, tuple(modes), dims // 2)
    rows = (dims + 1) // 2 if outputs > inputs * kernel else dims // 2
    modes = balance_modes(outputs, rows) + balance_modes(inputs, dims - rows, kernel)
    return Folding(outputs, inputs * kernel, tuple(modes), rows)
