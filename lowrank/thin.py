"""A block whose convolution ends in a thin product y = L z, in training on a CPU, without ever storing y.

Batch norm needs only the mean and the covariance of z to know those of y, and its gradient with respect to z is a thin
product again: all passes over the memory go through the few channels of z. thin.cpp does them.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from . import fused, native
from .layers import DecomposedConv2d

LANE, CHUNK = 16, 8  # as in thin.cpp: channels or pixels at a time, images that are summed together
WIDEST, SHARE = 8, 8  # channels of z, and times as many of y, at which making y anew takes less time than storing it


def composed(x: Tensor, convolution: nn.Module, norm: nn.BatchNorm2d, pool: bool) -> Tensor:
    """What a Block computes: [B, C, H, W] -> [B, O, H / 2, W / 2], or [B, O, H, W] without the pool."""
    *before, last = convolution if isinstance(convolution, nn.Sequential) else [convolution]
    if not norm.training or not is_thin(last):
        return fused.norm_pool_relu(convolution(x), norm, pool)
    for module in before:
        x = module(x)  # [B, I, H, W]
    z, left = last.halves(x)  # [B, m, H, W], [O, m]
    if fused.fits(z, pool) and z.shape[2] * z.shape[3] % LANE == 0:
        return ThinNormPoolReLU.apply(z, left, norm.weight, norm.bias, norm, pool)
    return fused.norm_pool_relu(last.joined(z, left), norm, pool)


def is_thin(layer: nn.Module) -> bool:
    return (
        isinstance(layer, DecomposedConv2d)
        and layer.layout.inner is not None
        and layer.layout.inner <= min(WIDEST, layer.out_channels // SHARE)
        and layer.out_channels % LANE == 0
        and layer.bias is None
    )


class ThinNormPoolReLU(torch.autograd.Function):
    """fused.NormPoolReLU of y = L z, for z [B, m, H, W] and L float32 [O, m]."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, left: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d, pool: bool
    ) -> Tensor:
        count, inner = z.numel() // z.shape[1], z.shape[1]
        shift = z[0, :, 0, 0].float()  # [m], a value of the channel keeps its squares from cancelling
        sums = torch.empty(chunks(z), inner + 1, inner)
        call("thin_moments", z, len(left), shift, sums)
        sums = sums.sum(0, dtype=torch.float64) / count  # [m + 1, m]
        centre, covariance = sums[-1].float(), (sums[:-1] - sums[-1, :, None] * sums[-1]).float()  # [m], [m, m]
        with torch.autocast("cpu", enabled=False):
            centre = shift + centre  # [m]
            mean, spread = left @ centre, left @ covariance  # [O], [O, m]
            variance = (spread * left).sum(1).clamp(min=0)  # [O]
        fused.follow(norm, mean, variance * count / max(1, count - 1))
        inverse = (variance + norm.eps).rsqrt()  # [O]
        scale = weight * inverse  # [O]
        offset = bias - mean * scale  # [O]
        ctx.save_for_backward(z, left, centre, spread, mean, inverse, scale, offset)
        ctx.pool = pool
        images, _, height, width = z.shape
        size = (images, len(left), height // 2, width // 2) if pool else (images, len(left), height, width)
        result = torch.empty(size, dtype=z.dtype, memory_format=torch.channels_last)
        call("thin_forward", z, len(left), left.T.contiguous(), scale, offset, result, pool=pool)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        z, left, centre, spread, mean, inverse, scale, offset = ctx.saved_tensors
        gradient = gradient.to(z.dtype).contiguous(memory_format=torch.channels_last)
        count = z.numel() // z.shape[1]
        thin, scaled = left.T.contiguous(), (left * scale[:, None]).T.contiguous()  # [m, O], [m, O]
        through = torch.empty(z.shape, memory_format=torch.channels_last)  # what comes through the largest pixels
        sums = torch.empty(chunks(z), z.shape[1] + 1, len(left))
        call("thin_backward", z, len(left), gradient, thin, scaled, scale, offset, through, sums, pool=ctx.pool)
        sums = sums.sum(0, dtype=torch.float64).float()  # [m + 1, O]
        product, bias = sums[:-1].T, sums[-1]  # [O, m], [O]
        weight = (product * left).sum(1) - mean * bias  # [O], of what comes through times y - mean
        slope = -scale * inverse.square() * weight / count  # [O], of y - mean
        rest = -scale * bias / count  # [O]
        # The gradient of y is scale * through + slope * (y - mean) + rest.
        turned, own = left.T @ (slope[:, None] * left), torch.empty_like(z)  # [m, m], [B, m, H, W]
        call("thin_turn", z, len(left), centre, turned, left.T @ rest, through, own)
        left_gradient = scale[:, None] * product + count * (slope[:, None] * spread + rest[:, None] * centre)  # [O, m]
        return own, left_gradient, weight * inverse, bias, None, None


def chunks(z: Tensor) -> int:
    return -(-len(z) // CHUNK)


def call(name: str, z: Tensor, channels: int, *others: Tensor, pool: bool | None = None) -> None:
    images, inner, height, width = z.shape
    shape = native.Shape(images, height, width, channels, torch.get_num_threads())
    flags = [] if pool is None else [int(pool)]
    native.function(name, z)(shape, *flags, ctypes.c_long(inner), *native.pointers(z, *others))
