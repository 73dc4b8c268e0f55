"""What no memory can hold is refused in one line: before it is built, if that is sure, or when it fails."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .config import Config, InputError
from .hardware import total_memory
from .network import IMAGE


@contextmanager
def within_memory(config: Config) -> Iterator[None]:
    """Makes an InputError of what Python and torch raise if there is not enough memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise InputError(too_large(config)) from error


def check_memory(config: Config, parameters: int, images: int, device: torch.device) -> None:
    """Raises InputError if the device can never hold the training of so many parameters with so many images a step.

    Some systems kill a process that takes too much. Counted are weights, gradients and momentum in float32, and what
    the first layer makes of the images, in half of that.
    """
    least = 3 * 4 * parameters + 2 * images * config.width * math.prod(IMAGE[1:])
    if least > (total := total_memory(device)):
        raise InputError(f"{too_large(config)}: at least {least / 1e9:.0f} GB, and there are {total / 1e9:.0f}")


def too_large(config: Config) -> str:
    size = f"width={config.width}, batch_size={config.batch_size}"
    return f"{size}: there is not enough memory for such a network and so many images a step"
