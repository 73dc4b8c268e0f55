"""How the layers of a network are held, as plain data, and another network held in the same way.

Ranks follow the weights: what a decomposed network's state_dict fits is told by its layouts alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from math import prod
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..formats import Folding, Layout
from ..formats.checks import are_counts
from ..formats.own import sizes_of
from ..layers import Decomposed
from .parts import Part, check_module, copy_module, group_tied, survey
from .replace import hold_tied, weight_matrix

Layouts = Mapping[str, Mapping[str, Any]]  # of each decomposed layer, by its name


def layouts(module: nn.Module) -> dict[str, dict[str, Any]]:
    """How each decomposed layer of a network is held: format, folding and ranks, which json and torch.save take.

    `lowrank.hold` makes a network of the same kind, for `load_state_dict`.

    >>> from torch import nn
    >>> small = lowrank.decompose(nn.Sequential(nn.Linear(64, 64)), decomp="tt", budget=0.25)
    >>> lowrank.layouts(small)["0"]["ranks"]
    (7, 8)
    """
    check_module(module)
    held = {part.name: part.module for part in survey(module) if isinstance(part.module, Decomposed)}
    return {name: tell_layout(layer.layout) for name, layer in held.items()}


def tell_layout(layout: Layout) -> dict[str, Any]:
    sizes = sizes_of(layout.form)  # of a format of one's own
    return asdict(layout) | ({"sizes": sizes} if sizes else {})


@torch.inference_mode(False)  # in which no gradient would reach the cores
def hold(module: nn.Module, layouts: Layouts) -> nn.Module:
    """A copy of the module with its layers held as `lowrank.layouts` said of another one; the cores are random.

    Raises InputError if the module has no such layers, or none of these sizes.

    >>> from torch import nn
    >>> small = lowrank.decompose(nn.Sequential(nn.Linear(64, 64)), decomp="tt", budget=0.25)
    >>> same = lowrank.hold(nn.Sequential(nn.Linear(64, 64)), lowrank.layouts(small))
    >>> same.load_state_dict(small.state_dict())
    <All keys matched successfully>
    """
    if not (isinstance(layouts, Mapping) and all(isinstance(each, Mapping) for each in layouts.values())):
        raise InputError(f"layouts={layouts!r}; allowed: what lowrank.layouts says of such a module")
    net = copy_module(module)
    try:
        hold_layers(net, layouts)
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"layouts: not those of such a module ({type(error).__name__}: {error})") from error
    return net


def hold_layers(module: nn.Module, layouts: Layouts) -> None:
    """Hold the layers of these names in these layouts, in place. Raises ValueError if one cannot be.

    Raises KeyError, TypeError or AttributeError, too, if these are no layouts.
    """
    read = {name: read_layout(each) for name, each in layouts.items()}
    parts = {part.name: part for part in survey(module)}
    for group in group_tied([find_part(parts, name) for name in read]):
        layout, (outputs, inputs) = read[group[0].name], weight_matrix(group).shape
        wanted = layout.folding.outputs, layout.folding.inputs
        if (outputs, inputs) != wanted:
            raise ValueError(f"{group[0].name} is {outputs} x {inputs}, not {wanted[0]} x {wanted[1]}")
        if any(read[part.name] != layout for part in group):
            raise ValueError(f"{', '.join(part.name for part in group)} share a weight, and these are several")
        hold_tied(group, layout, "random", "auto")


def read_layout(each: Mapping[str, Any]) -> Layout:
    """What `tell_layout` made of it, or json, which knows no tuples."""
    folding = Folding(**each["folding"] | {"modes": tuple(each["folding"]["modes"])})
    layout = Layout(each["decomp"], folding, tuple(each["ranks"]))
    own = sizes_of(layout.form)
    if "sizes" in each and json.dumps(each["sizes"]) != json.dumps(own):  # which compares NaN, too
        raise ValueError(f"decomp={layout.decomp!r} was made with {each['sizes']}, the one registered here with {own}")
    check_layout(layout)
    return layout


def check_layout(layout: Layout) -> None:
    """Raises ValueError at modes that are none of the weight, or ranks that the format cannot have."""
    folding, form = layout.folding, layout.form
    whole = are_counts(folding.modes) and prod(folding.modes) == folding.outputs * folding.inputs
    if not whole or folding.rows not in range(1, len(folding.modes)):
        size = f"{folding.outputs} x {folding.inputs}"
        raise ValueError(f"modes {folding.modes}, {folding.rows} of them rows, are none of a weight of {size}")
    limits = tuple(map(max, zip(form.largest(folding), form.original(folding), strict=True)))
    fits = are_counts(layout.ranks) and len(layout.ranks) == len(limits)
    if not fits or any(rank > limit for rank, limit in zip(layout.ranks, limits, strict=True)):
        raise ValueError(f"ranks {layout.ranks}: {layout.decomp} takes 1 to {limits} for modes {folding.modes}")


def find_part(parts: Mapping[str, Part], name: str) -> Part:
    if name not in parts or parts[name].reason:
        raise ValueError(f"{name} is {parts[name].reason if name in parts else 'not there'}")
    return parts[name]
