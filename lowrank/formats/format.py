"""What a format is: one class that counts, contracts, starts and fits.

A weight of 12 outputs and 30 inputs, held as a tensor train of 4 modes:

     a weight                 its cores                       two thin factors

        I = 30            3    4   |   5    6                m
     +---------+          |    |   |   |    |              +---+        I
     |         |   fold   o----o---|---o----o    contract  |   |   +---------+
  O  |    W    |  ----->    r1   m |     r3     ------->  O| L | @ |    R    | m
 12  |         |                   |                       |   |   +---------+
     +---------+         outputs  cut  inputs              +---+

Fold:      outputs and inputs are each split into modes, 12 = 3 x 4 and 30 = 5 x 6, so that a cut between them exists.
Cores:     small tensors, one at each o; lines between them are ranks, lines that end are modes. They are what trains.
Contract:  all that is left of the cut makes L [O, m], all that is right of it R [m, I], and W = L R. A layer multiplies
           by R and then by L, or by W, built once a step: whichever is less work.

The other formats draw other lines between other cores; a Format says which.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .folding import Folding


class Format:
    """One way to hold a weight [O, I] in cores. To write your own, answer `largest`, `shapes` and one of two:

    - `inner` and `factors`, if the cores make two thin factors, W = L R;
    - `weight` and `weight_work`, if they make only W itself.

    The rest has an answer already. W has to be linear in every core. A size that is not a rank, such as a number of
    blocks, goes into `__init__`, with a `refusal` of the weights that it does not fit.

    >>> form, folding = lowrank.formats.FORMATS["tt"], lowrank.formats.fold(64, 64, dims=3)
    >>> folding.modes, form.largest(folding), form.shapes(folding, (4, 4))
    ((64, 8, 8), (64, 8), [(1, 64, 4), (4, 8, 4), (4, 8, 1)])
    """

    rank_rule = "useful"  # of rank_rule="auto": where ranks serve its networks best, see notebooks/9-ranks.ipynb
    uses_dims = True  # False: it does not look at the modes, and `dims` is no parameter of its runs

    # --- it counts: integers only; `ranks` are positive, one for each of `largest`

    def largest(self, folding: Folding) -> tuple[int, ...]:
        """The largest useful ranks. A budget raises them from 1 to these; each step has to add parameters."""
        raise NotImplementedError(f"{type(self).__name__} has no `largest`")

    def shapes(self, folding: Folding, ranks: Sequence[int]) -> list[tuple[int, ...]]:
        """The shapes of the cores, in order."""
        raise NotImplementedError(f"{type(self).__name__} has no `shapes`")

    def inner(self, folding: Folding, ranks: Sequence[int]) -> int | None:
        """m, the width of the two thin factors; None if the cores make only W."""
        return None

    def factors_work(self, folding: Folding, ranks: Sequence[int]) -> int:
        """Multiply-adds that make the two thin factors from the cores, once a step."""
        return 0

    def weight_work(self, folding: Folding, ranks: Sequence[int]) -> int:
        """Multiply-adds that make W from the cores, once a step."""
        inner = self.inner(folding, ranks)
        if inner is None:
            raise NotImplementedError(f"{type(self).__name__} has neither `inner` nor `weight_work`")
        return self.factors_work(folding, ranks) + inner * folding.outputs * folding.inputs

    def multiply_work(self, folding: Folding, ranks: Sequence[int]) -> int | None:
        """Multiply-adds of `multiply` for one position (a pixel, a token); None if there is no `multiply`."""
        return None

    def original(self, folding: Folding) -> tuple[int, ...]:
        """The largest ranks of the 2019 experiments, of formats that were in them: capped by the neighbouring modes.

        `rank_rule="original"` folds the flattened weight, so that modes need not lie left or right of the cut.
        """
        return self.largest(folding)

    def pace(self, folding: Folding) -> tuple[float, ...]:
        """How each rank grows: at a share s of the way it is s ** pace of its largest."""
        return (1.0,) * len(self.largest(folding))

    def refusal(self, folding: Folding) -> str:
        """Why it cannot hold a weight of this size, such as "blocks=4 does not divide 10"; "" if it can."""
        return ""

    # --- it contracts: with methods of tensors, in the precision of the cores

    def factors(self, cores: Sequence[Tensor], folding: Folding) -> tuple[Tensor, Tensor]:
        """L [O, m] and R [m, I] with W = L R."""
        raise NotImplementedError(f"{type(self).__name__} has neither `factors` nor `weight`")

    def weight(self, cores: Sequence[Tensor], folding: Folding) -> Tensor:
        """W [O, I]."""
        left, right = self.factors(cores, folding)
        return left @ right  # [O, I]

    def multiply(self, x: Tensor, cores: Sequence[Tensor], folding: Folding) -> Tensor:
        """x [..., I] times the transpose of W, [..., O], by an algorithm that builds neither W nor factors."""
        raise NotImplementedError(f"{type(self).__name__} has `multiply_work`, but no `multiply`")

    # --- it starts

    def splits(self, folding: Folding, ranks: Sequence[int]) -> list[int]:
        """How many leading axes of each core are the rows of the matrix that starts orthogonal."""
        return [1] * len(self.shapes(folding, ranks))

    def start(self, folding: Folding, ranks: Sequence[int]) -> list[Tensor] | None:
        """Random cores of its own, brought to the spread of the dense weight later; None for orthogonal ones."""
        return None

    # --- it fits

    def fit(self, weight: Tensor, folding: Folding, ranks: Sequence[int]) -> list[Tensor] | None:
        """Cores that make nearly `weight` [O, I]; None to look for them by L-BFGS from a random start."""
        return None

    def cuts(self, folding: Folding) -> list[tuple[Sequence[int], Sequence[int]]]:
        """Where ranks bound the rank of an unfolded weight: the modes that are its rows, the ranks whose product bounds
        it. From its singular values a budget follows the error; [] if no unfolding tells what a rank is worth.
        """
        return []
