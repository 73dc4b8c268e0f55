"""Convolutions and linear layers whose weight is held as a tensor decomposition.

A decomposed layer holds its cores as plain parameters and a Layout (lowrank.formats) that says how they fit
together. Shapes below: O outputs, I inputs (in_channels * the size of the kernel), m the inner width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from .errors import InputError
from .formats import CONTRACTIONS, Layout
from .guard import WRITTEN, MadeWeight

PRODUCT = 2**15  # weights of a 1x1 convolution above which a matrix product is faster on a CPU in float32


def separable(inputs: int, outputs: int) -> nn.Sequential:
    """A depthwise 3x3 and a pointwise convolution: [B, inputs, H, W] -> [B, outputs, H, W]."""
    depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)  # [B, inputs, H, W]
    pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)  # [B, outputs, H, W]
    return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise))  # [B, outputs, H, W]


def dense(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution: [B, inputs, H, W] -> [B, outputs, H, W]."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


# --- the layers


def one_by_one(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of x [B, I, ...], or without B, with a weight [O, I, 1, ...] of as many axes: [B, O, ...]."""
    # A matrix product of 256 x 256 weights takes 16 to 40% less time than torch's convolution, of 32 x 16 60% more.
    fast = x.device.type == "cpu" and x.dtype == torch.float32 and weight.numel() > PRODUCT and not x.is_contiguous()
    if fast and weight.dim() == 4:
        return F.linear(x.movedim(-3, -1), weight[:, :, 0, 0], bias).movedim(-1, -3)  # [B, O, H, W], channels_last
    return CONVOLUTIONS[weight.dim() - 3](x, weight, bias)  # [B, O, ...]


CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


class Decomposed(nn.Module):
    """What the decomposed layers share: the cores and the weight that they make.

    Made from a dense layer, whose bias, hooks and attributes it takes over. `contraction` is "factors" (two thin
    products through m channels), "weight" (one product, W built once a step), "cores" (the format's own
    multiplication) or "auto", the cheapest of these by counted work. Factors and weight are made in float32 with
    autocast off and rounded once to the precision of the product.
    """

    layout: Layout
    contraction: str
    origin: type[nn.Module]  # of the dense layer, which `dense` makes again
    error: float = 0.0  # relative, of the approximation that the cores started as

    def __init__(self, layer: nn.Module, layout: Layout, contraction: str = "auto") -> None:
        chosen = choose_contraction(layer, layout, contraction)
        vars(self).update(copied_attributes(layer))
        weight, rest = layer.weight, {name: each for name, each in self._parameters.items() if name != "weight"}
        cores = [nn.Parameter(weight.new_empty(shape), weight.requires_grad) for shape in layout.shapes]
        self._parameters = {f"core_{k}": core for k, core in enumerate(cores)} | rest
        self.layout = layout
        self.contraction = chosen
        self.origin = type(layer)

    def dense(self) -> nn.Module:
        """A layer of the type that it was made from, with the weight that the cores make, in their precision."""
        plain = self.origin.__new__(self.origin)
        attributes = copied_attributes(self)
        vars(plain).update({name: each for name, each in attributes.items() if name not in Decomposed.__annotations__})
        rest = {name: each for name, each in self._parameters.items() if not name.startswith("core_")}
        weight = nn.Parameter(self.made_weight().detach().contiguous(), requires_grad=self.core_0.requires_grad)
        plain._parameters = {"weight": weight} | rest
        plain._modules.pop("parametrizations", None)  # of the cores
        return plain

    @property
    def cores(self) -> list[nn.Parameter]:
        return [getattr(self, f"core_{k}") for k in range(len(self.layout.shapes))]

    @property
    def compression(self) -> float:
        """The parameters of the cores over those of the weight that they make."""
        return self.layout.parameters / self.layout.size

    @property
    def weight(self) -> Tensor:
        """What the cores make, in the dense layer's shape and the cores' precision; writing to it raises InputError."""
        weight = self.made_weight()
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # a graph holds no subclass of Tensor
        return weight if traced else weight.as_subclass(MadeWeight)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            raise InputError(WRITTEN)
        super().__setattr__(name, value)

    def made_weight(self) -> Tensor:
        """What the cores make, in the dense layer's shape and the cores' precision."""
        return self.to_weight(self.matrix().to(self.core_0.dtype))

    @staticmethod
    def to_matrix(layer: nn.Module, weight: Tensor) -> Tensor:
        """The weight of a dense layer as [O, I]."""
        return weight.flatten(1)  # [O, I]

    def to_weight(self, matrix: Tensor) -> Tensor:
        """The inverse of `to_matrix`; of R [m, I] the weight of the dense layer with m outputs."""
        return matrix

    def factors(self) -> tuple[Tensor, Tensor]:
        """L [O, m] and R [m, I] with W = L @ R, in float32 or wider."""
        with without_autocast(self.core_0):
            return self.layout.factors(widened(self.cores))  # [O, m], [m, I]

    def matrix(self) -> Tensor:
        """The weight that the cores make, [O, I] in float32 or wider."""
        with without_autocast(self.core_0):
            return self.layout.weight(widened(self.cores))  # [O, I]

    def multiply(self, x: Tensor) -> Tensor:
        """The format's own multiplication, and the bias: [..., I] -> [..., O]."""
        y = self.layout.multiply(x, [core.to(x.dtype) for core in self.cores])  # [..., O]
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def forward(self, input: Tensor, *others: Any, **named: Any) -> Tensor:
        if isinstance(input, torch.fx.Proxy):  # a tracer keeps the layer whole, as it keeps torch's own
            tracer = input.tracer
            return tracer.create_proxy("call_module", tracer.path_of_module(self), (input, *others), named)
        return self.applied(input, *others, **named)

    def extra_repr(self) -> str:
        layout = self.layout
        folded = f"modes={str(layout.folding).replace(' ', '')}"
        ranks = f"ranks={','.join(map(str, layout.ranks))}"
        own = f"{layout.decomp}, {folded}, {ranks}, contraction={self.contraction}"
        return f"{super().extra_repr()}, {own}" if super().extra_repr() else own

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in described(self).items())
        return f"<table>{rows}</table>"


