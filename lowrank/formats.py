"""The arithmetic of tensor formats: folding, ranks, parameter counts, multiply-adds, the budget. Integers only.

A weight of `outputs` x `inputs` (a convolution kernel counts as inputs: in_channels * height * width) is
folded into `dims` modes, its rows and its columns separately, so that a cut between them exists and
W = L @ R, L of outputs x m, R of m x inputs, with the inner width m. Formats after Oseledets (2011,
tensor train), Zhao et al. (2016, tensor ring), Tucker (1966) and Kolda & Bader (2009, CP).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import isqrt, prod

RANK_RULES = ["useful", "root", "uniform", "original"]  # see `growth`

# What else costs time, in multiply-adds: measured on 2 CPU cores (`make bench`), where two thin products break even
# at m = 0.39 to 0.45, 0.43 to 0.44 and 0.47 to 0.54 C for C = 128, 256 and 512 (AMD without, Intel with AVX-512), not
# at the 0.5 that counting the products alone says.
MOVED = 60  # a number that is written or read between the two thin products
POSITIONS = 2048  # positions of a batch that share what is built once a step


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


def prime_factors(size: int) -> list[int]:
    """Largest first."""
    factors, factor = [], 2
    while size > 1:
        while size % factor == 0:
            factors.append(factor)
            size //= factor
        factor += 1
    return factors[::-1]


def balanced(size: int, parts: int, kernel: int = 1) -> list[int]:
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
    nearest to the root of what is left, whether or not it crosses from outputs to inputs.
    """
    if rank_rule == "original":
        modes, left = [], outputs * inputs * kernel
        for parts in range(dims, 0, -1):
            modes.append(nearest_divisor(left, left ** (1 / parts)))
            left //= modes[-1]
        return Folding(outputs, inputs * kernel, tuple(modes), dims // 2)
    rows = (dims + 1) // 2 if outputs > inputs * kernel else dims // 2
    modes = balanced(outputs, rows) + balanced(inputs, dims - rows, kernel)
    return Folding(outputs, inputs * kernel, tuple(modes), rows)


class Format:
    """What a decomposition answers about itself. Ranks are tuples of positive integers.

    A format with `inner` None has no thin factors and is always contracted into its weight.
    """

    def largest(self, folding: Folding) -> tuple[int, ...]:
        """The largest useful ranks."""
        raise NotImplementedError

    def original(self, folding: Folding) -> tuple[int, ...]:
        """The largest ranks of the 2019 experiments: capped by the neighbouring modes."""
        return self.largest(folding)

    def pace(self, folding: Folding) -> tuple[float, ...]:
        """How each rank grows: at a share s of the way it is s ** pace of its largest."""
        return (1.0,) * len(self.largest(folding))

    def shapes(self, folding: Folding, ranks: Sequence[int]) -> list[tuple[int, ...]]:
        """The shapes of the cores, in order."""
        raise NotImplementedError

    def inner(self, folding: Folding, ranks: Sequence[int]) -> int | None:
        """m, the width of the two thin factors."""
        return None

    def build(self, folding: Folding, ranks: Sequence[int]) -> int:
        """Multiply-adds that make the two thin factors from the cores, once a step."""
        return 0

    def weigh(self, folding: Folding, ranks: Sequence[int]) -> int:
        """Multiply-adds that make the weight from the cores, once a step."""
        inner = self.inner(folding, ranks)
        return self.build(folding, ranks) + (inner or 0) * folding.outputs * folding.inputs


def neighbours(modes: Sequence[int]) -> tuple[int, ...]:
    return tuple(map(min, modes, modes[1:]))


@lru_cache(maxsize=4096)
def cheapest(modes: tuple[int, ...], bonds: tuple[int, ...]) -> tuple[int, int]:
    """Multiply-adds of contracting a chain of cores (bonds[k], modes[k], bonds[k + 1]), and where its last product is.

    Every product joins two neighbours: the matrix chain problem (Godbole 1973).
    """
    if len(modes) == 1:
        return 0, 0
    ends = bonds[0] * prod(modes) * bonds[-1]
    parts = [(modes[:k], bonds[: k + 1], modes[k:], bonds[k:]) for k in range(1, len(modes))]
    costs = [cheapest(left, b)[0] + cheapest(right, c)[0] + ends * c[0] for left, b, right, c in parts]
    return min(zip(costs, range(1, len(modes)), strict=True))


def halves(modes: tuple[int, ...], rows: int, bonds: tuple[int, ...]) -> int:
    """Multiply-adds of contracting a chain of cores from both ends to the cut."""
    return cheapest(modes[:rows], bonds[: rows + 1])[0] + cheapest(modes[rows:], bonds[rows:])[0]


class Bottleneck(Format):
    """W = L @ R with rank r; r = OI / (O + I) holds as many parameters as W."""

    def largest(self, folding):
        return (max(1, folding.outputs * folding.inputs // (folding.outputs + folding.inputs)),)

    def shapes(self, folding, ranks):
        return [(folding.outputs, ranks[0]), (ranks[0], folding.inputs)]

    def inner(self, folding, ranks):
        return ranks[0]


class TensorTrain(Format):
    """Cores r[k-1] x n[k] x r[k] with r[0] = r[d] = 1; ranks are the dims - 1 bonds between them."""

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

    def build(self, folding, ranks):
        return halves(folding.modes, folding.rows, (1, *ranks, 1))

    def weigh(self, folding, ranks):
        return cheapest(folding.modes, (1, *ranks, 1))[0]


class Ring(Format):
    """A tensor train with r[d] = r[0] > 1; ranks are r[0] ... r[d-1], the first one closing the ring."""

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

    def build(self, folding, ranks):
        return halves(folding.modes, folding.rows, (*ranks, ranks[0]))


class CP(Format):
    """A sum of R rank-one tensors; factors n[k] x R; R = OI / sum(n) holds as many parameters as W."""

    def largest(self, folding):
        return (max(1, folding.outputs * folding.inputs // sum(folding.modes)),)

    def original(self, folding):
        return (min(folding.modes),)

    def shapes(self, folding, ranks):
        return [(mode, ranks[0]) for mode in folding.modes]

    def inner(self, folding, ranks):
        return ranks[0]

    def build(self, folding, ranks):
        modes, rows = folding.modes, folding.rows
        products = [prod(modes[: k + 1]) for k in range(1, rows)]
        products += [prod(modes[rows : k + 1]) for k in range(rows + 1, len(modes))]
        return ranks[0] * sum(products)


class Tucker(Format):
    """A dense core t[1] x ... x t[d] and a factor n[k] x t[k] for every mode; ranks are t."""

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

    def build(self, folding, ranks):
        sides = [slice(None, folding.rows), slice(folding.rows, None)]
        if prod(ranks[sides[0]]) > prod(ranks[sides[1]]):
            sides = sides[::-1]
        (thin, wide), inner = sides, self.inner(folding, ranks)
        outer = zip(folding.modes[thin], ranks[thin], strict=True)
        kronecker = running([mode * rank for mode, rank in outer])
        modes, ranks = folding.modes[wide], ranks[wide]
        return kronecker + sum(inner * prod(modes[: k + 1]) * prod(ranks[k:]) for k in range(len(modes)))


def running(sizes: Sequence[int]) -> int:
    """The sum of the running products, without the first: the elements of an outer product made step by step."""
    return sum(prod(sizes[: k + 1]) for k in range(1, len(sizes)))


def side_pace(modes: int) -> list[float]:
    """Of the bonds of one side, from its end to the cut; its Tucker ranks keep the pace of the first."""
    first = 1.0 if modes == 1 else 0.5 / modes
    return [first + (1 - first) * k / max(1, modes - 1) for k in range(modes)]


class TuckerTT(TensorTrain):
    """Tucker whose core is a tensor train; ranks are t[1] ... t[d], then the core's dims - 1 bonds."""

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
        return ranks[len(folding.modes) + folding.rows - 1]

    def build(self, folding, ranks):
        dims = len(folding.modes)
        return self.train(folding, ranks) + super().build(folding, ranks[dims:])

    def weigh(self, folding, ranks):
        dims = len(folding.modes)
        return self.train(folding, ranks) + super().weigh(folding, ranks[dims:])

    def train(self, folding, ranks):
        """Multiply-adds that make the cores of a tensor train from the factors and the cores of the core."""
        dims = len(folding.modes)
        bonds = (1, *ranks[dims:], 1)
        return sum(bonds[k] * folding.modes[k] * ranks[k] * bonds[k + 1] for k in range(dims))


FORMATS: dict[str, Format] = {
    "bottleneck": Bottleneck(),
    "tt": TensorTrain(),
    "tucker": Tucker(),
    "tucker_tt": TuckerTT(),
    "cp": CP(),
    "ring": Ring(),
}


@dataclass(frozen=True)
class Layout:
    """One weight held in one format: all that a layer needs to know to hold it."""

    decomp: str
    folding: Folding
    ranks: tuple[int, ...]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the cores, in order."""
        return FORMATS[self.decomp].shapes(self.folding, self.ranks)

    @property
    def parameters(self) -> int:
        """Of the cores, without a bias."""
        return sum(map(prod, self.shapes))

    @property
    def size(self) -> int:
        """Of the weight that the cores stand for."""
        return self.folding.outputs * self.folding.inputs

    @property
    def inner(self) -> int | None:
        """m, the width of the two thin factors; None where the modes or the format allow no cut."""
        return FORMATS[self.decomp].inner(self.folding, self.ranks) if self.folding.has_cut else None

    @property
    def contraction(self) -> str:
        """The cheaper way through the layer: "factors" (two thin products) or "weight" (one with W built once)."""
        if self.inner is None:
            return "weight"
        moved = 2 * MOVED * self.inner
        return "factors" if self.cost("factors") + moved <= self.cost("weight") else "weight"

    def cost(self, contraction: str) -> float:
        """Multiply-adds of one position, its share of what is built once a step included."""
        return self.multiply_adds(contraction) + self.build_multiply_adds(contraction) / POSITIONS

    def multiply_adds(self, contraction: str = "") -> int:
        """Of one position (a pixel, a token) once the weight or its factors are built; the cheaper way by default."""
        if (contraction or self.contraction) == "weight":
            return self.size
        return self.inner * (self.folding.outputs + self.folding.inputs)

    def build_multiply_adds(self, contraction: str = "") -> int:
        """Of building the weight or its factors from the cores, once a step whatever the batch."""
        form = FORMATS[self.decomp]
        build = form.build if (contraction or self.contraction) == "factors" else form.weigh
        return build(self.folding, self.ranks)


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
    the caps of the 2019 experiments.
    """
    if rank_rule == "original":
        return [(limit, partial(relative, limit, 1.0)) for limit in form.original(folding)]
    if rank_rule == "useful":
        limits = zip(form.largest(folding), form.pace(folding), strict=True)
        return [(limit, partial(relative, limit, pace)) for limit, pace in limits]
    power = {"root": 0.5, "uniform": 0.0}[rank_rule]
    return [(limit, partial(relative, limit**power, 1.0)) for limit in form.largest(folding)]


def relative(unit: float, pace: float, rank: int) -> float:
    return (rank / unit) ** (1 / pace)


@lru_cache(maxsize=256)
def path(decomp: str, foldings: tuple[Folding, ...], rank_rule: str = "useful") -> Path:
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


def walked(decomp: str, foldings: Sequence[Folding], steps: Sequence[tuple[int, int]]) -> list[list[int]]:
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
    rank_rule: str = "useful",
) -> list[Layout]:
    """The layout of every layer at one `budget` (share of all weights) or `rank_scale` (share of the path).

    Raises ValueError where the budget is below the smallest size that the format can have, or over the largest.
    """
    return list(_solve(decomp, tuple(foldings), budget, rank_scale, rank_rule))


@lru_cache(maxsize=4096)
def _solve(
    decomp: str, foldings: tuple[Folding, ...], budget: float, rank_scale: float, rank_rule: str
) -> tuple[Layout, ...]:
    way = path(decomp, foldings, rank_rule)
    if rank_scale:
        ranks = walked(decomp, foldings, way.steps[: round(rank_scale * len(way.steps))])
    else:
        size = sum(folding.outputs * folding.inputs for folding in foldings)
        ranks = filled(decomp, foldings, way, within(decomp, way, budget, size))
    return tuple(Layout(decomp, f, tuple(r)) for f, r in zip(foldings, ranks, strict=True))


def within(decomp: str, way: Path, budget: float, size: int) -> int:
    """The budget in parameters; raises ValueError, naming what is possible, where the path does not come near it."""
    limit = int(budget * size + 1e-6)
    end = way.parameters[-1] if way.parameters else way.start
    if limit < way.start:
        raise ValueError(
            f"budget={budget}: the smallest {decomp} with these modes has {way.start:,} of {size:,} parameters, "
            f"allowed is {way.start / size:.4f} or more"
        )
    if end < 0.99 * limit:
        raise ValueError(
            f"budget={budget}: the largest {decomp} with these modes and ranks has {end:,} of {size:,} parameters, "
            f"allowed is {end / size:.4f} or less"
        )
    return limit


def filled(decomp: str, foldings: Sequence[Folding], way: Path, limit: int) -> list[list[int]]:
    """The ranks at `limit` parameters: along the path up to it, then every later step that still fits.

    A step that does not fit never will, as steps only grow with the ranks around them: one pass is
    enough, nothing that is left fits, and a larger limit never makes a smaller network.
    """
    walk = bisect_right(way.parameters, limit)
    ranks = walked(decomp, foldings, way.steps[:walk])
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


def pointwise(width: int) -> list[tuple[int, int, int]]:
    """(outputs, inputs, positions an image) of the CIFAR network's seven pointwise convolutions at 32 x 32."""
    w = width
    return [
        (2 * w, w, 32 * 32),
        (2 * w, 2 * w, 16 * 16),
        (2 * w, 2 * w, 16 * 16),
        (4 * w, 2 * w, 16 * 16),
        (8 * w, 4 * w, 8 * 8),
        (8 * w, 8 * w, 4 * 4),
        (8 * w, 8 * w, 4 * 4),
    ]
