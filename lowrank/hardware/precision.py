"""The precision of products in training: what "auto" stands for on a device, and how torch is told."""

from __future__ import annotations

import time
from functools import lru_cache

import torch
from torch import nn

from ..errors import InputError


def resolved_precision(precision: str, device: torch.device) -> str:
    """The precision itself, or what "auto" stands for here. Raises InputError for float16 on a CPU."""
    if precision == "float16" and device.type == "cpu":
        raise InputError("precision='float16' is hopelessly slow on a CPU; allowed here: float32, bfloat16, auto")
    return choose_precision(device) if precision == "auto" else precision


def find_slowness(precision: str, device: torch.device) -> str:
    """A line to log where float32 trains faster than the bfloat16 that is asked for; '' elsewhere."""
    if precision != "bfloat16" or choose_precision(device) == "bfloat16":
        return ""
    return "precision='bfloat16': this processor trains faster in float32, which is what 'auto' takes here"


@lru_cache
def choose_precision(device: torch.device) -> str:
    """bfloat16 if a small convolution trains faster in it here, float32 otherwise."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return min(("float32", "bfloat16"), key=time_convolution)


def time_convolution(precision: str, repeats: int = 4) -> float:
    """Seconds of a training step of one convolution on the CPU, the fastest of a few."""
    x = torch.randn(32, 64, 16, 16).to(memory_format=torch.channels_last)
    conv = nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        with autocast(precision, x.device):
            conv(x).sum().backward()
        times.append(time.perf_counter() - start)
    return min(times)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A context in which torch computes products in this precision: "float32", "bfloat16" or "float16"."""
    dtype = getattr(torch, precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32)
