"""Convolutions and linear layers whose weight is held as a tensor decomposition.

A decomposed layer holds its cores as plain parameters and a Layout (lowrank.formats) that says how they fit
together. Shapes below: O outputs, I inputs (in_channels * kernel height * kernel width), m the inner width,
n modes, r TT-ranks, t Tucker ranks, R the CP rank. Formats cite their papers in lowrank.formats.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .formats import Folding, Layout, cheapest

Factors = tuple[Tensor, Tensor]  # L [O, m] and R [m, I] with W = L @ R
Contract = Callable[[Sequence[Tensor], Folding], Factors | Tensor]  # W itself where the format has no inner width

PRODUCT = 2**15  # weights of a 1x1 convolution above which a matrix product is faster on a CPU in float32


def separable(inputs: int, outputs: int) -> nn.Sequential:
    """A depthwise 3x3 and a pointwise convolution: [B, inputs, H, W] -> [B, outputs, H, W]."""
    depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)  # [B, inputs, H, W]
    pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)  # [B, outputs, H, W]
    return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise))  # [B, outputs, H, W]


def dense(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution: [B, inputs, H, W] -> [B, outputs, H, W]."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


# --- contracting the cores: (cores, folding) -> L [O, m], R [m, I]


def bottleneck(cores: Sequence[Tensor], folding: Folding) -> Factors:
    left, right = cores  # [O, r], [r, I]
    return left, right


def last_product(modes: tuple[int, ...], bonds: tuple[int, ...]) -> int:
    return cheapest(modes, bonds)[1]


# Integers only: not for a compiler to trace. torch.compiler.assume_constant_result sets just this, but importing it
# takes nearly as long as importing torch.
last_product._dynamo_marked_constant = True


def joined(cores: Sequence[Tensor]) -> Tensor:
    """Contract neighbouring cores [r[k-1], n[k], r[k]] in the cheapest order: [r[0], n1 ... n[d], r[d]]."""
    if len(cores) == 1:
        return cores[0]  # [r0, n1, r1]
    bonds = (cores[0].shape[0], *(core.shape[2] for core in cores))
    cut = last_product(tuple(core.shape[1] for core in cores), bonds)
    left, right = joined(cores[:cut]), joined(cores[cut:])  # [r0, n1 ... n[k], r[k]], [r[k], n[k+1] ... n[d], r[d]]
    product = left.flatten(0, 1) @ right.flatten(1)  # [r0 * n1 ... n[k], n[k+1] ... n[d] * r[d]]
    return product.reshape(bonds[0], -1, bonds[-1])  # [r0, n1 ... n[d], r[d]]


def tensor_train(cores: Sequence[Tensor], folding: Folding) -> Factors:
    left, right = joined(cores[: folding.rows]), joined(cores[folding.rows :])  # [1, O, r[cut]], [r[cut], I, 1]
    return left[0], right[..., 0]  # [O, r[cut]], [r[cut], I]


def ring(cores: Sequence[Tensor], folding: Folding) -> Factors:
    left, right = joined(cores[: folding.rows]), joined(cores[folding.rows :])  # [r0, O, r[cut]], [r[cut], I, r0]
    return left.transpose(0, 1).flatten(1), right.permute(2, 0, 1).flatten(0, 1)  # [O, r0 * r[cut]], [r0 * r[cut], I]


def khatri_rao(factors: Sequence[Tensor]) -> Tensor:
    """Columns of [n[k], R] multiplied as Kronecker products: [n1 ... n[k], R]."""
    product = factors[0]  # [n1, R]
    for factor in factors[1:]:
        product = (product[:, None] * factor).flatten(0, 1)  # [n1 ... n[k], R]
    return product


def cp(cores: Sequence[Tensor], folding: Folding) -> Factors:
    left = khatri_rao(cores[: folding.rows])  # [O, R]
    right = khatri_rao(cores[folding.rows :])  # [I, R]
    return left, right.T  # [O, R], [R, I]


def kronecker(factors: Sequence[Tensor]) -> Tensor:
    """Of the Tucker factors [n[k], t[k]] of one side: [n1 ... n[k], t1 ... t[k]]."""
    product = factors[0]  # [n1, t1]
    for factor in factors[1:]:
        product = product[:, None, :, None] * factor[None, :, None, :]  # [n1 ..., n[k], t1 ..., t[k]]
        product = product.flatten(2).flatten(0, 1)  # [n1 ... n[k], t1 ... t[k]]
    return product


def expand(core: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """Mode products of a core [m, t1 ... t[k]] with [n[k], t[k]] over all but its first mode: [m, n1 ... n[k]]."""
    width = core.shape[0]
    for factor in factors:  # takes the first of the other modes and puts its product last
        core = core.reshape(width, factor.shape[1], -1).transpose(1, 2)  # [m, t[k+1] ... n[k-1], t[k]]
        core = core @ factor.T  # [m, t[k+1] ... n[k-1], n[k]]
    return core.reshape(width, -1)  # [m, n1 ... n[k]]


def tucker(cores: Sequence[Tensor], folding: Folding) -> Factors:
    core, left, right = cores[0], cores[1 : folding.rows + 1], cores[folding.rows + 1 :]
    core = core.flatten(0, folding.rows - 1).flatten(1)  # [t over outputs, t over inputs]
    if core.shape[0] <= core.shape[1]:
        return kronecker(left), expand(core, right)  # [O, m], [m, I]
    return expand(core.T, left).T, kronecker(right).T  # [O, m], [m, I]


def tucker_tt(cores: Sequence[Tensor], folding: Folding) -> Factors:
    return tensor_train(train(cores), folding)  # [O, r[cut]], [r[cut], I]


def train(cores: Sequence[Tensor]) -> list[Tensor]:
    """The cores of the tensor train that Tucker factors [n[k], t[k]] and cores [r[k-1], t[k], r[k]] make."""
    dims = len(cores) // 2
    return [factor @ core for factor, core in zip(cores[:dims], cores[dims:], strict=True)]  # [r[k-1], n[k], r[k]]


FACTORS: dict[str, Contract] = {
    "bottleneck": bottleneck,
    "tt": tensor_train,
    "tucker": tucker,
    "tucker_tt": tucker_tt,
    "cp": cp,
    "ring": ring,
}


# Where the cheapest way to W is not by the factors: cores -> W in any shape.
WEIGHTS: dict[str, Callable[[Sequence[Tensor]], Tensor]] = {
    "tt": joined,
    "tucker_tt": lambda cores: joined(train(cores)),
}


def matrix(cores: Sequence[Tensor], layout: Layout) -> Tensor:
    """The weight that the cores make, [O, I]."""
    if layout.decomp in WEIGHTS:
        return WEIGHTS[layout.decomp](cores).reshape(layout.folding.outputs, -1)  # [O, I]
    made = FACTORS[layout.decomp](cores, layout.folding)
    weight = made if isinstance(made, Tensor) else made[0] @ made[1]
    return weight.reshape(layout.folding.outputs, -1)  # [O, I]


# --- the layers


def one_by_one(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of x [B, I, H, W], or without B, with a weight [O, I, 1, 1]: [B, O, H, W], channels_last as x."""
    # A matrix product of 256 x 256 weights takes 16 to 40% less time than torch's convolution, of 32 x 16 60% more.
    if x.device.type == "cpu" and x.dtype == torch.float32 and weight.numel() > PRODUCT and not x.is_contiguous():
        return F.linear(x.movedim(-3, -1), weight[:, :, 0, 0], bias).movedim(-1, -3)  # [B, O, H, W]
    return F.conv2d(x, weight, bias)  # [B, O, H, W]


