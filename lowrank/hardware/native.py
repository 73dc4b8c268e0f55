"""The kernels that are written in C++ for a CPU, as a library: from the cache or, once, from this machine's compiler.

That takes the compiler a few seconds. The library's name in the cache holds a hash of what it depends on and a checksum
of its bytes. If there is no library, for whatever reason, torch does what it would.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import stat
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..files import claim, explain_errors, open_regular, remove, sweep_up, temporary_name, write
from ..paths import cache_folder
from .compiler import Missing, compile_sources, find_compiler, make_key

SUFFIXES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
KERNELS = ["moments", "forward", "reduce", "backward", "thin_moments", "thin_turn", "thin_forward", "thin_backward"]
LIMIT = 60  # seconds for the compiler, and for another process that is at it


def library() -> ctypes.CDLL | None:
    """The compiled kernels; None if this machine has none, which `reason` explains."""
    return library_or_reason()[0]


def reason() -> str:
    """Why there is no library, in a line; empty if there is one."""
    return library_or_reason()[1]


@lru_cache
def library_or_reason() -> tuple[ctypes.CDLL | None, str]:
    try:
        return find_library(), ""
    except (Missing, InputError) as error:
        return None, f"no compiled kernels ({error})"
    except (OSError, RuntimeError, ValueError, LookupError) as error:
        return None, f"no compiled kernels ({type(error).__name__}: {error})"


# --- calls of it


class Shape(ctypes.Structure):
    """The shape of channels_last images, and how many threads share them."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("images", "height", "width", "channels")),
        ("threads", ctypes.c_int),
    ]


def call_kernel(name: str, x: Tensor, *others: Tensor, channels: int | None = None, pool: bool | None = None) -> None:
    """Call the kernel of that name for numbers like those of x, channels_last [B, C, H, W], with the others' memory.

    `channels` is for the kernels of a thin product, from the C of x to that many; `pool` for those that pool or not.
    """
    images, inner, height, width = x.shape
    shape = Shape(images, height, width, channels or inner, torch.get_num_threads())
    pooled = [] if pool is None else [ctypes.c_int(pool)]
    thin = [] if channels is None else [ctypes.c_long(inner)]
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (x, *others)]
    getattr(library(), f"{name}_{SUFFIXES[x.dtype]}")(shape, *pooled, *thin, *pointers)


# --- the cache


def find_library() -> ctypes.CDLL:
    """The library from the cache or, if there is no sound one, from the compiler; other processes wait for the first.

    Raises Missing, or InputError if the cache cannot be written.
    """
    deadline = time.monotonic() + LIMIT
    compiler = find_compiler()
    folder, key = make_private_folder(), make_key(compiler, deadline)
    while time.monotonic() < deadline:
        if found := load_library(folder, key):
            return found
        with claim(folder, wait=False) as mine:
            if mine and not (found := load_library(folder, key)):
                make_library(compiler, folder, key, deadline)
                found = load_library(folder, key)
                if not found:
                    raise Missing(f"what {compiler[0]} makes cannot be loaded")
        if found:
            return found
        time.sleep(0.05)
    raise Missing(f"another process has been compiling them in {folder} for a minute")


def make_private_folder() -> Path:
    """Where the libraries lie. Raises Missing if others could put one there, InputError if there can be none."""
    folder = cache_folder() / "kernels"
    with explain_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
        for each, sticky in ((folder, False), (folder.parent, True)):
            if is_open_to_others(each, sticky):
                raise Missing(f"others may write in {each}: what lies there is not run")
    return folder


def is_open_to_others(folder: Path, sticky: bool) -> bool:
    """Whether others may replace what is in the folder; with `sticky` not if, as in /tmp, each may only what is theirs.

    A group of the owner's name is the owner's alone, as Debian and Fedora make them.
    """
    state = folder.stat()
    if state.st_uid not in (0, os.getuid()):
        return not sticky
    if sticky and state.st_mode & stat.S_ISVTX:
        return False
    group = state.st_mode & stat.S_IWGRP and folder.group() != folder.owner()
    return bool(group or state.st_mode & stat.S_IWOTH)


def load_library(folder: Path, key: str) -> ctypes.CDLL | None:
    """The one of this key whose bytes are those that were made and that has all kernels; None if there is none."""
    for file in folder.glob(f"{key}-*.so"):
        with suppress(OSError):
            with open_regular(file) as stream:
                checksum = hashlib.file_digest(stream, "sha256").hexdigest()
            if file.stem == f"{key}-{checksum}":
                library = ctypes.CDLL(str(file))
                if all(hasattr(library, f"{name}_{dtype}") for name in KERNELS for dtype in SUFFIXES.values()):
                    return library
    return None


def make_library(compiler: list[str], folder: Path, key: str, deadline: float) -> None:
    """Compiles the sources; whatever killed or damaged ones have left goes. The caller holds the folder's claim."""
    sweep_up(folder)
    scratch = temporary_name(folder / "kernels")
    scratch.mkdir()
    try:
        compile_sources(compiler, scratch / "kernels.so", deadline)
        content = (scratch / "kernels.so").read_bytes()
    except FileNotFoundError:
        raise Missing(f"{compiler[0]} makes no library") from None
    finally:
        remove(scratch)
    for old in folder.glob(f"{key}-*.so"):
        remove(old)
    write(folder / f"{key}-{hashlib.sha256(content).hexdigest()}.so", content)
