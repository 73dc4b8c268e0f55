"""The formats by name: what `decomp` may be, apart from the networks that hold their weights as they are."""

from __future__ import annotations

from ..errors import InputError
from .chains import Ring, TensorTrain, TuckerTT
from .format import Format
from .products import CP, Bottleneck, Tucker

PLAIN = ("dense", "separable")  # the networks that hold their weights as they are
OR_YOUR_OWN = ", or one of your own: lowrank.register(name, form) makes it known to this process"


class Registry(dict[str, Format]):
    """A dictionary that says what to do if a name is missing, as in a process that only reads what another stored."""

    def __missing__(self, decomp: str) -> Format:
        if decomp in PLAIN:
            raise InputError(f"decomp={decomp!r} is no format; allowed: {', '.join(self)}")
        raise InputError(
            f"decomp={decomp!r}: if it is a format of your own, this process does not know it: call "
            f"lowrank.register({decomp!r}, form) first, or use one of {', '.join(self)}"
        )


FORMATS = Registry(
    bottleneck=Bottleneck(),
    tt=TensorTrain(),
    tucker=Tucker(),
    tucker_tt=TuckerTT(),
    cp=CP(),
    ring=Ring(),
)


def default_rank_rule(decomp: str) -> str:
    """What rank_rule="auto" is; a plain network has no ranks, and any name would do."""
    return "useful" if decomp in PLAIN else FORMATS[decomp].rank_rule


def uses_dims(decomp: str) -> bool:
    """Whether `dims` decides anything; of a format that this process does not know, it may."""
    return decomp not in PLAIN and (decomp not in FORMATS or FORMATS[decomp].uses_dims)
