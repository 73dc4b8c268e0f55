"""Batch norm, 2x2 max pool and ReLU of a block in one go on a CPU: what torch does in five passes over the memory.

The work is done by fused.cpp (and by thin.cpp for thin.py), which this machine's C++ compiler makes into a library when
it is first needed, in a few seconds, and which is kept in the cache. Where there is no compiler with OpenMP, the three
run one after the other.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .config import cache_folder
from .network import plain

SOURCES = [Path(__file__).with_name(name) for name in ("fused.cpp", "thin.cpp")]
HEADER = Path(__file__).with_name("kernels.h")
# Without traps: GCC would branch where a comparison could raise one, and branches are not vectorised.
FLAGS = ["-std=c++17", "-O3", "-march=native", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC"]
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


class Shape(ctypes.Structure):
    """Of channels_last images, and how many threads share them."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("images", "height", "width", "channels")),
        ("threads", ctypes.c_int),
    ]


def norm_pool_relu(x: Tensor, norm: nn.BatchNorm2d, pool: bool) -> Tensor:
    """relu(max_pool2d(norm(x), 2)), or without the pool: [B, C, H, W] -> [B, C, H / 2, W / 2] or as x.

    x is on a CPU, in float32 or bfloat16. As torch's own but for rounding: the normalised x is not rounded on the way.
    """
    if not fits(x, pool) or (not norm.training and torch.is_grad_enabled()):
        return plain(x, norm, pool)
    if norm.training:
        return NormPoolReLU.apply(x, norm.weight, norm.bias, norm, pool)
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()  # [C]
    return activated(x, pool, scale, norm.bias - norm.running_mean * scale)


def fits(x: Tensor, pool: bool) -> bool:
    even = x.shape[2] % 2 == x.shape[3] % 2 == 0
    return x.dtype in DTYPES and x.is_contiguous(memory_format=torch.channels_last) and (even or not pool)


class NormPoolReLU(torch.autograd.Function):
    """Ioffe & Szegedy (2015), algorithm 1 and its gradients, with max pool and ReLU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d, pool: bool) -> Tensor:
        count = x.numel() // x.shape[1]
        shift = x[0, :, 0, 0].float()  # a value of the channel keeps its squares from cancelling
        first, second = summed("moments", x, shift) / count
        mean, variance = shift + first, (second - first.square()).clamp(min=0)  # [C], [C]
        follow(norm, mean, variance * count / max(1, count - 1))
        inverse = (variance + norm.eps).rsqrt()  # [C]
        scale = weight * inverse  # [C]
        offset = bias - mean * scale  # [C]
        ctx.save_for_backward(x, mean, inverse, scale, offset)
        ctx.pool = pool
        return activated(x, pool, scale, offset)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, inverse, scale, offset = ctx.saved_tensors
        gradient = gradient.to(x.dtype).contiguous(memory_format=torch.channels_last)
        count = x.numel() // x.shape[1]
        bias, weight = summed("reduce", x, gradient, scale, offset, mean, pool=ctx.pool)
        slope = -scale * inverse.square() * weight / count  # [C], of x - mean
        rest = -scale * bias / count - slope * mean  # [C]
        result = torch.empty_like(x)
        call("backward", x, gradient, scale, offset, slope, rest, result, pool=ctx.pool)
        return result, weight * inverse, bias, None, None


@torch.no_grad()
def follow(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """The running statistics that evaluation uses."""
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance, norm.momentum)


# --- the library


def activated(x: Tensor, pool: bool, scale: Tensor, offset: Tensor) -> Tensor:
    images, channels, height, width = x.shape
    size = (images, channels, height // 2, width // 2) if pool else x.shape
    result = torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)
    call("forward", x, scale, offset, result, pool=pool)
    return result


def summed(name: str, x: Tensor, *others: Tensor, pool: bool | None = None) -> Tensor:
    """Two sums over all images and pixels, [2, C]."""
    sums = torch.empty(x.shape[0], 2, x.shape[1])
    call(name, x, *others, sums, pool=pool)
    return sums.sum(0, dtype=torch.float64).float()


def call(name: str, x: Tensor, *others: Tensor, pool: bool | None = None) -> None:
    images, channels, height, width = x.shape
    shape = Shape(images, height, width, channels, torch.get_num_threads())
    function(name, x)(shape, *([] if pool is None else [int(pool)]), *pointers(x, *others))


def function(name: str, x: Tensor) -> Callable[..., None]:
    """The library's, for numbers like those of x."""
    return getattr(library(), f"{name}_{DTYPES[x.dtype]}")


def pointers(*tensors: Tensor) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


def available(device: torch.device) -> bool:
    return device.type == "cpu" and library() is not None


@lru_cache
def library() -> ctypes.CDLL | None:
    """The compiled fused.cpp; None where this machine cannot make it."""
    with suppress(OSError, subprocess.CalledProcessError):
        return ctypes.CDLL(str(compiled()))
    return None


def compiled() -> Path:
    """The library for these sources, compiler and processor: homes are shared between machines."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or ""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    sources = [file.read_bytes() for file in (*SOURCES, HEADER)]
    decisive = [*sources, version, processor().encode(), " ".join(FLAGS).encode()]
    file = cache_folder() / f"fused-{hashlib.sha256(b'|'.join(decisive)).hexdigest()[:16]}.so"
    if not file.exists():
        with TemporaryDirectory(dir=file.parent) as scratch:
            made = Path(scratch, file.name)
            subprocess.run([compiler, *FLAGS, "-o", made, *SOURCES], capture_output=True, check=True)
            os.replace(made, file)
    return file


def processor() -> str:
    """What -march=native depends on."""
    with suppress(OSError):
        if found := re.search(r"^(flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found.group()
    return platform.machine() + platform.processor()
