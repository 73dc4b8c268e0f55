"""Decomposed layers with random cores that are small enough for a test, and a step of their training."""

from string import ascii_lowercase, ascii_uppercase

import pytest
import torch
from torch import nn

from lowrank.formats import Layout, fold, solve
from lowrank.layers import Decomposed, DecomposedConv2d

contractions = pytest.mark.parametrize("contraction", ["factors", "weight"])


def filled(layer: Decomposed) -> Decomposed:
    with torch.no_grad():
        for core in layer.cores:
            core.normal_(std=core.shape[-1] ** -0.5)
    return layer


def convolution(decomp, outputs=12, inputs=10, kernel=1, dims=4, scale=0.4, contraction="auto", **geometry):
    layout = solve(decomp, [fold(outputs, inputs, dims, kernel**2)], rank_scale=scale)[0]
    return filled(DecomposedConv2d(nn.Conv2d(inputs, outputs, kernel, **geometry), layout, contraction))


def trained_step(module: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    module.zero_grad()
    module(x).float().square().sum().backward()
    return [parameter.grad for parameter in module.parameters()]


def einsum(layout: Layout, cores) -> torch.Tensor:
    """The weight by the definition of the format, in the cores' precision: [O, I]."""
    dims, bonds, modes, ranks = len(layout.folding.modes), ascii_lowercase, ascii_uppercase, ascii_lowercase[::-1]
    train = ",".join(bonds[k] + modes[k] + bonds[k + 1] for k in range(dims))
    expression = {
        "bottleneck": "Az,zB",
        "tt": train,
        "ring": train[:-1] + "a",
        "cp": ",".join(mode + "z" for mode in modes[:dims]),
        "tucker": ",".join([ranks[:dims], *(modes[k] + ranks[k] for k in range(dims))]),
        "tucker_tt": ",".join(
            [modes[k] + ranks[k] for k in range(dims)] + [bonds[k] + ranks[k] + bonds[k + 1] for k in range(dims)]
        ),
    }[layout.decomp]
    axes = "AB" if layout.decomp == "bottleneck" else modes[:dims]
    return torch.einsum(f"{expression}->{axes}", *cores).reshape(layout.folding.outputs, -1)
