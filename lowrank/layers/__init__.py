"""Layers whose weight is held as a tensor decomposition.

decomposed.py is what they share, supported.py says which layer each of them stands in for.
"""

from .convolutions import (
    DecomposedConv1d,
    DecomposedConv2d,
    DecomposedConv3d,
    DecomposedConvolution,
    DecomposedConvTranspose1d,
    DecomposedConvTranspose2d,
    DecomposedConvTranspose3d,
    dense,
    one_by_one,
    separable,
)
from .decomposed import Decomposed, describe_layer, is_pointwise, kernel_size
from .products import DecomposedConv1D, DecomposedLinear, DecomposedProduct
from .supported import SUPPORTED, decomposed_type, support

__all__ = [
    "Decomposed", "DecomposedConv1D", "DecomposedConv1d", "DecomposedConv2d", "DecomposedConv3d",
    "DecomposedConvTranspose1d", "DecomposedConvTranspose2d", "DecomposedConvTranspose3d", "DecomposedConvolution",
    "DecomposedLinear", "DecomposedProduct", "SUPPORTED", "decomposed_type", "dense", "describe_layer", "is_pointwise",
    "kernel_size", "one_by_one", "separable", "support",
]  # fmt: skip
