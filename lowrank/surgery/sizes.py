"""How large each weight of a network becomes: by a share of all, by an error, by a place on the way, or by hand."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from numbers import Integral, Real

import numpy as np
from torch import Tensor
from tqdm import tqdm

from ..errors import InputError
from ..formats import FORMATS, Folding, Layout, check_sizes, solve
from ..initial import measure_fit
from .allocation import meet_error, spend_budget
from .parts import is_named


@dataclass(frozen=True)
class Sizes:
    """What decides the ranks: a share, a place on the way or an error for all layers, ranks and shares of some by hand.

    `allocation` "error" spends a share where the error of the approximation falls most, "even" by the rank rule. Ranks
    that are given without a name are for all layers. Raises InputError if something contradicts another.
    """

    decomp: str
    rank_rule: str
    budget: float
    rank_scale: float
    error: float
    allocation: str
    budgets: Mapping[str, float] | None
    ranks: int | Sequence[int] | Mapping[str, int | Sequence[int]] | None

    def __post_init__(self) -> None:
        for name in ("budgets", "ranks"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, {})
        if not isinstance(self.ranks, Mapping):
            object.__setattr__(self, "ranks", {"*": self.ranks})
        self.check()

    @property
    def needs_weights(self) -> bool:
        """Whether the numbers in the weights decide."""
        return bool(self.error) or self.allocation == "error"

    def check(self) -> None:
        if not isinstance(self.budgets, Mapping):
            raise InputError(f"budgets={self.budgets!r}; allowed: a dict with a pattern of names for each")
        sizes = {name: getattr(self, name) for name in ("budget", "rank_scale", "error")}
        said = {name: value for name, value in sizes.items() if not (is_share(value) and value == 0)}
        wrong, enough = not all(map(is_share, said.values())), len(said) == 1 or self.budgets or self.ranks
        if wrong or len(said) > 1 or not enough:
            shown = ", ".join(f"{name}={value!r}" for name, value in (said or sizes).items())
            raise InputError(f"{shown}; allowed: one of budget, rank_scale and error above 0 and up to 1")
        if self.allocation == "error" and self.rank_scale:
            raise InputError(f"allocation='error', rank_scale={self.rank_scale!r}; allowed: allocation='even'")
        if self.allocation == "error" and self.rank_rule != "auto":
            raise InputError(f"allocation='error', rank_rule={self.rank_rule!r}; allowed: allocation='even'")
        for pattern, share in self.budgets.items():
            if not is_share(share) or not share:
                raise InputError(f"budgets={{{pattern!r}: {share!r}}}; allowed: numbers above 0 and up to 1")

    def layouts(
        self, names: Sequence[list[str]], weights: Sequence[Tensor], foldings: Sequence[Sequence[Folding]]
    ) -> list[Layout | str]:
        """The layout of each weight [O, I], given the names of its layers and its foldings; or why it is left dense.

        Of several foldings the first is the usual one; allocation by the error may take another.
        """
        found: dict[int, Layout | str] = self.find_refused(names, foldings)
        for pattern, ranks in self.ranks.items():
            for k in self.open(names, found, "ranks", pattern):
                found[k] = Layout(self.decomp, foldings[k][0], self.checked_ranks(foldings[k][0], ranks))
        for pattern, share in self.budgets.items():
            indices = self.open(names, found, "budgets", pattern)
            chosen = self.within([weights[k] for k in indices], [foldings[k] for k in indices], share)
            found |= zip(indices, chosen, strict=True)
        rest = [k for k in range(len(names)) if k not in found]
        for name in ("budget", "rank_scale", "error"):
            if getattr(self, name) and not rest:
                raise InputError(
                    f"{name}={getattr(self, name)}: ranks or budgets name every layer; allowed: one of them"
                )
        if self.budget or self.rank_scale or self.error:
            chosen = self.within([weights[k] for k in rest], [foldings[k] for k in rest], self.budget)
            found |= zip(rest, chosen, strict=True)
        if self.error and not any(isinstance(each, Layout) for each in found.values()):
            raise InputError(f"error={self.error}: no {self.decomp} smaller than its weight comes so near to it")
        return [found.get(k, "no pattern names it") for k in range(len(names))]

    def find_refused(self, names: Sequence[list[str]], foldings: Sequence[Sequence[Folding]]) -> dict[int, str]:
        """The weights that the format cannot hold, and why. Warns of them; raises InputError if it can hold none."""
        form, usual = FORMATS[self.decomp], [choices[0] for choices in foldings]
        found = {k: reason for k, folding in enumerate(usual) if (reason := form.refusal(folding))}
        if len(found) == len(usual):
            check_sizes(self.decomp, usual)
        if found:
            said = "; ".join(f"{', '.join(names[k])}: {reason}" for k, reason in found.items())
            warnings.warn(f"left as they are, as decomp={self.decomp!r} cannot hold them: {said}", stacklevel=7)
        return {k: f"{self.decomp} cannot hold it: {reason}" for k, reason in found.items()}

    def open(self, names: Sequence[list[str]], found: Collection[int], argument: str, pattern: str) -> list[int]:
        """The weights that a pattern names and that have no layout yet."""
        matched = [k for k, each in enumerate(names) if isinstance(pattern, str) and is_named(each, pattern)]
        if not matched:
            raise InputError(f"{argument}={pattern!r} names no layer of {', '.join(chain(*names))}")
        return [k for k in matched if k not in found]

    def checked_ranks(self, folding: Folding, ranks: int | Sequence[int]) -> tuple[int, ...]:
        largest = FORMATS[self.decomp].largest(folding)
        ranks = ranks.tolist() if isinstance(ranks, np.ndarray) else ranks
        if is_rank(ranks):
            wanted = [min(ranks, limit) for limit in largest]
        else:
            wanted = list(ranks) if isinstance(ranks, Sequence) else []
        fits = [is_rank(rank) and rank <= limit for rank, limit in zip(wanted, largest, strict=False)]
        if len(wanted) != len(largest) or not all(fits):
            raise InputError(f"ranks={ranks!r}; {self.decomp} takes 1 to {largest} for modes {folding.modes}")
        return tuple(map(int, wanted))

    def within(self, weights: list[Tensor], foldings: list[Sequence[Folding]], share: float) -> Sequence[Layout | str]:
        """As large as the share allows, or as the format is of use: never larger. Else by rank scale or error."""
        if share and self.allocation == "error":
            found = spend_budget(self.decomp, weights, foldings, share) if weights else []
            return [layout or "worth its parameters as it is" for layout in found]
        if not share and self.error:
            return self.as_near(weights, foldings)
        return self.even([choices[0] for choices in foldings], share)

    def as_near(self, weights: list[Tensor], foldings: list[Sequence[Folding]]) -> list[Layout | str]:
        """The smallest within the error; of a weight that has none smaller than itself, this."""
        found = meet_error(
            self.decomp, weights, foldings, self.error, lambda k, layout: measure_fit(weights[k], layout)
        )
        layouts = tqdm(found, "fitting", len(weights), leave=False, delay=3, unit="layer")
        return [layout or f"nothing smaller comes within error={self.error:g}" for layout in layouts]

    def even(self, foldings: list[Folding], share: float) -> list[Layout]:
        if not share:
            return solve(self.decomp, foldings, rank_scale=self.rank_scale, rank_rule=self.rank_rule)
        if foldings and self.rank_rule != "original":  # whose ranks end early: a budget far above them is a mistake
            full = solve(self.decomp, foldings, rank_scale=1.0, rank_rule=self.rank_rule)
            if sum(layout.parameters for layout in full) <= share * sum(layout.size for layout in full):
                return full
        return solve(self.decomp, foldings, budget=share, rank_rule=self.rank_rule) if foldings else []


def is_rank(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= 1


def is_share(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= value <= 1
