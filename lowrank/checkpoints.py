"""Tensors on disk: what a stopped run goes on from, and what a trained one keeps.

Such a file is what torch.save writes and, behind it, a checksum of all that. One that is not what was written, or is
not of this run, is named in a line, and nothing is made of it.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import reprlib
from collections.abc import Callable, Mapping, Set
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from .config import Config
from .fields import MEASURED, is_of_epoch
from .files import explain_errors, open_regular, write
from .optimiser import is_number, make_optimiser
from .train import State

SEAL = b"\nsha256 "  # stands between the content and its checksum
SEALED = len(SEAL) + hashlib.sha256().digest_size  # bytes of both


class Damaged(Exception):
    """Why a file is not what it should be."""


def save_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Raises InputError, one line, if the file cannot be written."""
    stream = io.BytesIO()
    torch.save(dict(content), stream)
    checksum = hashlib.sha256(stream.getbuffer()).digest()
    stream.write(SEAL + checksum)
    write(path, stream.getvalue())


def read_tensors(path: Path, device: str | torch.device, older: Set[str] = frozenset()) -> dict[str, Any]:
    """What `save_tensors` wrote, or what holds `older` and was written before there were checksums.

    Raises Damaged.
    """
    try:
        with open_regular(path) as file:
            sealed = is_sealed(file)
            if not sealed and not older:  # without reading all of what may be large
                raise Damaged("it is empty, cut off or no checkpoint")
            content = checked_content(file) if sealed else file.read()
        found = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except OSError as error:
        raise Damaged(error.strerror or str(error)) from error
    except Damaged:
        raise
    except Exception as error:  # torch raises many kinds
        raise Damaged("it holds no tensors that torch can read") from error
    if not isinstance(found, dict):
        raise Damaged("it holds something else")
    if not sealed and found.keys() != older:
        raise Damaged("its checksum is missing")
    return found


def is_sealed(file: BinaryIO) -> bool:
    """Whether a checksum stands at the end."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - SEALED))
    mark = file.read(len(SEAL))
    file.seek(0)
    return mark == SEAL


def checked_content(file: BinaryIO) -> bytes:
    """The bytes before the checksum, which are those that it was made of. Raises Damaged."""
    content = file.read(os.fstat(file.fileno()).st_size - SEALED)
    checksum = file.read()[len(SEAL) :]
    if hashlib.sha256(content).digest() != checksum:
        raise Damaged("its bytes are not those that were written: the checksum differs")
    return content


def check_fit(tensors: Any, network: nn.Module) -> None:
    """Raises Damaged if a state_dict is not one of this network."""
    own = network.state_dict()
    same = isinstance(tensors, dict) and tensors.keys() == own.keys()
    if not same or not all(
        is_like(tensors[name], each) and tensors[name].dtype == each.dtype for name, each in own.items()
    ):
        raise Damaged("its tensors are those of another network")


def is_like(value: Any, tensor: Tensor) -> bool:
    """Whether it is a plain tensor with numbers, of the same shape."""
    plain = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta
    return plain and value.shape == tensor.shape


def is_dense(tensor: Tensor) -> bool:
    """Whether its numbers lie side by side, which a fused optimiser takes for granted."""
    images = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return images or tensor.is_contiguous()


# --- checkpoints


def save_checkpoint(path: Path, run: str, state: State) -> None:
    save_tensors(path, {"run": run, **vars(state)})


def resume(
    path: Path, run: str, config: Config, network: nn.Module, device: torch.device, log: Callable[[str], None]
) -> State:
    """The state that a stopped run left, or a fresh one; a file that holds none is set aside, which `log` is told."""
    if not os.path.lexists(path):
        return State()
    try:
        state = read_state(path, run, config, network, device)
    except Damaged as reason:
        log(f"{path} cannot be gone on from ({reason}): it is now {set_aside(path).name}, and the run begins anew")
        return State()
    log(f"going on after epoch {state.epochs}")
    return state


def read_state(path: Path, run: str, config: Config, network: nn.Module, device: torch.device) -> State:
    """Raises Damaged."""
    content = read_tensors(path, device)
    if content.keys() != {"run", *(each.name for each in fields(State))}:
        raise Damaged("it is no checkpoint")
    if (found := content.pop("run")) != run:
        raise Damaged(f"it is of run {reprlib.repr(found)}")
    state = State(**content)
    if not is_whole(state, config):
        raise Damaged("it holds something else than a network and a row for each of its epochs")
    check_fit(state.tensors["network"], network)
    check_optimiser(state.tensors["optimiser"], network, config)
    return state


def is_whole(state: State, config: Config) -> bool:
    """Whether everything in it is of the kind that a run leaves."""
    tensors, rows, correct = state.tensors, state.history, state.correct
    return (
        isinstance(tensors, dict)
        and tensors.keys() == {"network", "optimiser", "scaler"}
        and isinstance(tensors["scaler"], dict)
        and isinstance(rows, list)
        and type(state.epochs) is int
        and len(rows) == state.epochs <= config.epochs
        and all(map(is_row, rows))
        and type(state.diverged) is bool
        and (correct is None or isinstance(correct, Tensor) and correct.dtype is torch.bool and correct.dim() == 1)
    )


def is_row(row: Any) -> bool:
    """Whether it may be what the history holds of an epoch."""
    least = {"epoch", "seconds", "train_loss", "train_accuracy"}
    named = isinstance(row, dict) and least <= row.keys() <= MEASURED.keys() | least
    numbers = named and all(type(value) in (int, float) for value in row.values())
    return numbers and all(is_of_epoch(name, value) for name, value in row.items())


def check_optimiser(saved: Any, network: nn.Module, config: Config) -> None:
    """Raises Damaged if a state_dict is not one of the optimiser of this run; the code may have changed since then."""
    optimiser = make_optimiser(network, config)
    try:
        groups = zip(saved["param_groups"], optimiser.state_dict()["param_groups"], strict=True)
        same = all(is_same_group(one, other) for one, other in groups)
        optimiser.load_state_dict(saved)
        held = [(each, like) for like, state in optimiser.state.items() for each in state.values()]
    except Exception as error:  # torch raises many kinds
        raise Damaged("its optimiser is another one than this code's") from error
    # torch would read what lies behind a tensor that is smaller
    if not same or not all(is_like(each, like) and is_dense(each) for each, like in held):
        raise Damaged("its optimiser is another one than this code's")


def is_same_group(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two groups of parameters are one, but for the learning rate, which is set anew every step."""
    return one.keys() == other.keys() and all(
        is_number(one[name]) if name == "lr" else is_same(one[name], other[name]) for name in other
    )


def is_same(one: Any, other: Any) -> bool:
    """Whether two values are equal; numbers nearly, as another machine rounds them otherwise."""
    close = type(one) is float and math.isclose(one, other, rel_tol=1e-3)
    return type(one) is type(other) and (close or one == other)


def set_aside(path: Path) -> Path:
    """Gives a file another name, which says what it is and which no other file has. Raises InputError."""
    names = (f"{path.name}.damaged{number}" for number in ("", *map("-{}".format, range(2, 1000))))
    free = next(path.with_name(name) for name in names if not os.path.lexists(path.with_name(name)))
    with explain_errors(path):
        path.rename(free)
    return free
