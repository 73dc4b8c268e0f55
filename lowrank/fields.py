"""What a record says: the name and the type of every field, and which numbers a run can have had or measured."""

from __future__ import annotations

import json
import math
import reprlib
from dataclasses import fields
from datetime import datetime
from typing import Any

import torch

from .config import ADDED, Config

MEASURED = {
    "parameters": int,
    "pointwise_parameters": int,
    "compression": float,
    "multiply_adds": int,
    "start_decomp": str,
    "start_error": float,
    "train_loss": float,
    "train_accuracy": float,
    "test_loss": float,
    "test_accuracy": float,
    "validation_loss": float,
    "validation_accuracy": float,
    "fit_loss": float,
    "fit_accuracy": float,
    "seconds": float,
    "images_per_second": float,
    "peak_memory": int,
    "device": str,
    "torch": str,
    "revision": str,
    "code": str,
    "data": str,
    "started": str,
    "reason": str,
}
CONFIGURED = {each.name: type(each.default) for each in fields(Config)} | {"augment": bool}  # "auto" became one
POSSIBLE = {each.name: each.metadata["test"] for each in fields(Config) if CONFIGURED[each.name] in (int, float)}
POSSIBLE["epoch"] = lambda epoch: 0 <= epoch < 2**53 and epoch == int(epoch)
NEEDED = [*(name for name in CONFIGURED if name not in ADDED), "parameters", "test_accuracy"]  # of a run that is done
TYPES = {"run": str, "status": str} | CONFIGURED | MEASURED
MOST = torch.finfo(torch.float32).max  # that a run can measure
FIRST_YEAR, LAST_YEAR = 1970, 2261  # of `started`: pandas can tell no time after it


def check_fields(content: dict[str, Any]) -> None:
    """Raises ValueError if a field of a record has not its type, or one is missing that each run that is done has.

    What else was not measured may be None.
    """
    json.dumps(content, ensure_ascii=False).encode()  # fails for halves of characters, which no table can hold
    for name, value in content.items():
        kind = TYPES.get(name, type(value))
        if value is None and name in MEASURED:
            continue
        fits = type(value) is kind or (kind is float and type(value) is int)
        if not fits or (type(value) is int and value.bit_length() > 63):
            raise ValueError(f"{name}={reprlib.repr(value)} is not {kind.__name__}")
        if name in TYPES and kind in (int, float) and not is_possible(name, value):
            raise ValueError(f"{name}={reprlib.repr(value)} is out of range")
    lacking = [name for name in NEEDED if content.get(name) is None] if content.get("status") == "done" else []
    if lacking:
        raise ValueError(f"it does not say {', '.join(lacking)}")
    if started := content.get("started"):
        year = datetime.fromisoformat(started).year
        if not FIRST_YEAR <= year <= LAST_YEAR:
            raise ValueError(f"started={started}: no run was made in the year {year}")


def is_possible(name: str, value: float) -> bool:
    """Whether a run can have had this number, or measured it: none is negative or above what float32 holds."""
    most = 1 if name.endswith("accuracy") else MOST
    return abs(value) < math.inf and POSSIBLE.get(name, lambda number: 0 <= number <= most)(value)


def is_of_epoch(name: str, value: float) -> bool:
    """Whether the history of a run can hold this number: one that diverges has infinite ones, or NaN."""
    return not value < math.inf or is_possible(name, value)
