"""Where a budget is best spent: the ranks of every layer, from the weights that are to be approximated.

A rank bounds the rank of a matrix: the weight, unfolded along a cut through the format. The singular values of that
matrix say which share of the weight's energy any rank keeps there. What is minimised is the sum of -log(kept) over all
cuts of all layers: shares multiply, from cut to cut and from layer to layer, as signals do that pass through them.

A layer walks down from its largest ranks, each time by the step that loses least for the parameters that it saves. No
place on the way is larger than the weight, which loses nothing as it is: the last place is the layer left dense. The
budget is then spent over the layers along the convex hulls of these walks, and what is left rank by rank.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from ..formats import FORMATS, Folding, Layout, fold, path, walk_path
from ..formats.budget import refuse_budget
from ..formats.fits import leading, project, unfold, widen
from ..formats.folding import balance_modes

STRIDE = 16  # a step of a walk lowers a rank by its 16th, as some 80 steps do from 1,000 to 1
FLOOR = 1e-12  # the least share that counts as kept, and the least loss that counts as one


def measure_energies(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    """The squared singular values of the unfolding with these modes as rows, largest first."""
    columns = [axis for axis in range(tensor.dim()) if axis not in rows]
    matrix = tensor.permute(*rows, *columns).reshape(prod(tensor.shape[axis] for axis in rows), -1)
    small = (matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T).double()
    return torch.linalg.eigvalsh(small @ small.T).flip(0).clamp_min(0)


def measure_terms(tensor: Tensor) -> Tensor:
    """The squares of the entries of the HOSVD's core, largest first: energies of a sum of rank-one tensors."""
    factors = [leading(unfold(tensor, axis), mode) for axis, mode in enumerate(tensor.shape)]
    return project(tensor, factors).abs().flatten().sort(descending=True).values.double().square()


def list_losses(energies: Tensor, most: int) -> list[float]:
    """-log of the share that the first 0, 1, 2 ... up to `most` energies keep."""
    kept = energies.cumsum(0)
    shares = torch.cat([kept.new_zeros(1), kept[:most]]) / kept[-1].clamp_min(torch.finfo(kept.dtype).tiny)
    losses = -shares.clamp(FLOOR, 1).log()
    return losses.where(losses > FLOOR, 0.0).tolist()


class Point(NamedTuple):
    """One place on a walk; without an option the layer is left dense."""

    size: int
    loss: float
    ranks: tuple[int, ...] = ()
    option: Option | None = None

    @property
    def layout(self) -> Layout | None:
        return self.option and Layout(self.option.decomp, self.option.folding, self.ranks)


