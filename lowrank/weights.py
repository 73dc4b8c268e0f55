"""The trained network of a run that kept its weights, and what it says of images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from .ambient import plain_torch
from .checkpoints import Damaged, check_fit, is_like, read_tensors, save_tensors
from .config import PRECISIONS, Config, InputError
from .data import Data
from .data.dataset import check_device, standardise
from .formats.own import own_formats
from .hardware import best_device
from .network import MOST_CLASSES, SIZED_BY, build
from .paths import runs_folder
from .records import WEIGHTS, check_says, name_run
from .records import record as stored
from .surgery.parts import evaluating
from .surgery.saving import hold_layers, layouts
from .train import EVALUATION_BATCH, compute_logits

Run = str | Mapping[str, Any] | pd.Series  # its id, its record, its row of the table
OLDER = {"classes", "network"}  # what was kept before there were checksums
MOMENT = torch.zeros(1, 3, 1, 1)  # of the mean and the deviation
READING = ("mean", "deviation", "mirror", "precision")  # how a network reads images: what `predict` needs


def keep_weights(config: Config, run: str, net: nn.Module, data: Data) -> None:
    """Keep the network of a run beside its record, and how it reads images; with `start`, also its layouts."""
    reading = (*data.moments, config.uses("flip at test"), config.precision)
    kept = {"classes": len(data.classes), "network": net.state_dict(), **dict(zip(READING, reading, strict=True))}
    if config.start:  # whose ranks follow weights that are no longer there
        kept["layouts"] = layouts(net)
    save_tensors(config.folder / run / WEIGHTS, kept)


def load(run: Run, runs: str | Path = "runs", device: str | torch.device = "cpu") -> nn.Module:
    """The trained network of a run, ready to predict: [B, 3, 32, 32], normalised, -> [B, classes].

    `run` is its id, its record or its row of `lowrank.results`; `runs` is the folder of its record. `lowrank.predict`
    takes the network and images as they are. To normalise them yourself, (images - mean) / deviation, each [1, 3, 1, 1]
    and for bytes of 0 to 255: they are `net.reading["mean"]` and `net.reading["deviation"]`; for the data of the run
    `lowrank.data.load(dataset).normalise(images)` does it. If `net.reading["mirror"]`, the record's accuracy is that of
    an image and its mirror image, averaged.

    Raises InputError if it kept no weights, which `lowrank.run(save_weights=True, ...)` does, or they are damaged.

    >>> lowrank.load("4a736e9f65c3")
    Network(first, layer1, residual1, layer2, layer3, residual3, head; 52,288 parameters)
    """
    run, folder = name_run(run), runs_folder(runs)
    device = check_device(device)
    path, record = folder / run / WEIGHTS, stored(folder, run)
    if not record:
        raise InputError(f"run={run!r}: there is no such run in runs={str(runs)!r}; allowed: its record's folder")
    if not os.path.lexists(path):
        raise InputError(f"run={run!r}: it kept no weights; lowrank.run(..., save_weights=True) keeps them")
    check_says(record, folder, ["start_decomp"] if record["start"] else [])
    try:
        kept = read_tensors(path, device, OLDER)
        check_reading(kept)
        with torch.device("meta"):
            net = rebuild(record, kept)
        check_fit(kept.get("network"), net)
    except Damaged as reason:
        own = record["decomp"] in own_formats()
        advice = "register the format that made them" if own else "without this file lowrank.run makes them anew"
        raise InputError(f"{path}: damaged weights ({reason}); {advice}") from None
    net.load_state_dict(kept["network"], assign=True)
    net.reading = {name: kept[name] for name in READING if name in kept}  # older weights have none
    return net.eval()


def check_reading(kept: Mapping[str, Any]) -> None:
    """Raises Damaged without a number of classes or what images are read by, of which older weights have nothing."""
    classes, reading = kept.get("classes"), {name: kept[name] for name in READING if name in kept}
    if type(classes) is not int or not 1 <= classes <= MOST_CLASSES:
        raise Damaged("it holds no weights")
    if reading and not (
        reading.keys() == set(READING)
        and all(
            is_like(reading[name], MOMENT) and reading[name].dtype is MOMENT.dtype for name in ("mean", "deviation")
        )
        and bool(reading["mean"].isfinite().all() and (reading["deviation"] > 0).all())
        and bool(reading["deviation"].isfinite().all())
        and type(reading["mirror"]) is bool
        and reading["precision"] in PRECISIONS
    ):
        raise Damaged("it does not say how images are read")


def rebuild(record: Mapping[str, Any], kept: Mapping[str, Any]) -> nn.Module:
    """The network of a run, without its numbers.

    Raises Damaged if its layouts are not to be read, InputError if this process does not know its format.
    """
    if not record["start"]:
        return build(Config.of({name: record[name] for name in SIZED_BY}), kept["classes"])
    net = build(Config(decomp=record["start_decomp"], width=record["width"]), kept["classes"])
    try:
        hold_layers(net, kept["layouts"])
    except InputError:  # a format of one's own that is not registered here
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Damaged("it does not say how its layers are held") from error
    return net


@plain_torch()
@torch.no_grad()
def predict(run: Run | nn.Module, images: Tensor | np.ndarray, runs: str | Path = "runs") -> Tensor:
    """What a trained network says of images: uint8 [B, 3, 32, 32] -> float32 logits [B, classes], on the CPU.

    `run` is the id, the record or the row of a run, or the network that `lowrank.load` gave, also made dense or
    decomposed anew. The images are normalised as those of the run were, and each is averaged with its mirror image if
    the recipe does that: `predict(record, data.test_images).argmax(1)` is right as often as the record's test_accuracy
    says.

    Raises InputError if there are no weights, they do not say how images were normalised, or these are no images.

    >>> import torch
    >>> images = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    >>> lowrank.predict("4a736e9f65c3", images).shape
    torch.Size([5, 10])
    """
    try:  # numpy's may be mirrored views, which torch does not take
        images = torch.as_tensor(np.ascontiguousarray(images) if isinstance(images, np.ndarray) else images)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"images of type {type(images).__name__}; allowed: uint8 [B, 3, 32, 32]") from None
    plain = images.layout == torch.strided and not images.is_meta
    if not plain or images.dtype != torch.uint8 or images.shape[1:] != (3, 32, 32):
        given = f"{images.dtype} {list(images.shape)}".removeprefix("torch.") + ("" if plain else ", sparse or meta")
        raise InputError(f"images={given}; allowed: uint8 [B, 3, 32, 32]")
    net = run if isinstance(run, nn.Module) else load(run, runs, best_device())
    reading = getattr(net, "reading", {})
    if reading.keys() != set(READING):
        given = "network" if net is run else f"run={name_run(run)!r}"
        raise InputError(f"{given} does not say how its images were normalised; allowed: lowrank.load's of a newer run")
    like = next(net.parameters())
    moments = reading["mean"].to(like.device), reading["deviation"].to(like.device)
    parts = (standardise(some, *moments).to(like.dtype) for some in images.to(like.device).split(EVALUATION_BATCH))
    with evaluating(net):
        return torch.cat([compute_logits(net, x, reading["precision"], reading["mirror"]).cpu() for x in parts])
