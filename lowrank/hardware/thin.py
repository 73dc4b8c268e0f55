"""A block whose convolution ends in a thin product y = L z, in training on a CPU, without ever storing y.

Batch norm needs only the mean and the covariance of z to know those of y, and its gradient with respect to z is a thin
product again: all passes over the memory go through the few channels of z. thin.cpp does them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..layers import DecomposedConv2d
from .fused import fused_norm_pool_relu, suits_kernels, update_statistics
from .native import call_kernel

LANE, CHUNK = 16, 8  # of thin.cpp: channels or pixels at a time, at most; images that are summed together
WIDEST, SHARE = 8, 8  # channels of z, and times as many of y, at which making y anew takes less time than storing it


def compute_block_natively(x: Tensor, convolution: nn.Module, norm: nn.BatchNorm2d, pool: bool) -> Tensor:
    """What a Block computes: [B, C, H, W] -> [B, O, H / 2, W / 2], or [B, O, H, W] without the pool.

    x is on a CPU. As network.compute_block but for rounding.
    """
    *before, last = convolution if isinstance(convolution, nn.Sequential) else [convolution]
    if not norm.training or not is_thin(last):
        return fused_norm_pool_relu(convolution(x), norm, pool)
    for module in before:
        x = module(x)  # [B, I, H, W]
    z, left = last.halves(x)  # [B, m, H, W], [O, m]
    if suits_kernels(z, pool) and z.shape[2] * z.shape[3] % LANE == 0:
        return ThinNormPoolReLU.apply(z, left, norm.weight, norm.bias, norm, pool)
    return fused_norm_pool_relu(last.joined(z, left), norm, pool)


def is_thin(layer: nn.Module) -> bool:
    """Whether it pays to make the layer's output anew in every pass instead of storing it."""
    return (
        isinstance(layer, DecomposedConv2d)
        and layer.layout.inner is not None
        and layer.layout.inner <= min(WIDEST, layer.out_channels // SHARE)
        and layer.out_channels % LANE == 0
        and layer.bias is None
    )


class ThinNormPoolReLU(torch.autograd.Function):
    """fused.NormPoolReLU of y = L z, for z [B, m, H, W] and L float32 [O, m].

    The gradient, for one channel of y, whose row of L is l. Over the n = B H W pixels z has the mean c and the
    covariance C, so y has the mean u = l c and the variance v = l C l^T. With s = (v + eps)^(-1/2) and a = w s, batch
    norm gives a (y - u) + b, whose gradient d comes through pool and ReLU: zero but at the largest pixels. Then, with
    sums over pixels, db = sum d and dw = s q, where q = sum d (y - u) = l (sum d z) - u (sum d). y acts directly,
    through v and through u: dv = w q ds/dv = -w q s^3 / 2, du = -a sum d, dv/dy = 2 (y - u) / n, du/dy = 1 / n, thus

        dy = a d + slope (y - u) + rest,   slope = -a s^2 q / n,   rest = -a (sum d) / n.

    As y - u = l (z - c) and sum (z - c) z^T = n C, nothing as wide as y is needed for what follows over all channels:

        dz = L^T dy = L^T (a d) + (L^T slope L) (z - c) + L^T rest,
        dL = sum dy z^T = a (sum d z^T) + n slope (L C) + n rest c^T.
    """

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, left: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d, pool: bool
    ) -> Tensor:
        count, inner = z.numel() // z.shape[1], z.shape[1]
        shift = z[0, :, 0, 0].float()  # [m], a value of the channel keeps its squares from cancelling
        sums = torch.empty(count_chunks(z), inner + 1, inner)
        call_kernel("thin_moments", z, shift, sums, channels=len(left))
        sums = sums.sum(0, dtype=torch.float64) / count  # [m + 1, m]
        centre, covariance = sums[-1].float(), (sums[:-1] - sums[-1, :, None] * sums[-1]).float()  # [m], [m, m]
        with torch.autocast("cpu", enabled=False):
            centre = shift + centre  # [m]
            mean, spread = left @ centre, left @ covariance  # [O], [O, m]
            variance = (spread * left).sum(1).clamp(min=0)  # [O]
        update_statistics(norm, mean, variance * count / max(1, count - 1))
        inverse = (variance + norm.eps).rsqrt()  # [O]
        scale = weight * inverse  # [O]
        offset = bias - mean * scale  # [O]
        ctx.save_for_backward(z, left, centre, spread, mean, inverse, scale, offset)
        ctx.pool = pool
        images, _, height, width = z.shape
        size = (images, len(left), height // 2, width // 2) if pool else (images, len(left), height, width)
        result = torch.empty(size, dtype=z.dtype, memory_format=torch.channels_last)
        call_kernel("thin_forward", z, left.T.contiguous(), scale, offset, result, channels=len(left), pool=pool)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        z, left, centre, spread, mean, inverse, scale, offset = ctx.saved_tensors
        gradient = gradient.to(z.dtype).contiguous(memory_format=torch.channels_last)
        count = z.numel() // z.shape[1]
        thin, scaled = left.T.contiguous(), (left * scale[:, None]).T.contiguous()  # [m, O], [m, O]
        through = torch.empty(z.shape, memory_format=torch.channels_last)  # L^T (a d)
        sums = torch.empty(count_chunks(z), z.shape[1] + 1, len(left))
        arguments = (gradient, thin, scaled, scale, offset, through, sums)
        call_kernel("thin_backward", z, *arguments, channels=len(left), pool=ctx.pool)
        sums = sums.sum(0, dtype=torch.float64).float()  # [m + 1, O]
        product, bias = sums[:-1].T, sums[-1]  # [O, m], [O], of d z and of d
        q = (product * left).sum(1) - mean * bias  # [O]
        slope = -scale * inverse.square() * q / count  # [O]
        rest = -scale * bias / count  # [O]
        turned, own = left.T @ (slope[:, None] * left), torch.empty_like(z)  # [m, m], [B, m, H, W]
        call_kernel("thin_turn", z, centre, turned, left.T @ rest, through, own, channels=len(left))
        left_gradient = scale[:, None] * product + count * (slope[:, None] * spread + rest[:, None] * centre)  # [O, m]
        return own, left_gradient, q * inverse, bias, None, None


def count_chunks(z: Tensor) -> int:
    """How many sums over CHUNK images a kernel makes of z [B, m, H, W]."""
    return -(-len(z) // CHUNK)
