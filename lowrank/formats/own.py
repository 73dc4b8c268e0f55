"""A format of your own, known wherever `decomp` is a parameter."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .budget import _solve, path
from .checks import check_form
from .format import Format
from .registry import FORMATS, PLAIN

BUILT_IN = (*PLAIN, *FORMATS)


def register(decomp: str, form: Format) -> None:
    """Make a format of your own known by a name: it counts, trains, sweeps and is drawn like those of lowrank.

    The same name again replaces it, and leaves the networks that are there as they are; its runs are others if it was
    made with other numbers, texts, tensors or formats, alone or in tuples, lists or dictionaries. A fresh process does
    not know it: register it there before it reads a Config, weights or a sweep that names it; the workers of
    `lowrank.sweep` are told by themselves.

    Raises InputError at a name that lowrank itself uses, and if on one of several foldings what `form` says is not what
    it does: a W that is not outputs x inputs or not linear in every core, factors that are not `inner` wide, counts
    that are no integers, ranks that add no parameters, attributes that change as it is used. What it raises itself, on
    other weights, passes as it is.

    >>> class TwoMatrices(lowrank.Format):
    ...     uses_dims = False
    ...     def largest(self, folding):
    ...         return (min(folding.outputs, folding.inputs),)
    ...     def shapes(self, folding, ranks):
    ...         return [(folding.outputs, ranks[0]), (ranks[0], folding.inputs)]
    ...     def inner(self, folding, ranks):
    ...         return ranks[0]
    ...     def factors(self, cores, folding):
    ...         return cores
    >>> lowrank.register("mine", TwoMatrices())
    >>> from torch import nn
    >>> lowrank.decompose(nn.Linear(64, 64), decomp="mine", budget=0.25)
    DecomposedLinear(in_features=64, out_features=64, bias=True, mine, ranks=8, contraction=factors)
    """
    if not isinstance(decomp, str) or not decomp or not decomp.isprintable() or decomp != decomp.strip():
        raise InputError(f"decomp={decomp!r}; allowed: a name, as text")
    if decomp in BUILT_IN:
        raise InputError(f"decomp={decomp!r}: lowrank has one of that name; allowed is any other name")
    if not isinstance(form, Format):
        raise InputError(f"decomp={decomp!r}: form={form!r}; allowed: an object of a class derived from lowrank.Format")
    before = as_json(vars(form))
    check_form(decomp, form)
    if changed := [name for name, value in vars(form).items() if repr(before.get(name)) != repr(as_json(value))]:
        raise InputError(
            f"decomp={decomp!r}: it changes its `{changed[0]}` as it is used, and what it holds tells its runs apart: "
            "keep it elsewhere, as functools.cache does"
        )
    FORMATS[decomp] = form
    path.cache_clear()
    _solve.cache_clear()


def own_formats() -> dict[str, Format]:
    """What this process has registered, by name."""
    return {decomp: form for decomp, form in FORMATS.items() if decomp not in BUILT_IN}


def own_sizes(decomp: str) -> dict[str, Any]:
    """What tells two formats of one name apart: the numbers and texts that a format of one's own was made with."""
    form = own_formats().get(decomp)
    return sizes_of(form) if form else {}


def sizes_of(form: Format) -> dict[str, Any]:
    """The numbers and texts that a format was made with, as json gives them back: without enumerations."""
    found = {name: as_json(value) for name, value in vars(form).items()}
    return json.loads(json.dumps({name: value for name, value in found.items() if value is not None}))


def as_json(value: Any) -> Any:
    """Numbers, also of arrays and tensors, texts, formats, and tuples, lists and dictionaries of them; else None."""
    if isinstance(value, Tensor) and (value.is_meta or value.layout is not torch.strided):
        return None
    value = value.tolist() if isinstance(value, np.generic | np.ndarray | Tensor) else value
    value = {"form": type(value).__qualname__, **vars(value)} if isinstance(value, Format) else value
    if isinstance(value, tuple | list):
        return [*map(as_json, value)]
    if isinstance(value, dict):
        return {str(name): as_json(each) for name, each in value.items()}
    return value if isinstance(value, bool | int | float | str) else None
