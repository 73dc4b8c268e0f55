"""What a caller may have set torch to, kept away from what is computed here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def plain_torch() -> Iterator[None]:
    """As in a fresh process: what is computed is that of its parameters, whatever surrounds it."""
    with plain_defaults(torch.float32), without_autocast(), torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def plain_defaults(dtype: torch.dtype) -> Iterator[None]:
    """New tensors are of this dtype and on the CPU, whatever a user's defaults are."""
    before, device = torch.get_default_dtype(), torch.get_default_device()
    torch.set_default_dtype(dtype)
    try:  # a mode slows every call down: only if it is needed
        with nullcontext() if device.type == "cpu" else torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(before)
        if torch.get_default_device() != device:  # set by a user's function, within
            torch.set_default_device(None if device.type == "cpu" else device)


@contextmanager
def without_autocast() -> Iterator[None]:
    """No autocast on any device."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield
