"""A weight that is made of something else, as users see it: it computes like any tensor and refuses to be written to.

Without it `net.apply(init)`, `layer.weight.copy_` or a merged adapter would write to a tensor that nobody reads again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..errors import InputError

WRITTEN = (
    "the weight of a decomposed layer is made of its cores, and what is written to it would be lost: "
    "lowrank.assign(layer, weight) fits the cores to a weight"
)


class MadeWeight(Tensor):
    """What `layer.weight` of a decomposed layer hands out: a tensor to compute with, which refuses to be written to."""

    IN_PLACE = ("__set__", "__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__imatmul__")

    @classmethod
    def __torch_function__(cls, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name, kwargs = function.__name__, kwargs or {}
        in_place = name in cls.IN_PLACE or (name.endswith("_") and not name.endswith("__"))
        changed = [*args, *kwargs.values()][:1] if in_place else []
        if any(isinstance(each, cls) for each in tree_leaves([changed, kwargs.get("out")])):
            raise InputError(WRITTEN)
        with torch._C.DisableTorchFunctionSubclass():
            return cls.guard(function(*args, **kwargs), [each for each in args if isinstance(each, cls)])

    @classmethod
    def guard(cls, result: Any, weights: Sequence[Tensor]) -> Any:
        """The result, or what it holds, as a MadeWeight if it shares its memory with a weight."""
        if type(result) in (tuple, list):
            return type(result)(cls.guard(each, weights) for each in result)
        with suppress(NotImplementedError):  # inside vmap a tensor has no memory of its own
            if isinstance(result, Tensor) and any(
                each.untyped_storage()._cdata == result.untyped_storage()._cdata for each in weights
            ):
                return result.as_subclass(cls)
        return result
