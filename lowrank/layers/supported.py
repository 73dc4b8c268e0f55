"""Which layers a decomposed one stands in for: those whose forward is known, by their type."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from ..errors import InputError
from .convolutions import (
    DecomposedConv1d,
    DecomposedConv2d,
    DecomposedConv3d,
    DecomposedConvTranspose1d,
    DecomposedConvTranspose2d,
    DecomposedConvTranspose3d,
)
from .decomposed import Decomposed
from .products import DecomposedConv1D, DecomposedLinear

SUPPORTED: dict[type | str, type[Decomposed]] = {
    nn.Linear: DecomposedLinear,
    NonDynamicallyQuantizableLinear: DecomposedLinear,  # nn.MultiheadAttention's last
    nn.Conv1d: DecomposedConv1d,
    nn.Conv2d: DecomposedConv2d,
    nn.Conv3d: DecomposedConv3d,
    nn.ConvTranspose1d: DecomposedConvTranspose1d,
    nn.ConvTranspose2d: DecomposedConvTranspose2d,
    nn.ConvTranspose3d: DecomposedConvTranspose3d,
    "transformers.pytorch_utils.Conv1D": DecomposedConv1D,  # by name: transformers need not be there
}


# A layer computes as its base does with these; the last two are Python's own, of abstract and generic classes.
HARMLESS = {"__init__", "__repr__", "extra_repr", "reset_parameters", "_abc_impl", "_is_protocol"}


def support(kind: type[nn.Module], decomposed: type[Decomposed]) -> None:
    """Let `decompose` replace layers of this type, a subclass of nn.Linear with its own forward for one.

    A layer of the type must hold a parameter `weight` and compute what its replacement does, which is one of
    `lowrank.layers`: DecomposedLinear, DecomposedConv1d to 3d, DecomposedConvTranspose1d to 3d, or a subclass of one.
    Raises InputError if one of the two is not such a type.

    >>> from torch import nn
    >>> class Scaled(nn.Linear):
    ...     def forward(self, x):
    ...         return super().forward(x)
    >>> lowrank.layers.support(Scaled, lowrank.layers.DecomposedLinear)
    >>> lowrank.decompose(Scaled(64, 64), budget=0.25)
    DecomposedLinear(in_features=64, out_features=64, bias=True, tt, modes=64|8x8, ranks=7,8, contraction=factors)
    """
    for name, value, base in (("kind", kind, nn.Module), ("decomposed", decomposed, Decomposed)):
        if not (isinstance(value, type) and issubclass(value, base)):
            raise InputError(f"{name}={value!r}; allowed: a subclass of {base.__name__}")
    SUPPORTED[kind] = decomposed


def decomposed_type(layer: nn.Module) -> type[Decomposed] | None:
    """What replaces a layer of this type, or of a subclass that adds nothing; else None."""
    kinds = type(layer).__mro__
    for kind in kinds:
        if found := SUPPORTED.get(kind) or SUPPORTED.get(f"{kind.__module__}.{kind.__qualname__}"):
            added = [each for each in kinds if each not in kind.__mro__]
            return None if any(adds_to(kind, each) for each in added) else found
    return None


def adds_to(base: type, kind: type) -> bool:
    """Whether a class brings what its base, replaced, would lack: methods or attributes, beside static helpers."""
    for name, value in vars(kind).items():
        helper = isinstance(value, staticmethod) and not hasattr(base, name)
        said_by_python = name.startswith("__") and not callable(value)  # __doc__, __module__ and their like
        if not (name in HARMLESS or helper or said_by_python):
            return True
    return False
