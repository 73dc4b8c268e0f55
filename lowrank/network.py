"""The CIFAR network, and any other network with its layers decomposed.

The network is the 64-128-256-512 ResNet of davidcpage/cifar10-fast, built from whatever makes a convolution.
"""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from tqdm import tqdm

from .allocation import Ranks, list_foldings, meet_error, place_ranks, spend_budget
from .errors import InputError
from .formats import FORMATS, RANK_RULES, Folding, Layout, fold, solve
from .initial import approximate, draw, silence
from .layers import Decomposed, DecomposedConv2d, DecomposedLinear, is_grouped, kernel_size, matrix_shape, named_layers
from .summary import summary

IMAGE = (3, 32, 32)
LOGIT_SCALE = 0.125  # cifar10-fast's: keeps the untrained network's predictions soft
INITS = ("weights", "random", "decompose", "decompose_rescaled")
PATIENCE = 3  # seconds until a bar shows how far the fits are
ALLOCATIONS = ("", "error", "even")


# --- the CIFAR network


def plain(x: Tensor, norm: nn.BatchNorm2d, pool: bool) -> Tensor:
    """relu(max_pool2d(norm(x), 2)), or without the pool: [B, C, H, W] -> [B, C, H / 2, W / 2] or as x."""
    x = norm(x)
    return torch.relu(F.max_pool2d(x, 2) if pool else x)  # they commute, and behind the pool a quarter is left


def composed(x: Tensor, convolution: nn.Module, norm: nn.BatchNorm2d, pool: bool) -> Tensor:
    """What a Block computes: [B, C, H, W] -> [B, O, H / 2, W / 2], or [B, O, H, W] without the pool."""
    return plain(convolution(x), norm, pool)


class Block(nn.Module):
    """Convolution, batch norm, optional 2x2 max pool, ReLU: [B, C, H, W] -> [B, outputs, H / pool, W / pool]."""

    def __init__(self, convolution: nn.Module, outputs: int, pool: bool = False) -> None:
        super().__init__()
        self.convolution = convolution
        self.norm = nn.BatchNorm2d(outputs)
        self.pool = pool
        self.compute = composed  # or thin.composed, which a training loop on a CPU sets

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(x, self.convolution, self.norm, self.pool)  # [B, outputs, H / pool, W / pool]


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


# --- any network


def matching(names: Sequence[str], skip: Iterable[str]) -> set[str]:
    """The names that a pattern of `skip` matches; raises InputError at a pattern that matches none."""
    matched = set()
    for pattern in [skip] if isinstance(skip, str) else skip:
        found = {name for name in names if fnmatch(name, pattern) or fnmatch(name, f"{pattern}.*")}
        if not found:
            raise InputError(f"skip={pattern!r} names no layer; there are {', '.join(names)}")
        matched |= found
    return matched


def chosen(module: nn.Module, skip: Iterable[str]) -> dict[nn.Module, list[str]]:
    """The layers to decompose, each with all its names; warns of grouped convolutions that are left."""
    layers = dict(named_layers(module, remove_duplicate=False))
    skipped = matching(list(layers), skip)
    kept = {name: layer for name, layer in layers.items() if name not in skipped and not isinstance(layer, Decomposed)}
    grouped = [name for name, layer in kept.items() if is_grouped(layer)]
    if grouped:
        warnings.warn(f"grouped convolutions are left as they are: {', '.join(grouped)}", stacklevel=3)
    names: dict[nn.Module, list[str]] = {}
    for name, layer in kept.items():
        if name not in grouped:
            names.setdefault(layer, []).append(name)
    if not names:
        raise InputError(f"skip={skip!r} leaves no Conv2d with groups=1 and no Linear to decompose")
    return names


def replace(module: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """The module with the one of this name replaced, in place; "" is the module itself."""
    if not name:
        return layer
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, layer)
    return module


def decompose(
    module: nn.Module,
    *,
    decomp: str = "tt",
    dims: int = 3,
    budget: float = 0.0,
    rank_scale: float = 0.0,
    error: float = 0.0,
    ranks: Ranks | None = None,
    rank_rule: str = "useful",
    allocation: str = "",
    init: str = "weights",
    skip: Iterable[str] = (),
    contraction: str = "auto",
) -> nn.Module:
    """A copy of the module with its Conv2d (groups=1) and Linear layers held in a tensor format.

    One of four says how small: `budget`, the share of the replaced layers' weights, all together, that the decomposed
    ones may use; `rank_scale`, the share of the way to the largest useful ranks; `error`, the relative error that no
    layer may exceed, each as small as it allows, and left dense if nothing smaller does; `ranks`, one number for all
    ranks of all layers, or a tuple of them for each pattern of layer names. `allocation` "error" spends a budget where
    the error of the approximation falls most, "even" all layers and ranks in proportion to the largest useful ones; it
    is "error" unless said otherwise if the cores start at the module's weights. `init` "weights" starts at the best
    approximation of those, "random" at orthogonal cores of the same spread, "decompose" at the approximation of a
    fresh dense draw, "decompose_rescaled" at that with the spread restored. `skip` names layers to leave, by shell
    patterns; grouped convolutions are left, with a warning.

    Raises InputError, one line that names the argument, if it is out of range or the budget cannot be met.
    """
    check(decomp, dims, rank_rule, allocation, init)
    check_size(budget, rank_scale, error, ranks, allocation)
    module = copy.deepcopy(module)
    names = chosen(module, skip)
    foldings = [fold(*matrix_shape(layer), dims, kernel_size(layer), rank_rule) for layer in names]
    fitted = init == "weights" and rank_rule == "useful" and not any(layer.weight.is_meta for layer in names)
    with one_line():
        if error:
            layouts = shrink(decomp, dims, list(names), error)
        elif ranks is not None:
            layouts = place_ranks(decomp, foldings, list(names.values()), ranks)
        elif budget and (allocation or ("error" if fitted else "even")) == "error":
            layouts = spend_budget(decomp, [layer.weight for layer in names], options(decomp, names, dims), budget)
        else:
            layouts = solve(decomp, foldings, budget=budget, rank_scale=rank_scale, rank_rule=rank_rule)
    layers = tqdm(names.items(), "decomposing", leave=False, delay=PATIENCE, unit="layer")
    for (layer, layer_names), layout in zip(layers, layouts, strict=True):
        if layout is not None:
            decomposed = held(layer, layout, init, contraction)
            for name in layer_names:
                module = replace(module, name, decomposed)
    return module


