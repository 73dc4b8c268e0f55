"""Convolutions and linear layers whose weight is held as a tensor decomposition.

A decomposed layer holds its cores as plain parameters and a Layout (lowrank.formats) that says how they fit
together. Shapes below: O outputs, I inputs (in_channels * kernel height * kernel width), m the inner width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .formats import CONTRACTIONS, Layout

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
    """The convolution of x [B, I, H, W], or without B, with a weight [O, I, 1, 1]: [B, O, H, W], channels_last as x."""
    # A matrix product of 256 x 256 weights takes 16 to 40% less time than torch's convolution, of 32 x 16 60% more.
    if x.device.type == "cpu" and x.dtype == torch.float32 and weight.numel() > PRODUCT and not x.is_contiguous():
        return F.linear(x.movedim(-3, -1), weight[:, :, 0, 0], bias).movedim(-1, -3)  # [B, O, H, W]
    return F.conv2d(x, weight, bias)  # [B, O, H, W]


class Decomposed(nn.Module):
    """What the decomposed layers share: the cores and the weight that they make.

    `contraction` is "factors" (two thin products through m channels), "weight" (one product, W built once a step),
    "cores" (the format's own multiplication) or "auto", the cheapest of these by counted work. Factors and weight are
    made in float32 with autocast off and rounded once to the precision of the product.
    """

    layout: Layout
    contraction: str
    error: float = 0.0  # relative, of the approximation that the cores started as

    def _hold(self, layer: nn.Conv2d | nn.Linear, layout: Layout, contraction: str) -> None:
        """Take over the bias of a dense layer, and make uninitialised cores where and as its weight is."""
        self.layout = layout
        self.contraction = chosen_contraction(layer, layout, contraction)
        for k, shape in enumerate(layout.shapes):
            core = nn.Parameter(layer.weight.new_empty(shape), requires_grad=layer.weight.requires_grad)
            self.register_parameter(f"core_{k}", core)
        self.bias = layer.bias
        self.train(layer.training)

    def _released(self, layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
        """Give a dense layer the weight that the cores make, in their precision, and the bias."""
        layer.weight = nn.Parameter(self.weight.detach(), requires_grad=self.core_0.requires_grad)
        layer.bias = self.bias
        return layer.train(self.training)

    @property
    def cores(self) -> list[nn.Parameter]:
        return [getattr(self, f"core_{k}") for k in range(len(self.layout.shapes))]

    @property
    def compression(self) -> float:
        """The parameters of the cores over those of the weight that they make."""
        return self.layout.parameters / self.layout.size

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

    def extra_repr(self) -> str:
        layout = self.layout
        folded = f"modes={str(layout.folding).replace(' ', '')}"
        ranks = f"ranks={','.join(map(str, layout.ranks))}"
        return f"{super().extra_repr()}, {layout.decomp}, {folded}, {ranks}, contraction={self.contraction}"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in described(self).items())
        return f"<table>{rows}</table>"


class DecomposedConv2d(Decomposed, nn.Conv2d):
    """A decomposed convolution with the geometry and the bias of `conv`: [B, C, H, W] -> [B, O, H', W']."""

    def __init__(self, conv: nn.Conv2d, layout: Layout, contraction: str = "auto") -> None:
        nn.Module.__init__(self)
        for name in (*nn.Conv2d.__constants__, "transposed", "_reversed_padding_repeated_twice"):
            setattr(self, name, getattr(conv, name))
        self._hold(conv, layout, contraction)

    @property
    def weight(self) -> Tensor:
        """[O, C, height, width] in the cores' precision."""
        weight = self.matrix().to(self.core_0.dtype)  # [O, I]
        return weight.reshape(self.out_channels, self.in_channels, *self.kernel_size)  # [O, C, h, w]

    def dense(self) -> nn.Conv2d:
        """A plain convolution with the weight that the cores make."""
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "padding_mode")
        geometry = {name: getattr(self, name) for name in names}
        return self._released(nn.Conv2d(**geometry, bias=False, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        if self.contraction == "weight":
            return self._convolve(x, self.weight.to(x.dtype), self.bias)  # [B, O, H', W']
        if self.contraction == "cores":
            return self.multiply(x.movedim(-3, -1)).movedim(-1, -3)  # [B, O, H, W]
        return self.joined(*self.halves(x))  # [B, O, H', W']

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The thin product with R, [B, m, H', W'] as x, and the L [O, m] that is still to be applied, in float32."""
        left, right = self.factors()  # [O, m], [m, I]
        right = right.to(x.dtype).reshape(-1, self.in_channels, *self.kernel_size)  # [m, C, h, w]
        return self._convolve(x, right, None), left  # [B, m, H', W'], [O, m]

    def joined(self, z: Tensor, left: Tensor) -> Tensor:
        """What `halves` left to do."""
        return one_by_one(z, left.to(z.dtype)[:, :, None, None], self.bias)  # [B, O, H', W']

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if is_pointwise(self):
            return one_by_one(x, weight, bias)  # [B, O, H, W]
        return self._conv_forward(x, weight, bias)  # [B, O, H', W']


class DecomposedLinear(Decomposed, nn.Linear):
    """A decomposed linear layer with the bias of `linear`: [..., I] -> [..., O]."""

    def __init__(self, linear: nn.Linear, layout: Layout, contraction: str = "auto") -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._hold(linear, layout, contraction)

    @property
    def weight(self) -> Tensor:
        """[O, I] in the cores' precision."""
        return self.matrix().to(self.core_0.dtype)  # [O, I]

    def dense(self) -> nn.Linear:
        """A plain linear layer with the weight that the cores make."""
        return self._released(nn.Linear(self.in_features, self.out_features, bias=False, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        if self.contraction == "weight":
            return F.linear(x, self.weight.to(x.dtype), self.bias)  # [..., O]
        if self.contraction == "cores":
            return self.multiply(x)  # [..., O]
        left, right = (factor.to(x.dtype) for factor in self.factors())  # [O, m], [m, I]
        return F.linear(F.linear(x, right), left, self.bias)  # [..., O]


def chosen_contraction(layer: nn.Conv2d | nn.Linear, layout: Layout, contraction: str) -> str:
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


# --- what a layer is


def named_layers(module: nn.Module, remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Module]]:
    """Every Conv2d and Linear, decomposed ones included, under its first name or under each of its names."""
    for name, layer in module.named_modules(remove_duplicate=remove_duplicate):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            yield name, layer


def is_pointwise(layer: nn.Conv2d | nn.Linear) -> bool:
    """Whether each position (a pixel, a token) is multiplied by the weight on its own."""
    if isinstance(layer, nn.Linear):
        return True
    return (layer.kernel_size, layer.stride, layer.padding) == ((1, 1), (1, 1), (0, 0))


def is_grouped(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups > 1


def matrix_shape(layer: nn.Conv2d | nn.Linear) -> tuple[int, int]:
    """Outputs and inputs, the kernel left out."""
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels, layer.in_channels // layer.groups
    return layer.out_features, layer.in_features


def kernel_size(layer: nn.Conv2d | nn.Linear) -> int:
    return layer.kernel_size[0] * layer.kernel_size[1] if isinstance(layer, nn.Conv2d) else 1


def described(layer: nn.Module) -> dict[str, object]:
    """Format, shape, modes, ranks and counts of one layer, the multiply-adds of one position."""
    outputs, inputs = matrix_shape(layer)
    kernel = kernel_size(layer)
    shape = f"{outputs} x {inputs}" + (f" x {'x'.join(map(str, layer.kernel_size))}" if kernel > 1 else "")
    size = outputs * inputs * kernel
    row = {"shape": shape, "weights": size, "parameters": size, "share": 1.0, "multiply_adds": size}
    if not isinstance(layer, Decomposed):
        return {**row, "decomp": "grouped" if is_grouped(layer) else "dense"}
    layout = layer.layout
    return {
        **row,
        "decomp": layout.decomp,
        "modes": str(layout.folding),
        "ranks": ", ".join(map(str, layout.ranks)),
        "parameters": layout.parameters,
        "share": layer.compression,
        "multiply_adds": layout.multiply_adds(layer.contraction),
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
