"""Ranks from one number: the `budget` in parameters, or `rank_scale`, over all the layers of a network.

Every +1 of every rank of every layer stands on one path, in the order of the rank rule; a budget walks it as far as
it reaches. Integers only.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod
from typing import NoReturn

from ..errors import InputError
from .folding import Folding
from .format import Format
from .layout import Layout
from .registry import FORMATS

RANK_RULES = ["auto", "useful", "root", "uniform", "original"]  # see `growth`


@dataclass(frozen=True)
class Path:
    """Every +1 of every rank of every layer, in the order of the rank rule, and the parameters after each."""

    start: int
    steps: tuple[tuple[int, int], ...]  # (layer, index of the rank)
    parameters: tuple[int, ...]


def smallest(decomp: str, foldings: Sequence[Folding]) -> list[list[int]]:
    """All ranks 1."""
    return [[1] * len(FORMATS[decomp].largest(folding)) for folding in foldings]


def raise_rank(decomp: str, folding: Folding, ranks: list[int], k: int) -> int:
    """Raise ranks[k] by one, in place; returns the parameters that this adds, always more than 0."""
    shapes = FORMATS[decomp].shapes
    before = sum(map(prod, shapes(folding, ranks)))
    ranks[k] += 1
    return sum(map(prod, shapes(folding, ranks))) - before


def growth(form: Format, folding: Folding, rank_rule: str) -> list[tuple[int, Callable[[int], float]]]:
    """For each rank its limit, and where on the path a rank is raised: the lower, the earlier.

    Over all layers, "useful" raises ranks in proportion to their largest useful values, "root" in proportion to the
    square roots of those, and "uniform" keeps all equal until they reach them. "original" raises them in proportion to
    the caps of the 2019 experiments; a format that does not look at the modes has none, and "useful" is its original.
    "auto" is the format's own.
    """
    rank_rule = form.rank_rule if rank_rule == "auto" else rank_rule
    if rank_rule == "original" and form.uses_dims:
        return [(limit, partial(share_of_path, limit, 1.0)) for limit in form.original(folding)]
    if rank_rule in ("useful", "original"):
        limits = zip(form.largest(folding), form.pace(folding), strict=True)
        return [(limit, partial(share_of_path, limit, pace)) for limit, pace in limits]
    power = {"root": 0.5, "uniform": 0.0}[rank_rule]
    return [(limit, partial(share_of_path, limit**power, 1.0)) for limit in form.largest(folding)]


def share_of_path(unit: float, pace: float, rank: int) -> float:
    return (rank / unit) ** (1 / pace)


@lru_cache(maxsize=256)
def path(decomp: str, foldings: tuple[Folding, ...], rank_rule: str = "auto") -> Path:
    """The one strictly increasing path that both `budget` and `rank_scale` walk, over all layers."""
    steps = sorted(
        (place(rank), limit, layer, k)
        for layer, folding in enumerate(foldings)
        for k, (limit, place) in enumerate(growth(FORMATS[decomp], folding, rank_rule))
        for rank in range(1, limit)
    )
    ranks = smallest(decomp, foldings)
    total = start = sum(Layout(decomp, f, tuple(r)).parameters for f, r in zip(foldings, ranks, strict=True))
    parameters = []
    for _, _, layer, k in steps:
        total += raise_rank(decomp, foldings[layer], ranks[layer], k)
        parameters.append(total)
    return Path(start, tuple(step[2:] for step in steps), tuple(parameters))


def walk_path(decomp: str, foldings: Sequence[Folding], steps: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The ranks after these steps."""
    ranks = smallest(decomp, foldings)
    for (layer, k), count in Counter(steps).items():
        ranks[layer][k] += count
    return ranks


