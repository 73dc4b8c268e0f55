"""How large each weight of a network becomes: by one share of them all, by a place on the way, or by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from numbers import Real

from .errors import InputError
from .formats import FORMATS, Folding, Layout, solve
from .parts import is_named


@dataclass(frozen=True)
class Sizes:
    """What decides the ranks: a share or a place on the way for all layers, and ranks and shares of some by hand."""

    decomp: str
    rank_rule: str
    budget: float
    rank_scale: float
    budgets: Mapping[str, float]
    ranks: Mapping[str, int | Sequence[int]]

    def check(self) -> None:
        budget, scale = self.budget, self.rank_scale
        both, neither = budget and scale, not (budget or scale or self.budgets or self.ranks)
        if not is_share(budget) or not is_share(scale) or both or neither:
            raise InputError(f"budget={budget!r}, rank_scale={scale!r}; allowed: one of them above 0 and up to 1")
        for name, given in (("budgets", self.budgets), ("ranks", self.ranks)):
            if not isinstance(given, Mapping):
                raise InputError(f"{name}={given!r}; allowed: a dict with a pattern of names for each")
        for pattern, share in self.budgets.items():
            if not is_share(share) or not share:
                raise InputError(f"budgets={{{pattern!r}: {share!r}}}; allowed: numbers above 0 and up to 1")

    def layouts(self, names: Sequence[list[str]], foldings: Sequence[Folding]) -> list[Layout | None]:
        """The layout of each weight, given the names of its layers; None if it is left."""
        found: dict[int, Layout] = {}
        for pattern, ranks in self.ranks.items():
            for k in self.open(names, found, "ranks", pattern):
                found[k] = Layout(self.decomp, foldings[k], self.checked_ranks(foldings[k], ranks))
        for pattern, share in self.budgets.items():
            indices = self.open(names, found, "budgets", pattern)
            found |= zip(indices, self.within([foldings[k] for k in indices], share), strict=True)
        rest = [k for k in range(len(names)) if k not in found]
        if rest and (self.budget or self.rank_scale):
            found |= zip(rest, self.within([foldings[k] for k in rest], self.budget), strict=True)
        return [found.get(k) for k in range(len(names))]

    def open(self, names: Sequence[list[str]], found: Mapping[int, Layout], argument: str, pattern: str) -> list[int]:
        """The weights that a pattern names and that have no layout yet."""
        matched = [k for k, each in enumerate(names) if is_named(each, pattern)]
        if not matched:
            raise InputError(f"{argument}={pattern!r} names no layer of {', '.join(chain(*names))}")
        return [k for k in matched if k not in found]

    def checked_ranks(self, folding: Folding, ranks: int | Sequence[int]) -> tuple[int, ...]:
        largest = FORMATS[self.decomp].largest(folding)
        several = isinstance(ranks, Sequence)
        wanted = list(ranks) if several else [min(ranks, limit) for limit in largest]
        fits = [isinstance(rank, int) and 1 <= rank <= limit for rank, limit in zip(wanted, largest, strict=False)]
        if len(wanted) != len(largest) or not all(fits):
            raise InputError(f"ranks={ranks!r}; {self.decomp} takes 1 to {largest} for modes {folding.modes}")
        return tuple(wanted)

    def within(self, foldings: list[Folding], share: float) -> list[Layout]:
        """As large as the share allows, or as the format is of use: never larger. Without a share by the rank scale."""
        if not share:
            return solve(self.decomp, foldings, rank_scale=self.rank_scale, rank_rule=self.rank_rule)
        if foldings and self.rank_rule != "original":  # whose ranks end early: a budget far above them is a mistake
            full = solve(self.decomp, foldings, rank_scale=1.0, rank_rule=self.rank_rule)
            if sum(layout.parameters for layout in full) <= share * sum(layout.size for layout in full):
                return full
        return solve(self.decomp, foldings, budget=share, rank_rule=self.rank_rule) if foldings else []


def is_share(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= value <= 1