class Option:
    """One way to hold a layer, in one format and folding: what any ranks lose and how many parameters they take."""

    def __init__(self, decomp: str, folding: Folding, weight: Tensor) -> None:
        self.decomp, self.folding, self.form = decomp, folding, FORMATS[decomp]
        self.largest = self.form.largest(folding)
        self.weights = weight.numel()
        tensor = widen(weight).reshape(folding.modes)
        cuts = self.form.cuts(folding)
        self.cuts = [(which, list_losses(measure_energies(tensor, rows), tensor.numel())) for rows, which in cuts]
        self.terms = [] if cuts else list_losses(measure_terms(tensor), self.size(self.largest) // sum(tensor.shape))
        self.bonds = self.find_bonds()

    def size(self, ranks: Sequence[int]) -> int:
        return sum(map(prod, self.form.shapes(self.folding, ranks)))

    def loss(self, ranks: Sequence[int]) -> float:
        """Without cuts, that of the sum of rank-one tensors which takes as many parameters, or lies between two."""
        if self.terms:
            term, rest = divmod(self.size(ranks), sum(self.folding.modes))
            here, after = (self.terms[min(each, len(self.terms) - 1)] for each in (term, term + 1))
            return here + (after - here) * rest / sum(self.folding.modes)
        return sum(losses[min(prod(ranks[k] for k in which), len(losses) - 1)] for which, losses in self.cuts)

    def point(self, ranks: Sequence[int]) -> Point:
        return Point(self.size(ranks), self.loss(ranks), tuple(ranks), self)

    def find_bonds(self) -> list[tuple[int, list[int]]]:
        """Each rank that joins two cores, and which two."""
        shapes = self.form.shapes(self.folding, self.largest)
        bonds = []
        for k in (k for k, rank in enumerate(self.largest) if rank > 1):
            lowered = self.form.shapes(self.folding, replace_rank(self.largest, k, self.largest[k] - 1))
            cores = [core for core, (own, other) in enumerate(zip(shapes, lowered, strict=True)) if own != other]
            bonds += [(k, cores)] if len(cores) == 2 else []
        return bonds

    def trim(self, ranks: Sequence[int]) -> tuple[int, ...]:
        """Without what no weight can use: at a bond, a core is no longer than all its other axes together."""
        trimmed = list(ranks)
        for k, cores in self.bonds:
            shapes = self.form.shapes(self.folding, trimmed)
            trimmed[k] = min(trimmed[k], *(prod(shapes[core]) // trimmed[k] for core in cores))
        return tuple(trimmed) if trimmed == list(ranks) else self.trim(trimmed)

    @cached_property
    def walked(self) -> list[Point]:
        """From the largest ranks down to all ones."""
        return list(map(self.point, self.follow_path() if self.terms else self.descend()))

    def follow_path(self) -> Iterator[Sequence[int]]:
        """The ranks along the even path, if the loss does not tell them apart."""
        steps = path(self.decomp, (self.folding,)).steps
        count = len(steps)
        while count:
            yield walk_path(self.decomp, (self.folding,), steps[:count])[0]
            count -= max(1, count // STRIDE)
        yield (1,) * len(self.largest)

    def descend(self) -> Iterator[Sequence[int]]:
        """The ranks after each step that loses least for the parameters that it saves."""
        ranks = self.trim(self.largest)
        yield ranks
        while max(ranks) > 1:
            here, steps = self.point(ranks), []
            for k, rank in enumerate(ranks):
                if rank > 1:
                    there = self.point(replace_rank(ranks, k, rank - max(1, rank // STRIDE)))
                    steps.append(((there.loss - here.loss) / (here.size - there.size), there.ranks))
            ranks = self.trim(min(steps)[1])
            yield ranks

    def raises(self, here: Point, left: int) -> list[Point]:
        """Where each rank grows by one, if that loses less and takes at most `left`.

        Where no rank is of use alone, each grows with those that have to; where nothing fits a format without cuts, it
        goes on further up the walk.
        """
        open_ranks = [k for k, largest in enumerate(self.largest) if here.ranks[k] < largest]
        alone = [replace_rank(here.ranks, k, here.ranks[k] + 1) for k in open_ranks]
        useful = [ranks for ranks in alone if self.trim(ranks) == ranks]
        together = filter(None, (self.raise_together(here.ranks, k) for k in open_ranks))
        most = min(here.size + left, self.weights)
        fitting = [
            point for point in map(self.point, useful or together) if point.size <= most and loses_less(here, point)
        ]
        if fitting or not self.terms:
            return fitting
        return [point for point in self.walked if here.size < point.size <= most and loses_less(here, point)]

    def raise_together(self, ranks: Sequence[int], first: int) -> tuple[int, ...] | None:
        """One rank and those at its cores without which it is of no use, each grown by one; None if they cannot."""
        raised = [first]
        while True:
            there = tuple(rank + (k in raised) for k, rank in enumerate(ranks))
            trimmed = self.trim(there)
            if trimmed == there:
                return there
            short = {core for k, cores in self.bonds for core in cores if trimmed[k] < there[k]}
            beside = [k for k, cores in self.bonds if short & set(cores) and k not in raised]
            growing = [k for k in beside if ranks[k] < self.largest[k]]
            if not growing:
                return None
            raised.append(growing[0])


def replace_rank(ranks: Sequence[int], k: int, rank: int) -> tuple[int, ...]:
    return (*ranks[:k], rank, *ranks[k + 1 :])


def loses_less(before: Point, after: Point) -> bool:
    return before.loss - after.loss > FLOOR


def keep_best(points: Iterable[Point]) -> list[Point]:
    """Those that lose less than every smaller one, by size."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: point[:2]):
        if not best or point.loss < best[-1].loss:
            best.append(point)
    return best


def find_hull(points: Sequence[Point]) -> list[Point]:
    """Those on the lower convex hull: the gain for a parameter falls from each to the next."""
    hull: list[Point] = []
    for point in points:
        while len(hull) > 1 and rate_gain(hull[-2], hull[-1]) <= rate_gain(hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def rate_gain(before: Point, after: Point) -> float:
    return (before.loss - after.loss) / (after.size - before.size)


def list_walks(decomp: str, weights: Sequence[Tensor], foldings: Sequence[Sequence[Folding]]) -> Iterator[list[Point]]:
    """The best points of each layer over all foldings that it may have, none larger than the weight if one is not."""
    for weight, choices in zip(weights, foldings, strict=True):
        points = keep_best(point for folding in choices for point in Option(decomp, folding, weight).walked)
        yield [point for point in points if point.size <= weight.numel()] or points[:1]


def spend_budget(
    decomp: str, weights: Sequence[Tensor], foldings: Sequence[Sequence[Folding]], budget: float
) -> list[Layout | None]:
    """The layout of every layer, each in one of its foldings; None for one that is best left dense, if others are not.

    All together stay within `budget`, a share of all weights. Raises ValueError if even ranks of one are over it; above
    all that is useful nothing more is spent.
    """
    walks = list(list_walks(decomp, weights, foldings))
    ends = [Point(weight.numel(), 0.0) for weight in weights]
    longer = [keep_best([*walk, end]) for walk, end in zip(walks, ends, strict=True)]
    layouts = spend(decomp, longer, weights, budget)
    return layouts if any(layouts) else spend(decomp, walks, weights, budget)


def spend(
    decomp: str, walks: Sequence[Sequence[Point]], weights: Sequence[Tensor], budget: float
) -> list[Layout | None]:
    """What `spend_budget` gives, along these walks."""
    hulls = [find_hull(points) for points in walks]
    size, least = sum(weight.numel() for weight in weights), sum(hull[0].size for hull in hulls)
    left = int(budget * size + 1e-6) - least
    if left < 0:
        refuse_budget(decomp, budget, least, size)
    chosen = [hull[0] for hull in hulls]
    steps = [(-rate_gain(*pair), layer, pair[1]) for layer, hull in enumerate(hulls) for pair in pairwise(hull)]
    for _, layer, after in sorted(steps, key=lambda step: step[:2]):
        taken = after.size - chosen[layer].size
        if taken <= left:  # also past a step that was too large: then by two at once
            chosen[layer], left = after, left - taken
    return [point.layout for point in fill_gap(chosen, left)]


def fill_gap(chosen: Sequence[Point], left: int) -> list[Point]:
    """Raise ranks, those that gain most first, until none is left that gains and fits."""
    filled, heap = list(chosen), []

    def offer(layer: int) -> None:
        here = filled[layer]
        if here.option and (raises := here.option.raises(here, left)):
            best = max(raises, key=lambda there: (rate_gain(here, there), there.size, there.ranks))
            heapq.heappush(heap, (-rate_gain(here, best), layer, best))

    for layer in range(len(filled)):
        offer(layer)
    while heap:
        _, layer, best = heapq.heappop(heap)
        taken = best.size - filled[layer].size
        if taken <= left:
            filled[layer], left = best, left - taken
        offer(layer)
    return filled


def meet_error(
    decomp: str,
    weights: Sequence[Tensor],
    foldings: Sequence[Sequence[Folding]],
    error: float,
    measure: Callable[[int, Layout], float],
) -> Iterator[Layout | None]:
    """The smallest layout of each layer whose relative error, as measured, is at most `error`; None if none is smaller
    than the weight. `measure` takes the number of the layer and a layout, and fits it.
    """
    for layer, points in enumerate(list_walks(decomp, weights, foldings)):
        layouts = [point.layout for point in points if point.size < weights[layer].numel()]
        place = bisect_left(layouts, True, key=lambda layout: measure(layer, layout) <= error)  # noqa: B023
        yield layouts[place] if place < len(layouts) else None


def list_foldings(decomp: str, outputs: int, inputs: int, dims: int, kernel: int) -> list[Folding]:
    """The balanced folding and, for a kernel, the one with the kernel as a mode of its own: O x I x height * width.

    Only if cuts tell them apart: chosen by `measure_terms`, a folding of CP or of a ring was as often worse as better.
    """
    foldings = [fold(outputs, inputs, dims, kernel)]
    if kernel > 1 and dims > 2 and len(FORMATS[decomp].cuts(foldings[0])) > 1:
        rows = dims // 2 if outputs > inputs else (dims - 1) // 2
        modes = [*balance_modes(outputs, rows), *balance_modes(inputs, dims - 1 - rows), kernel]
        foldings.append(Folding(outputs, inputs * kernel, tuple(modes), rows))
    refused = foldings[-1] == foldings[0] or FORMATS[decomp].refusal(foldings[-1])
    return foldings[:1] if refused else foldings
