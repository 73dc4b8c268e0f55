"""The optimiser: the schedule of the learning rate, the weight decay and the rate of every parameter.

A step on core k moves the weight by J J^T times the step on W itself, J being the derivative of W by the core. How
large J is depends on the format, its ranks and its modes: a rate that suits a matrix is too high for a long train. With
the rates here a step moves the weight through any core about as far as it would move it directly. Yang & Hu (2021,
arXiv 2011.14522) choose rates by what a step does to the function; here it is what it does to W.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from .config import Config
from .errors import InputError
from .layers import Decomposed
from .surgery.parts import check_module

WARM_UP = 5 / 24  # of a triangle schedule
SAMPLES = 256  # random entries of a core, at least, from which its gain is estimated
CPU_FLOAT32 = {"device": "cpu", "dtype": torch.float32}  # whatever a user's defaults are
AIM = 2.0  # of steps in W: with it 0.4 is the best of the learning rates in benchmarks/rates.py for every network there

# --- the schedule: the share of the peak learning rate at `progress` in [0, 1] through the run


def triangle(progress: float) -> float:
    """Linear warm-up, then linear to 0."""
    return min(progress / WARM_UP, (1 - progress) / (1 - WARM_UP))


def cosine(progress: float) -> float:
    """From the peak to 0, without warm-up."""
    return (1 + math.cos(math.pi * progress)) / 2


def constant(progress: float) -> float:
    return 1.0


SCHEDULES: dict[str, Callable[[float], float]] = {each.__name__: each for each in (triangle, cosine, constant)}


# --- rates of cores


def core_rates(network: nn.Module) -> dict[Tensor, float]:
    """What the learning rate of each core is multiplied by: AIM / gain, as a power of two."""
    rates = {}
    for layer in network.modules():
        if isinstance(layer, Decomposed):
            for core, gain in zip(layer.cores, gains(layer), strict=True):
                # few values: the optimiser takes a group for each. A core that others of zeros hide moves nothing yet
                rates[core] = 2.0 ** round(math.log2(AIM / gain)) if gain else 1.0
    return rates


@torch.no_grad()
def gains(layer: Decomposed) -> list[float]:
    """The mean square of the norm of dW by one entry of each core; 1 for a weight that is its own core.

    W is linear in a core, so that a random core in its place gives an estimate, the same every time.
    """
    generator, found = torch.Generator().manual_seed(0), []
    cores = [core.detach().to("cpu", torch.float32) for core in layer.cores]
    for k, core in enumerate(cores):
        draws = torch.randn(math.ceil(SAMPLES / core.numel()), *core.shape, generator=generator, **CPU_FLOAT32)
        squares = [layer.layout.weight([*cores[:k], draw, *cores[k + 1 :]]).square().sum() for draw in draws]
        found.append(torch.stack(squares).mean().item() / core.numel())
    return found


# --- groups of parameters


def group_by_rate(parameters: Iterable[nn.Parameter], rates: Mapping[Tensor, float]) -> dict[float, list[nn.Parameter]]:
    """The parameters under what their learning rate is multiplied by, 1 for those that have none of their own."""
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(rates.get(parameter, 1.0), []).append(parameter)
    return groups


def weight_decays(network: nn.Module, config: Config) -> dict[float, list[nn.Parameter]]:
    """Every trainable parameter under its weight decay; `frobenius` acts through the loss on decomposed layers."""
    plain = 0.0 if config.decay == "none" else config.weight_decay
    groups: dict[float, list[nn.Parameter]] = {}
    for module in network.modules():
        cores = {id(core) for core in module.cores} if isinstance(module, Decomposed) else set()
        for parameter in module.parameters(recurse=False):
            decay = plain
            if id(parameter) in cores and config.decay == "compression":
                decay *= module.compression
            if id(parameter) in cores and config.decay == "frobenius":
                decay = 0.0
            groups.setdefault(decay, []).append(parameter)
    return groups


def make_optimiser(network: nn.Module, config: Config) -> torch.optim.SGD:
    """SGD with a group for each weight decay and each `rate`, which multiplies the learning rate and not the decay.

    Raises RuntimeError if a parameter or a group was lost.
    """
    rates = core_rates(network) if config.uses("core rates") else {}
    groups = [
        {"params": each, "weight_decay": decay / rate, "rate": rate}  # SGD multiplies the decay by the learning rate
        for decay, parameters in weight_decays(network, config).items()
        for rate, each in group_by_rate(parameters, rates).items()
    ]
    held = [parameter for group in groups for parameter in group["params"]]
    if {id(p) for p in held} != {id(p) for p in network.parameters()} or not all(group["params"] for group in groups):
        raise RuntimeError("the optimiser's groups do not hold every parameter exactly once")
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=True, fused=True)


def is_number(value: Any) -> bool:
    """Whether it is a finite number, which an optimiser takes as a tensor, too."""
    if isinstance(value, Tensor):
        plain = value.dim() == 0 and value.layout is torch.strided and not value.is_meta
        value = value.item() if plain else None
    return isinstance(value, Real) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def parameter_groups(
    network: nn.Module, learning_rate: float, weight_decay: float = 0.0, matrices: bool | None = None
) -> list[dict[str, Any]]:
    """Every trainable parameter once, in groups for an optimiser: SGD(parameter_groups(net, 0.1), momentum=0.9).

    The learning rate of each core is multiplied by a factor, so that a step through it moves the weight about as far as
    a step on the weight itself. Its weight decay is divided by that factor, as SGD multiplies the two. The factors are
    for SGD; an optimiser that scales each step itself, as Adam does, takes `network.parameters()`.

    For those that take matrices only, such as Muon, `matrices=True` gives the parameters of two axes in one group,
    without rates, and `matrices=False` all others, with them: cores of three axes and more, biases, dense kernels.

    Raises InputError if the learning rate is not above 0, the weight decay is below 0 or there is nothing to give.

    >>> import torch
    >>> layer = lowrank.decompose(torch.nn.Linear(64, 64), decomp="tt", budget=0.25)
    >>> optimiser = torch.optim.SGD(lowrank.parameter_groups(layer, 0.1, weight_decay=5e-4), momentum=0.9)
    """
    check_module(network, "network")
    if not (is_number(learning_rate) and learning_rate > 0 and is_number(weight_decay) and weight_decay >= 0):
        raise InputError(f"learning_rate={learning_rate!r}, weight_decay={weight_decay!r}; allowed: above 0, 0 or more")
    if matrices is not None and type(matrices) is not bool:
        raise InputError(f"matrices={matrices!r}; allowed: True, False or None")
    if any(isinstance(each, UninitializedParameter) for each in network.parameters()):
        raise InputError("network: a layer of it is lazy; let it see an input first")
    chosen = [each for each in network.parameters() if each.requires_grad and matrices in (None, each.dim() == 2)]
    if not chosen:
        raise InputError(f"matrices={matrices!r}: the network has no such parameter to train")
    return [
        {"params": each, "lr": learning_rate * rate, "weight_decay": weight_decay / rate}
        for rate, each in group_by_rate(chosen, {} if matrices else core_rates(network)).items()
    ]