def copied_attributes(module: nn.Module) -> dict[str, Any]:
    """All that a module holds, hooks included; to add to its dictionaries does not add to the module's own."""
    return {name: each.copy() if isinstance(each, dict | set) else each for name, each in vars(module).items()}


class DecomposedConvolution(Decomposed):
    """A decomposed convolution of 1 to 3 dimensions, transposed or not: [B, C, ...] -> [B, O, ...]."""

    @staticmethod
    def to_matrix(layer, weight):
        return (weight.transpose(0, 1) if layer.transposed else weight).flatten(1)  # [O, C * kernel]

    def to_weight(self, matrix):
        weight = matrix.reshape(-1, self.in_channels, *self.kernel_size)  # [O, C, ...]
        return weight.transpose(0, 1) if self.transposed else weight  # [O, C, ...] or, transposed, [C, O, ...]

    def applied(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        if self.contraction == "weight":
            return self._convolve(x, self.made_weight().to(x.dtype), self.bias, output_size)  # [B, O, ...]
        if self.contraction == "cores":
            channels = -1 - len(self.kernel_size)
            return self.multiply(x.movedim(channels, -1)).movedim(-1, channels)  # [B, O, ...]
        return self.joined(*self.halves(x, output_size))  # [B, O, ...]

    def halves(self, x: Tensor, output_size: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """The thin product with R, [B, m, ...] as x, and the L [O, m] that is still to be applied, in float32."""
        left, right = self.factors()  # [O, m], [m, I]
        right = self.to_weight(right.to(x.dtype))  # [m, C, ...] or, transposed, [C, m, ...]
        return self._convolve(x, right, None, output_size), left  # [B, m, ...], [O, m]

    def joined(self, z: Tensor, left: Tensor) -> Tensor:
        """What `halves` left to do."""
        left = left.to(z.dtype).reshape(*left.shape, *[1] * len(self.kernel_size))  # [O, m, 1, ...]
        return one_by_one(z, left, self.bias)  # [B, O, ...]

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, output_size: Sequence[int] | None) -> Tensor:
        if self.transposed:
            axes, geometry = len(self.kernel_size), (self.stride, self.padding, self.kernel_size)
            extra = self._output_padding(x, output_size, *geometry, axes, self.dilation)
            geometry = (self.stride, self.padding, extra, self.groups, self.dilation)
            return TRANSPOSED[axes - 1](x, weight, bias, *geometry)  # [B, O, ...]
        if is_pointwise(self):
            return one_by_one(x, weight, bias)  # [B, O, H, W]
        return self._conv_forward(x, weight, bias)  # [B, O, ...]


class DecomposedConv1d(DecomposedConvolution, nn.Conv1d):
    """[B, C, L] -> [B, O, L']."""


class DecomposedConv2d(DecomposedConvolution, nn.Conv2d):
    """[B, C, H, W] -> [B, O, H', W']."""


class DecomposedConv3d(DecomposedConvolution, nn.Conv3d):
    """[B, C, D, H, W] -> [B, O, D', H', W']."""


class DecomposedConvTranspose1d(DecomposedConvolution, nn.ConvTranspose1d):
    """[B, C, L] -> [B, O, L']."""


class DecomposedConvTranspose2d(DecomposedConvolution, nn.ConvTranspose2d):
    """[B, C, H, W] -> [B, O, H', W']."""


class DecomposedConvTranspose3d(DecomposedConvolution, nn.ConvTranspose3d):
    """[B, C, D, H, W] -> [B, O, D', H', W']."""


class DecomposedProduct(Decomposed):
    """A decomposed matrix product with the last axis: [..., I] -> [..., O]."""

    def applied(self, x: Tensor) -> Tensor:
        if self.contraction == "weight":
            return F.linear(x, self.matrix().to(self.core_0.dtype).to(x.dtype), self.bias)  # [..., O]
        if self.contraction == "cores":
            return self.multiply(x)  # [..., O]
        left, right = (factor.to(x.dtype) for factor in self.factors())  # [O, m], [m, I]
        return F.linear(F.linear(x, right), left, self.bias)  # [..., O]


class DecomposedLinear(DecomposedProduct, nn.Linear):
    """[..., I] -> [..., O], weight [O, I]."""


class DecomposedConv1D(DecomposedProduct):
    """The linear layer that transformers calls Conv1D: [..., I] -> [..., O], weight [I, O]."""

    @staticmethod
    def to_matrix(layer, weight):
        return weight.T  # [O, I]

    def to_weight(self, matrix):
        return matrix.T  # [I, O]


# --- which layers, and which way through them


def choose_contraction(layer: nn.Module, layout: Layout, contraction: str) -> str:
    """The contraction that is asked for, or for "auto" the cheapest; raises ValueError if the layer cannot do it."""
    if contraction not in ("auto", *CONTRACTIONS):
        raise ValueError(f"contraction={contraction!r}; allowed: auto, {', '.join(CONTRACTIONS)}")
    possible = [each for each in layout.contractions if each != "cores" or is_pointwise(layer)]
    if contraction == "auto":
        return layout.cheapest(possible)
    if contraction == "factors" and contraction not in possible:
        raise ValueError(f"contraction='factors': {layout.decomp} with modes {layout.folding.modes} has no cut")
    if contraction == "cores" and contraction not in possible:
        reason = f"{layout.decomp} has no multiplication of its own" if layout.work is None else f"{layer} is not 1 x 1"
        raise ValueError(f"contraction='cores': {reason}")
    return contraction


def is_pointwise(layer: nn.Module) -> bool:
    """Whether each position (a pixel, a token) is multiplied by the weight on its own."""
    if not hasattr(layer, "kernel_size"):
        return True
    plain = set(layer.kernel_size) == set(layer.stride) == {1} and set(layer.padding) in ({0}, set("valid"))
    return plain and not layer.transposed


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


COMPUTES = {"forward", "_conv_forward", "_output_padding", "__call__", "_call_impl", "__getattr__", "weight", "bias"}


def support(kind: type[nn.Module], decomposed: type[Decomposed]) -> None:
    """Let `decompose` replace layers of this type, a subclass of nn.Linear with its own forward for one.

    A layer of the type must hold a parameter `weight` and compute what its replacement does. Raises InputError if one
    of the two is not such a type.
    """
    for name, value, base in (("kind", kind, nn.Module), ("decomposed", decomposed, Decomposed)):
        if not (isinstance(value, type) and issubclass(value, base)):
            raise InputError(f"{name}={value!r}; allowed: a subclass of {base.__name__}")
    SUPPORTED[kind] = decomposed


def decomposed_type(layer: nn.Module) -> type[Decomposed] | None:
    """What replaces a layer of this type, or of a subclass that computes nothing in a way of its own; else None."""
    for kind in type(layer).__mro__:
        if found := SUPPORTED.get(kind) or SUPPORTED.get(f"{kind.__module__}.{kind.__qualname__}"):
            return found
        if COMPUTES & vars(kind).keys():
            return None
    return None


def kernel_size(layer: nn.Module) -> int:
    return prod(getattr(layer, "kernel_size", ()))


def described(layer: Decomposed) -> dict[str, object]:
    """Format, modes, ranks and counts of one layer."""
    layout = layer.layout
    return {
        "decomp": layout.decomp,
        "modes": str(layout.folding),
        "ranks": ", ".join(map(str, layout.ranks)),
        "weights": layout.size,
        "parameters": layout.parameters,
        "share": layer.compression,
        "contraction": layer.contraction,
        "error": layer.error,
    }


# --- precision


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on for the device of x; the meta device has none."""
    return torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)


def widened(cores: Sequence[Tensor]) -> list[Tensor]:
    """Cores in the precision that they are contracted in: float32, or float64 where they have it."""
    return [core.to(torch.promote_types(core.dtype, torch.float32)) for core in cores]


def without_autocast(x: Tensor) -> AbstractContextManager:
    return torch.autocast(x.device.type, enabled=False) if autocasts(x) else nullcontext()
