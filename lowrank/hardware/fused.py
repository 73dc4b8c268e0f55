"""Batch norm, 2x2 max pool and ReLU of a block in one go on a CPU: what torch does in five passes over the memory.

fused.cpp does the work, on channels_last images in float32 or bfloat16; torch does what it cannot.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..network import norm_pool_relu
from .native import SUFFIXES, call_kernel


def fused_norm_pool_relu(x: Tensor, norm: nn.BatchNorm2d, pool: bool) -> Tensor:
    """relu(max_pool2d(norm(x), 2)), or without the pool: [B, C, H, W] -> [B, C, H / 2, W / 2] or as x.

    x is on a CPU. As network.norm_pool_relu but for rounding: the normalised x is not rounded on the way.
    """
    if not suits_kernels(x, pool) or (not norm.training and torch.is_grad_enabled()):
        return norm_pool_relu(x, norm, pool)
    if norm.training:
        return NormPoolReLU.apply(x, norm.weight, norm.bias, norm, pool)
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()  # [C]
    return activate(x, pool, scale, norm.bias - norm.running_mean * scale)


def suits_kernels(x: Tensor, pool: bool) -> bool:
    """Whether the kernels can take x [B, C, H, W]."""
    even = x.shape[2] % 2 == x.shape[3] % 2 == 0
    return x.dtype in SUFFIXES and x.is_contiguous(memory_format=torch.channels_last) and (even or not pool)


class NormPoolReLU(torch.autograd.Function):
    """Ioffe & Szegedy (2015), algorithm 1 and its gradients, with max pool and ReLU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d, pool: bool) -> Tensor:
        count = x.numel() // x.shape[1]
        shift = x[0, :, 0, 0].float()  # a value of the channel keeps its squares from cancelling
        first, second = sum_channels("moments", x, shift) / count
        mean, variance = shift + first, (second - first.square()).clamp(min=0)  # [C], [C]
        update_statistics(norm, mean, variance * count / max(1, count - 1))
        inverse = (variance + norm.eps).rsqrt()  # [C]
        scale = weight * inverse  # [C]
        offset = bias - mean * scale  # [C]
        ctx.save_for_backward(x, mean, inverse, scale, offset)
        ctx.pool = pool
        return activate(x, pool, scale, offset)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, inverse, scale, offset = ctx.saved_tensors
        gradient = gradient.to(x.dtype).contiguous(memory_format=torch.channels_last)
        count = x.numel() // x.shape[1]
        bias, weight = sum_channels("reduce", x, gradient, scale, offset, mean, pool=ctx.pool)
        slope = -scale * inverse.square() * weight / count  # [C], of x - mean
        rest = -scale * bias / count - slope * mean  # [C]
        result = torch.empty_like(x)
        call_kernel("backward", x, gradient, scale, offset, slope, rest, result, pool=ctx.pool)
        return result, weight * inverse, bias, None, None


@torch.no_grad()
def update_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics, which evaluation uses, towards a batch's mean and variance, [C] each."""
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance, norm.momentum)


# --- calls of the library


def activate(x: Tensor, pool: bool, scale: Tensor, offset: Tensor) -> Tensor:
    images, channels, height, width = x.shape
    size = (images, channels, height // 2, width // 2) if pool else x.shape
    result = torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)
    call_kernel("forward", x, scale, offset, result, pool=pool)
    return result


def sum_channels(name: str, x: Tensor, *others: Tensor, pool: bool | None = None) -> Tensor:
    """Two sums over all images and pixels, [2, C]."""
    sums = torch.empty(x.shape[0], 2, x.shape[1])
    call_kernel(name, x, *others, sums, pool=pool)
    return sums.sum(0, dtype=torch.float64).float()
