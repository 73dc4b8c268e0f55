"""Learning rates for cores: a step moves the weight through any core about as far as it would move it directly.

A gradient step on core k moves W by J J^T times the step on W itself, where J is the derivative of W by the core. How
large J is depends on the format, its ranks and its modes: a rate that suits a matrix is too high for a long train.
Yang & Hu (2021, arXiv 2011.14522) choose rates by what a step does to the function; here it is what it does to W.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .layers import Decomposed

SAMPLES = 256  # random entries of a core, at least, from which its gain is estimated
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
    cores = [core.detach().float().cpu() for core in layer.cores]
    for k, core in enumerate(cores):
        draws = torch.randn(math.ceil(SAMPLES / core.numel()), *core.shape, generator=generator)  # [draws, *core]
        squares = [layer.layout.weight([*cores[:k], draw, *cores[k + 1 :]]).square().sum() for draw in draws]
        found.append(torch.stack(squares).mean().item() / core.numel())
    return found
