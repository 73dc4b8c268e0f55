"""What a process that trains asks of its C library and its processor."""

from __future__ import annotations

import ctypes
import math
import os
from contextlib import suppress

import torch

from ..threads import spin_shortly

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # glibc's names for mallopt, malloc.h


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def total_memory(device: torch.device) -> float:
    """Bytes of the device; infinite if the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not Linux or macOS
        return math.inf


def tune_process() -> None:
    """Have this process keep its memory, round denormal numbers to zero and wait for threads as `threads` says.

    To call it again changes nothing.
    """
    keep_memory()
    spin_shortly()
    torch.set_flush_denormal(True)  # a CPU computes with denormal numbers many times slower


def keep_memory() -> None:
    """Let glibc keep the large blocks that it is given back: fresh ones cost a page fault every 4 KiB, every step."""
    with suppress(OSError, AttributeError):  # not glibc
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
