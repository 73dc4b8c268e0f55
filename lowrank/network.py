"""The CIFAR network: the 64-128-256-512 ResNet of davidcpage/cifar10-fast, from whatever makes a convolution."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import PLAIN, Config
from .errors import InputError, whole_number
from .formats import check_sizes, fold
from .layers import dense, separable
from .surgery import decompose
from .surgery.inventory import summary
from .surgery.parts import is_named

IMAGE = (3, 32, 32)
SIZED_BY = ("decomp", "dims", "rank_scale", "budget", "rank_rule", "width")  # parameters that decide the sizes
MOST_CLASSES = 10**6
LEFT = ("first", "*depthwise", "head")  # what no decomposition touches
LOGIT_SCALE = 0.125  # cifar10-fast's: keeps the untrained network's predictions soft


def norm_pool_relu(x: Tensor, norm: nn.BatchNorm2d, pool: bool) -> Tensor:
    """relu(max_pool2d(norm(x), 2)), or without the pool: [B, C, H, W] -> [B, C, H / 2, W / 2] or as x."""
    x = norm(x)
    return torch.relu(F.max_pool2d(x, 2) if pool else x)  # they commute, and behind the pool a quarter is left


def compute_block(x: Tensor, convolution: nn.Module, norm: nn.BatchNorm2d, pool: bool) -> Tensor:
    """What a Block computes: [B, C, H, W] -> [B, O, H / 2, W / 2], or [B, O, H, W] without the pool."""
    return norm_pool_relu(convolution(x), norm, pool)


class Block(nn.Module):
    """Convolution, batch norm, optional 2x2 max pool, ReLU: [B, C, H, W] -> [B, outputs, H / pool, W / pool]."""

    def __init__(self, convolution: nn.Module, outputs: int, pool: bool = False) -> None:
        super().__init__()
        self.convolution = convolution
        self.norm = nn.BatchNorm2d(outputs)
        self.pool = pool
        self.compute = compute_block  # compute_blocks_by sets another

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(x, self.convolution, self.norm, self.pool)  # [B, outputs, H / pool, W / pool]


def compute_blocks_by(network: nn.Module, compute: Callable[[Tensor, nn.Module, nn.BatchNorm2d, bool], Tensor]) -> None:
    """Have all Blocks of a network compute by another function than `compute_block`, with the same arguments."""
    for module in network.modules():
        if isinstance(module, Block):
            module.compute = compute


class Residual(nn.Sequential):
    """x + f(x): [B, C, H, W] -> [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)  # [B, C, H, W]


class Head(nn.Module):
    """The largest activation of every channel, then a scaled linear classifier: [B, C, H, W] -> [B, classes]."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return LOGIT_SCALE * self.linear(x.amax((2, 3)))  # [B, classes]


class Network(nn.Sequential):
    """A Sequential that shows itself in a line and, in a notebook, as the table of its layers."""

    def __repr__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.parameters())
        return f"{type(self).__name__}({', '.join(self._modules)}; {parameters:,} parameters)"

    def _repr_html_(self) -> str:
        return summary(self, IMAGE).to_html(formatters={"multiply_adds": "{:,}".format, "parameters": "{:,}".format})


def cifar_network(width: int, classes: int, convolution: Callable[[int, int], nn.Module]) -> Network:
    """[B, 3, 32, 32] -> [B, classes]; `convolution(inputs, outputs)` makes the seven that may be decomposed."""

    def block(inputs: int, outputs: int, pool: bool = False) -> Block:
        return Block(convolution(inputs, outputs), outputs, pool)

    w = width
    first = Block(nn.Conv2d(3, w, 3, padding=1, bias=False), w)
    return Network(
        OrderedDict(
            first=first,
            layer1=block(w, 2 * w, pool=True),
            residual1=Residual(block(2 * w, 2 * w), block(2 * w, 2 * w)),
            layer2=block(2 * w, 4 * w, pool=True),
            layer3=block(4 * w, 8 * w, pool=True),
            residual3=Residual(block(8 * w, 8 * w), block(8 * w, 8 * w)),
            head=Head(8 * w, classes),
        )
    )


def build(config: Config, classes: int) -> nn.Module:
    """The network of a Config with its initial weights: [B, 3, 32, 32] -> [B, classes].

    Raises InputError if the format cannot hold one of the weights, the budget cannot be met, or there are no classes.

    >>> lowrank.build(lowrank.Config(decomp="tt", dims=3, budget=0.5, width=4), classes=10)
    Network(first, layer1, residual1, layer2, layer3, residual3, head; 3,104 parameters)
    """
    if not isinstance(config, Config):
        raise InputError(f"config={config!r}; allowed: a lowrank.Config")
    classes = whole_number("classes", classes, 1, MOST_CLASSES)
    if config.decomp not in PLAIN:
        check_sizes(config.decomp, [fold(*shape, config.dims) for shape in pointwise_shapes(config.width)])
    torch.manual_seed(config.seed)
    net = cifar_network(config.width, classes, dense if config.decomp == "dense" else separable)
    if config.decomp in PLAIN:
        return net
    names = ("decomp", "dims", "budget", "rank_scale", "rank_rule", "init")
    return decompose(net, skip=is_left, allocation="even", **{name: getattr(config, name) for name in names})


def is_left(name: str, layer: nn.Module | None = None) -> bool:
    """Whether no decomposition touches the layer of this name."""
    return any(is_named([name], left) for left in LEFT)


def pointwise_shapes(width: int) -> list[tuple[int, int]]:
    """(outputs, inputs) of the seven pointwise convolutions of the separable network, which decompositions replace."""
    with torch.device("meta"):
        named = cifar_network(width, 1, separable).named_modules()
        return [(each.out_channels, each.in_channels) for name, each in named if name.endswith("pointwise")]


def select_decomposable(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `lowrank.summary` of the seven convolutions that may be decomposed, in the order of the network."""
    return table[[not is_left(name) for name in table.index]]