def options(decomp: str, layers: Iterable[nn.Module], dims: int) -> list[list[Folding]]:
    """The foldings that each layer may have."""
    return [list_foldings(decomp, *matrix_shape(layer), dims, kernel_size(layer)) for layer in layers]


def shrink(decomp: str, dims: int, layers: Sequence[nn.Module], error: float) -> list[Layout | None]:
    """The smallest layout of each layer within a relative error; None if only the dense layer is."""
    weights = [layer.weight for layer in layers]

    def measure(layer: int, layout: Layout) -> float:
        return held(layers[layer], layout, "weights", "auto").error

    found = meet_error(decomp, weights, options(decomp, layers, dims), error, measure)
    layouts = list(tqdm(found, "fitting", len(layers), leave=False, delay=PATIENCE, unit="layer"))
    if not any(layouts):
        raise ValueError(f"error={error}: no layer has a {decomp} that is smaller than its weight and as near to it")
    return layouts


@contextmanager
def one_line() -> Iterator[None]:
    """Makes the ValueError of formats and layers the InputError that a notebook shows in one line."""
    try:
        yield
    except ValueError as error:
        raise InputError(str(error)) from None


def check(decomp: str, dims: int, rank_rule: str, allocation: str, init: str) -> None:
    for name, value, allowed in (
        ("decomp", decomp, FORMATS),
        ("rank_rule", rank_rule, RANK_RULES),
        ("allocation", allocation, ALLOCATIONS),
        ("init", init, INITS),
    ):
        if value not in allowed:
            raise InputError(f"{name}={value!r}; allowed: {', '.join(filter(None, allowed))}")
    if not isinstance(dims, int) or dims < 2:
        raise InputError(f"dims={dims!r}; allowed: an integer >= 2")


def check_size(budget: float, rank_scale: float, error: float, ranks: Ranks | None, allocation: str) -> None:
    sizes = {"budget": budget, "rank_scale": rank_scale, "error": error, "ranks": ranks}
    said = {name: value for name, value in sizes.items() if value not in (0, None)}
    if len(said) != 1 or any(not 0 < value <= 1 for name, value in said.items() if name != "ranks"):
        shown = ", ".join(f"{name}={value!r}" for name, value in (said or {"budget": budget}).items())
        raise InputError(f"{shown}; allowed: one of budget, rank_scale and error, above 0 and up to 1, or ranks")
    if allocation == "error" and rank_scale:
        raise InputError(f"allocation='error', rank_scale={rank_scale!r}; allowed: rank_scale with allocation='even'")


@torch.no_grad()
def held(layer: nn.Conv2d | nn.Linear, layout: Layout, init: str, contraction: str) -> Decomposed:
    """The layer in this layout, its cores started as `init` says; on the meta device there is nothing to start."""
    kind = DecomposedConv2d if isinstance(layer, nn.Conv2d) else DecomposedLinear
    if isinstance(layer, NonDynamicallyQuantizableLinear):
        contraction = "weight"  # nn.MultiheadAttention takes this layer's weight and never calls it
    with one_line():
        decomposed = kind(layer, layout, contraction)
    weight = layer.weight
    if weight.is_meta:
        return decomposed
    std = weight.float().square().mean().sqrt().item()
    if std == 0:
        silence(decomposed)
    elif init == "random":
        draw(decomposed, std)
    elif init == "weights":
        decomposed.error = approximate(decomposed, weight)
    else:
        dense = std * torch.randn(weight.shape)
        decomposed.error = approximate(decomposed, dense, std if init == "decompose_rescaled" else None)
    return decomposed


@torch.no_grad()
def densify(module: nn.Module) -> nn.Module:
    """A copy of the module with every decomposed layer made a plain Conv2d or Linear with the weight of its cores."""
    module = copy.deepcopy(module)
    layers = {}
    for name, layer in named_layers(module, remove_duplicate=False):
        if isinstance(layer, Decomposed):
            if layer not in layers:
                layers[layer] = layer.dense()
            module = replace(module, name, layers[layer])
    return module
