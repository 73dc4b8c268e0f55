"""Learning rates for cores, and groups of parameters for a loop of one's own.

With these rates a step moves the weight through any core about as far as it would move it directly. A gradient step
on core k moves W by J J^T times the step on W itself, where J is the derivative of W by the core. How large J is
depends on the format, its ranks and its modes: a rate that suits a matrix is too high for a long train. Yang & Hu
(2021, arXiv 2011.14522) choose rates by what a step does to the function; here it is what it does to W.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .errors import InputError
from .layers import Decomposed

SAMPLES = 256  # random entries of a core, at least, from which its gain is estimated
PLAIN = {"device": "cpu", "dtype": torch.float32}  # whatever a user's defaults are
AIM = 2.0  # of steps in W: with it 0.4 is the best of the learning rates in benchmarks/rates.py for every network there


def core_rates(network: nn.Module) -> dict[Tensor, float]:
    """What the learning rate of each core is multiplied by: AIM / gain, as a power of two."""
    rates = {}
    for layer in network.modules():
        if isinstance(layer, Decomposed):
            for core, gain in zip(layer.cores, gains(layer), strict=True):
                rates[core] = 2.0 ** round(math.log2(AIM / gain))  # few values: the optimiser takes a group for each
    return rates


@torch.no_grad()
def gains(layer: Decomposed) -> list[float]:
    """The mean square of the norm of dW by one entry of each core; 1 for a weight that is its own core.

    W is linear in a core, so that a random core in its place gives an estimate, the same every time.
    """
    generator, found = torch.Generator().manual_seed(0), []
    cores = [core.detach().to("cpu", torch.float32) for core in layer.cores]
    for k, core in enumerate(cores):
        draws = torch.randn(math.ceil(SAMPLES / core.numel()), *core.shape, generator=generator, **PLAIN)
        squares = [layer.layout.weight([*cores[:k], draw, *cores[k + 1 :]]).square().sum() for draw in draws]
        found.append(torch.stack(squares).mean().item() / core.numel())
    return found


def parameter_groups(
    network: nn.Module, learning_rate: float, weight_decay: float = 0.0, matrices: bool | None = None
) -> list[dict[str, Any]]:
    """Every trainable parameter once, in groups for an optimiser: SGD(parameter_groups(net, 0.1), momentum=0.9).

    A core's learning rate is multiplied by its own of `core_rates`, and its weight decay divided by it, as SGD
    multiplies the two. They are rates for SGD: optimisers that scale each step themselves want `matrices`.

    For those that take matrices only, such as Muon, `matrices=True` gives the parameters of two axes in one group,
    without rates, and `matrices=False` all others, with them: cores of three axes and more, biases, dense kernels.

    Raises InputError if the learning rate is not above 0, the weight decay is below 0 or there is nothing to give.
    """
    if not learning_rate > 0 or not weight_decay >= 0:
        raise InputError(f"learning_rate={learning_rate!r}, weight_decay={weight_decay!r}; allowed: above 0, 0 or more")
    rates = {} if matrices else core_rates(network)
    members: dict[float, list[nn.Parameter]] = {}
    for parameter in network.parameters():
        if parameter.requires_grad and matrices in (None, parameter.dim() == 2):
            members.setdefault(rates.get(parameter, 1.0), []).append(parameter)
    if not members:
        raise InputError(f"matrices={matrices!r}: the network has no such parameter to train")
    return [
        {"params": each, "lr": learning_rate * rate, "weight_decay": weight_decay / rate}
        for rate, each in members.items()
    ]
