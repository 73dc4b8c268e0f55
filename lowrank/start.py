"""Where a run with `start` begins: at the trained network of another run, decomposed as this one says.

Its budget is spent where the error of the approximation falls most: see surgery/allocation.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .config import PLAIN, Config, InputError, dataset_name
from .layers import Decomposed
from .network import is_left, select_decomposable
from .records import WEIGHTS, check_says
from .records import record as stored
from .surgery import decompose
from .surgery.inventory import summary
from .weights import load


def check_start(config: Config, data: str) -> None:
    """Raises InputError if there is no trained network to start from, or none for these images.

    `data` is the fingerprint of the images.
    """
    found, said = stored(config.folder, config.start), f"start={config.start!r}"
    if not found or found["status"] != "done":
        state = f"is {found['status']}" if found else "is not there"
        raise InputError(f"{said}: this run {state} in runs={config.runs!r}; allowed: one that is done")
    check_says(found, config.folder, ["data"])
    check_parent(config, found)
    if found["data"] != data:
        raise InputError(
            f"dataset={dataset_name(config.dataset)!r} ({data}): {said} was trained on {found['dataset']} "
            f"({found['data']}); allowed: the same images"
        )
    weights = config.folder / config.start / WEIGHTS
    if not os.path.lexists(weights):
        raise InputError(f"{said}: this run kept no weights; lowrank.run(..., save_weights=True) keeps them")
    if not weights.is_file():
        raise InputError(
            f"{said}: {weights} is no file; without it lowrank.run(..., save_weights=True) keeps them anew"
        )


def check_parent(config: Config, parent: Mapping[str, Any]) -> None:
    """Raises InputError if a run with the parameters of `parent` is none that this one can start from."""
    if parent["decomp"] not in PLAIN:
        raise InputError(
            f"start={config.start!r}: its network is decomposed already ({parent['decomp']}); "
            f"allowed: {' or '.join(PLAIN)}"
        )
    for name in ("width", "validation"):  # or it would have seen the images that this one chooses by
        if getattr(config, name) != parent[name]:
            raise InputError(f"{name}={getattr(config, name)!r} with start={config.start!r}; allowed: {parent[name]!r}")


def decompose_start(config: Config) -> nn.Module:
    """The trained network that a run starts from, decomposed by its weights: [B, 3, 32, 32] -> [B, classes].

    Raises InputError if its weights are damaged or the budget cannot be met.
    """
    torch.manual_seed(config.seed)
    names = ("decomp", "dims", "budget", "init")
    asked = {name: getattr(config, name) for name in names}
    return decompose(load(config.start, config.runs), skip=is_left, allocation="error", **asked)


def describe_start(config: Config, net: nn.Module) -> dict[str, Any]:
    """What the record of a run says of where it started: see records.py."""
    if not config.start:
        return {"start_decomp": ""}
    layers = {name: each for name, each in net.named_modules() if isinstance(each, Decomposed)}
    trained = load(config.start, config.runs)
    names = select_decomposable(summary(trained)).index
    energies = {name: trained.get_submodule(name).weight.square().sum().item() for name in names}
    lost = sum(layer.error**2 * energies[name] for name, layer in layers.items())
    found = stored(config.folder, config.start)
    return {"start_decomp": found["decomp"], "start_error": (lost / sum(energies.values())) ** 0.5}
