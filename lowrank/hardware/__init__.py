"""All that makes training fast on the machine at hand; its users import from here alone.

A network learns the same with and without `accelerate`, but for rounding. Nothing in here knows the training loop.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..layers import Decomposed
from ..network import compute_blocks_by
from . import native
from .graph import Recorded, Step
from .precision import autocast, find_slowness, resolved_precision
from .process import best_device, total_memory, tune_process
from .thin import compute_block_natively

__all__ = ["accelerate", "autocast", "best_device", "find_slowness", "native", "resolved_precision", "total_memory"]


def accelerate(network: nn.Module, device: torch.device) -> Callable[[Step], Step]:
    """Move a network to a device and make it fast there; returns a function that makes a training step fast.

    On a CPU the blocks compute with the kernels in C++, if this machine's compiler can make them, and a step stays what
    it is. On a GPU a step is recorded as a CUDA graph, for which it must not wait for the GPU.
    """
    tune_process()
    network.to(device)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and not isinstance(layer, Decomposed):
            layer.to(memory_format=torch.channels_last)  # cores keep their own layout
    if device.type == "cpu" and native.library() is not None:
        compute_blocks_by(network, compute_block_natively)
    return Recorded if device.type == "cuda" else lambda step: step
