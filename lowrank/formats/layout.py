"""One weight in one format: its sizes, its contraction, and which of the ways through a layer is least work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

from torch import Tensor

from ..errors import InputError
from .folding import Folding
from .format import Format
from .registry import FORMATS

# Through a layer: two thin products; one product with W, built once a step; the format's own multiplication.
CONTRACTIONS = ("factors", "weight", "cores")

# What else costs time, in multiply-adds: measured on 2 CPU cores (`make bench`), where two thin products break even
# at m = 0.39 to 0.45, 0.43 to 0.44 and 0.47 to 0.54 C for C = 128, 256 and 512 (AMD without, Intel with AVX-512), not
# at the 0.5 that counting the products alone says.
MOVED = 60  # a number that is written or read between two products
POSITIONS = 2048  # positions of a batch that share what is built once a step


@dataclass(frozen=True)
class Layout:
    """One weight held in one format: all that a layer needs to know to hold it."""

    decomp: str
    folding: Folding
    ranks: tuple[int, ...]

    @cached_property  # a network keeps its form when the name is given to another
    def form(self) -> Format:
        return FORMATS[self.decomp]

    def __deepcopy__(self, memo: dict) -> Layout:
        return self  # nothing in it changes

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the cores, in order."""
        return self.form.shapes(self.folding, self.ranks)

    @property
    def parameters(self) -> int:
        """How many the cores have, without a bias."""
        return sum(map(prod, self.shapes))

    @property
    def size(self) -> int:
        """How many numbers the weight has that the cores stand for."""
        return self.folding.outputs * self.folding.inputs

    # --- contracting

    def factors(self, cores: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """L [O, m] and R [m, I] with W = L R."""
        left, right = self.form.factors(cores, self.folding)  # [O, m], [m, I]
        if self.folding.has_cut:  # or they are the sides of a cut elsewhere
            self.check("a left factor", left, (self.folding.outputs, self.inner))
            self.check("a right factor", right, (self.inner, self.folding.inputs))
        return left, right

    def weight(self, cores: Sequence[Tensor]) -> Tensor:
        """The weight that the cores make, [O, I]."""
        weight = self.form.weight(cores, self.folding)  # [O, I], or cut elsewhere
        if self.folding.has_cut:
            self.check("a weight", weight, (self.folding.outputs, self.folding.inputs))
        return weight.reshape(self.folding.outputs, -1)  # [O, I]

    def multiply(self, x: Tensor, cores: Sequence[Tensor]) -> Tensor:
        """x [..., I] times the transpose of W, by the format's own multiplication: [..., O]."""
        y = self.form.multiply(x, cores, self.folding)  # [..., O]
        self.check("a product", y, (*x.shape[:-1], self.folding.outputs))
        return y

    def check(self, what: str, made: Tensor, shape: tuple[int, ...]) -> None:
        """Raises InputError where a format of one's own, checked on other weights, makes another shape."""
        if made.shape != shape:
            size = f"{self.folding.outputs} x {self.folding.inputs}"
            said = f"decomp={self.decomp!r}, for a weight of {size}: its cores make {what}"
            raise InputError(f"{said} of {' x '.join(map(str, made.shape))}, not {' x '.join(map(str, shape))}")

    # --- choosing the contraction

    @property
    def inner(self) -> int | None:
        """m, the width of the two thin factors; None if the modes or the format allow no cut."""
        return self.form.inner(self.folding, self.ranks) if self.folding.has_cut else None

    @property
    def multiply_work(self) -> int | None:
        """Multiply-adds of one position by the format's own multiplication; None if it has none."""
        return self.form.multiply_work(self.folding, self.ranks)

    @property
    def contractions(self) -> list[str]:
        """The ways through the layer that there are."""
        has = {"factors": self.inner is not None, "weight": True, "cores": self.multiply_work is not None}
        return [each for each in CONTRACTIONS if has[each]]

    @property
    def contraction(self) -> str:
        """The way with the least work."""
        return self.cheapest(self.contractions)

    def cheapest(self, contractions: Sequence[str]) -> str:
        """The one with the least work, the first of equals."""
        return min(contractions, key=self.cost)

    def cost(self, contraction: str) -> float:
        """Multiply-adds of one position, with its share of what is built once a step and with what is moved between.

        What a multiplication of its own moves is taken to be as wide as the input.
        """
        width = {"factors": self.inner, "weight": 0, "cores": self.folding.inputs}[contraction]
        return self.multiply_adds(contraction) + self.build_multiply_adds(contraction) / POSITIONS + 2 * MOVED * width

    def multiply_adds(self, contraction: str = "") -> int:
        """For one position (a pixel, a token), once weight or factors are built; by default in the cheapest way."""
        contraction = contraction or self.contraction
        if contraction == "factors":
            return self.inner * (self.folding.outputs + self.folding.inputs)
        return self.multiply_work if contraction == "cores" else self.size

    def build_multiply_adds(self, contraction: str = "") -> int:
        """To build the weight or its factors from the cores, once a step, whatever the batch."""
        contraction = contraction or self.contraction
        if contraction == "factors":
            return self.form.factors_work(self.folding, self.ranks)
        return self.form.weight_work(self.folding, self.ranks) if contraction == "weight" else 0