def solve(
    decomp: str,
    foldings: Sequence[Folding],
    *,
    budget: float = 0.0,
    rank_scale: float = 0.0,
    rank_rule: str = "auto",
) -> list[Layout]:
    """The layout of every layer at one `budget` (share of all weights) or `rank_scale` (share of the path).

    Raises InputError if there is no such format or rule, or the format has none of 2019, if the format cannot hold one
    of the weights, or if the budget is below the smallest size that it can have or over the largest.
    """
    if rank_rule not in RANK_RULES:
        raise InputError(f"rank_rule={rank_rule!r}; allowed: {', '.join(RANK_RULES)}")
    if rank_rule == "original" and FORMATS[decomp].uses_dims and type(FORMATS[decomp]).original is Format.original:
        raise InputError(f"rank_rule='original': {decomp} has no ranks of 2019; allowed: {', '.join(RANK_RULES[:-1])}")
    if bool(budget) == bool(rank_scale):
        raise InputError(f"budget={budget!r}, rank_scale={rank_scale!r}; allowed: one of them above 0 and up to 1")
    return list(_solve(decomp, tuple(foldings), budget, rank_scale, rank_rule))


@lru_cache(maxsize=4096)
def _solve(
    decomp: str, foldings: tuple[Folding, ...], budget: float, rank_scale: float, rank_rule: str
) -> tuple[Layout, ...]:
    check_sizes(decomp, foldings)
    way = path(decomp, foldings, rank_rule)
    if rank_scale:
        ranks = walk_path(decomp, foldings, way.steps[: round(rank_scale * len(way.steps))])
    else:
        size = sum(folding.outputs * folding.inputs for folding in foldings)
        ranks = fill_budget(decomp, foldings, way, within(decomp, way, budget, size))
    return tuple(Layout(decomp, f, tuple(r)) for f, r in zip(foldings, ranks, strict=True))


def check_sizes(decomp: str, foldings: Sequence[Folding]) -> None:
    """Raises InputError at the first weight that the format cannot hold."""
    for folding in foldings:
        if reason := FORMATS[decomp].refusal(folding):
            size = f"{folding.outputs} x {folding.inputs}"
            raise InputError(f"decomp={decomp!r} cannot hold a weight of {size}: {reason}")


def refuse_budget(decomp: str, budget: float, least: int, size: int) -> NoReturn:
    """Raises the InputError of a budget that is too small."""
    modes = " with these modes" if FORMATS[decomp].uses_dims else ""
    raise InputError(
        f"budget={budget}: the smallest {decomp}{modes} has {least:,} of {size:,} parameters, "
        + (f"allowed is {least / size:.4f} or more" if least < size else "no budget allows it")
    )


def within(decomp: str, way: Path, budget: float, size: int) -> int:
    """The budget in parameters; raises InputError, naming what is possible, if the path does not come near it."""
    limit = int(budget * size + 1e-6)
    end = way.parameters[-1] if way.parameters else way.start
    if limit < way.start:
        refuse_budget(decomp, budget, way.start, size)
    if end < 0.99 * limit:
        raise InputError(
            f"budget={budget}: the largest {decomp} has {end:,} of {size:,} parameters, "
            f"allowed is {end / size:.4f} or less"
        )
    return limit


def fill_budget(decomp: str, foldings: Sequence[Folding], way: Path, limit: int) -> list[list[int]]:
    """The ranks at `limit` parameters: along the path up to it, then every later step that still fits.

    A step that does not fit never will, as steps only grow with the ranks around them: one pass is
    enough, nothing that is left fits, and a larger limit never makes a smaller network.
    """
    walk = bisect_right(way.parameters, limit)
    ranks = walk_path(decomp, foldings, way.steps[:walk])
    left = limit - (way.parameters[walk - 1] if walk else way.start)
    open_steps = set(way.steps[walk:])
    for layer, k in way.steps[walk:]:
        if not open_steps:
            break
        if (layer, k) not in open_steps:
            continue
        added = raise_rank(decomp, foldings[layer], ranks[layer], k)
        if added <= left:
            left -= added
        else:
            ranks[layer][k] -= 1
            open_steps.discard((layer, k))
    return ranks
