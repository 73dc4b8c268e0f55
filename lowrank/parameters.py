"""What a parameter of a run is: its default, its meaning, what it may be, and the check of a value."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection
from dataclasses import field
from typing import Any

import numpy as np

from .errors import InputError

PATHS = ("dataset", "runs")


def parameter(
    default: Any, doc: str, allowed: str, test: Callable[[Any], bool], kinds: tuple[type, ...] | None = None
) -> Any:
    """A Config field with its documentation, what it may be in words and as a test, and its types if not just one."""
    kinds = kinds or (type(default),)
    return field(default=default, metadata={"doc": doc, "allowed": lambda: allowed, "test": test, "kinds": kinds})


def choice(default: str, doc: str, options: Collection[str], more: str = "") -> Any:
    """A Config field that is one of the options, named in its documentation; `more` follows them in a refusal."""
    metadata = {"doc": doc, "test": options.__contains__, "kinds": (str,)}
    metadata["allowed"] = lambda: ", ".join(options) + more
    return field(default=default, metadata=metadata)


def checked(parameter: Any, value: Any) -> Any:
    """The value of one Config field, an int made a float or a str if that is meant; raises InputError.

    numpy's numbers are numbers, and paths may be Paths.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, os.PathLike) and parameter.name in PATHS:
        value = os.fspath(value)
    if type(value) is int and value.bit_length() > 63:
        shown = value if value.bit_length() < 999 else "(a huge number)"
        raise InputError(f"{parameter.name}={shown}; allowed: {parameter.metadata['allowed']()}, and below 2**63")
    kinds = parameter.metadata["kinds"]
    kind = type(value) if type(value) in kinds else kinds[0]
    if kind in (float, str) and type(value) is int:  # papermill reads 2018 as one
        value = kind(value)
    allowed = parameter.metadata["allowed"]()
    if type(value) is not kind:
        hint = " (written 0.0005 or 5.0e-4)" if kind is float and type(value) is str else ""
        raise InputError(
            f"{parameter.name}={value!r} is of type {type(value).__name__}; allowed: {kind.__name__}{hint}, {allowed}"
        )
    if kind is float:
        value += 0.0  # -0.0 is 0.0, or the id of a run would tell them apart
    if (kind is float and not math.isfinite(value)) or not parameter.metadata["test"](value):
        raise InputError(f"{parameter.name}={value!r}; allowed: {allowed}")
    return value