class Decomposed(nn.Module):
    """What the decomposed layers share: the cores and the weight that they make.

    `contraction` is "factors" (two thin products through m channels), "weight" (one product, W built once a
    step) or "auto", the cheaper by counted work. Cores are contracted in float32 with autocast off, and the
    result is rounded once to the precision of the product.
    """

    layout: Layout
    contraction: str
    error: float = 0.0  # relative, of the approximation that the cores started as

    def _hold(self, layer: nn.Conv2d | nn.Linear, layout: Layout, contraction: str) -> None:
        """Take over the bias of a dense layer, and make uninitialised cores where and as its weight is."""
        if contraction not in ("auto", "factors", "weight"):
            raise ValueError(f"contraction={contraction!r}; allowed: auto, factors, weight")
        if contraction == "factors" and layout.inner is None:
            raise ValueError(f"contraction='factors': {layout.decomp} with modes {layout.folding.modes} has no cut")
        self.layout = layout
        self.contraction = layout.contraction if contraction == "auto" else contraction
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

    def factors(self) -> Factors:
        """L [O, m] and R [m, I] with W = L @ R, in float32 or wider."""
        with without_autocast(self.core_0):
            return FACTORS[self.layout.decomp](widened(self.cores), self.layout.folding)

    def matrix(self) -> Tensor:
        """The weight that the cores make, [O, I] in float32 or wider."""
        with without_autocast(self.core_0):
            return matrix(widened(self.cores), self.layout)  # [O, I]

    def extra_repr(self) -> str:
        layout = self.layout
        modes, rows = layout.folding.modes, layout.folding.rows
        folded = f"modes={'x'.join(map(str, modes[:rows]))}|{'x'.join(map(str, modes[rows:]))}"
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
        if (self.kernel_size, self.stride, self.padding) == ((1, 1), (1, 1), (0, 0)):
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
        left, right = (factor.to(x.dtype) for factor in self.factors())  # [O, m], [m, I]
        return F.linear(F.linear(x, right), left, self.bias)  # [..., O]


# --- what a layer is


def named_layers(module: nn.Module, remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Module]]:
    """Every Conv2d and Linear, decomposed ones included, under its first name or under each of its names."""
    for name, layer in module.named_modules(remove_duplicate=remove_duplicate):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            yield name, layer


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
    modes, rows = layout.folding.modes, layout.folding.rows
    return {
        **row,
        "decomp": layout.decomp,
        "modes": " x ".join(map(str, modes[:rows])) + " | " + " x ".join(map(str, modes[rows:])),
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
