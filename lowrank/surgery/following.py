"""Which weights the output of a network follows, as one forward pass and its gradient tell."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import InputError
from ..layers import Decomposed
from .parts import run_example, survey


def refuse_unfollowed(module: nn.Module, net: nn.Module, example: Any) -> None:
    """Raise InputError at layers that the output of the dense module follows, and whose cores the new one does not."""
    cores = {part.name: part.module.cores for part in survey(net) if isinstance(part.module, Decomposed)}
    layers = {name: module.get_submodule(name) for name in cores}
    weights = {name: [layer.weight] for name, layer in layers.items() if not isinstance(layer, Decomposed)}
    followed = find_followed(module, weights, example)
    if weights and not followed:
        warnings.warn(
            "example: no gradient of its output reaches a weight, which leaves unknown what follows the cores",
            stacklevel=5,
        )
    lost = followed - find_followed(net, cores, example)
    if lost:
        raise InputError(
            f"the output does not follow the cores of {', '.join(sorted(lost))}: forward reaches the weight by another "
            "way than the layer, a function that holds it, for one; change that, or skip the layer"
        )


@torch.enable_grad()
def find_followed(module: nn.Module, parameters: Mapping[str, Sequence[nn.Parameter]], example: Any) -> set[str]:
    """The names under which a parameter has a gradient of the output, frozen ones included."""
    flat = [(name, parameter) for name, each in parameters.items() for parameter in each]
    frozen = [parameter for _, parameter in flat if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        leaves = [each for each in tree_leaves(run_example(module, example)) if isinstance(each, Tensor)]
        sums = [each.sum() for each in leaves if each.requires_grad]
        if not sums:
            return set()
        gradients = torch.autograd.grad(sums, [parameter for _, parameter in flat], allow_unused=True)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    return {name for (name, _), gradient in zip(flat, gradients, strict=True) if gradient is not None}
