"""The kernels that are written in C++ for a CPU, as a library that this machine's compiler makes.

That is done when it is first needed, in a few seconds, and kept in the cache under a name that holds a checksum of it.
If there is no library, for whatever reason, torch does what it would.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

import torch
from torch import Tensor

from .errors import InputError
from .files import claim, named, open_regular, sweep_up, write
from .paths import cache_folder

SOURCES = [Path(__file__).with_name(name) for name in ("fused.cpp", "thin.cpp")]
HEADER = Path(__file__).with_name("kernels.h")
# Without traps: GCC would branch where a comparison could raise one, and branches are not vectorised.
FLAGS = ["-std=c++17", "-O3", "-march=native", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC"]
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
KERNELS = ["moments", "forward", "reduce", "backward", "thin_moments", "thin_turn", "thin_forward", "thin_backward"]
LIMIT = 60  # seconds for the compiler, and for another process that is at it


class Missing(Exception):
    """Why there is no library."""


class Shape(ctypes.Structure):
    """Of channels_last images, and how many threads share them."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("images", "height", "width", "channels")),
        ("threads", ctypes.c_int),
    ]


def function(name: str, x: Tensor) -> Callable[..., None]:
    """The library's, for numbers like those of x."""
    return getattr(library(), f"{name}_{DTYPES[x.dtype]}")


def pointers(*tensors: Tensor) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


def available(device: torch.device) -> bool:
    return device.type == "cpu" and library() is not None


def library() -> ctypes.CDLL | None:
    """The compiled kernels; None if this machine has none, which `reason` explains."""
    return library_or_reason()[0]


def reason() -> str:
    """Why there is no library, in a line; empty if there is one."""
    return library_or_reason()[1]


@lru_cache
def library_or_reason() -> tuple[ctypes.CDLL | None, str]:
    try:
        return compiled(), ""
    except (Missing, InputError) as error:
        return None, f"no compiled kernels ({error})"
    except (OSError, RuntimeError, ValueError, LookupError) as error:
        return None, f"no compiled kernels ({type(error).__name__}: {error})"


# --- the cache


def compiled() -> ctypes.CDLL:
    """The library from the cache or, if there is no sound one, from the compiler; other processes wait for the first.

    Raises Missing, or InputError if the cache cannot be written.
    """
    deadline = time.monotonic() + LIMIT
    compiler = shlex.split(os.environ.get("CXX") or shutil.which("c++") or "")
    if not compiler:
        raise Missing("there is no C++ compiler: neither c++ nor $CXX")
    folder, key = private_folder(), key_of(compiler, deadline)
    while time.monotonic() < deadline:
        if found := sound_library(folder, key):
            return found
        with claim(folder, wait=False) as mine:
            if mine and not (found := sound_library(folder, key)):
                make_library(compiler, folder, key, deadline)
                found = sound_library(folder, key)
                if not found:
                    raise Missing(f"what {compiler[0]} makes cannot be loaded")
        if found:
            return found
        time.sleep(0.05)
    raise Missing(f"another process has been compiling them in {folder} for a minute")


def private_folder() -> Path:
    """Where the libraries lie. Raises Missing if others could put one there, InputError if there can be none."""
    folder = cache_folder() / "kernels"
    with named(folder):
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


def key_of(compiler: list[str], deadline: float) -> str:
    """What the library depends on: sources, compiler, processor. Homes are shared between machines."""
    version = output_of([*compiler, "--version"], deadline)
    sources = [file.read_bytes() for file in (*SOURCES, HEADER)]
    decisive = [*sources, version, processor().encode(), " ".join(FLAGS).encode()]
    return hashlib.sha256(b"|".join(decisive)).hexdigest()[:16]


def sound_library(folder: Path, key: str) -> ctypes.CDLL | None:
    """The one of this key whose bytes are those that were made and that has all kernels; None if there is none."""
    for file in folder.glob(f"{key}-*.so"):
        with suppress(OSError):
            with open_regular(file) as stream:
                checksum = hashlib.file_digest(stream, "sha256").hexdigest()
            if file.stem == f"{key}-{checksum}":
                library = ctypes.CDLL(str(file))
                if all(hasattr(library, f"{name}_{dtype}") for name in KERNELS for dtype in DTYPES.values()):
                    return library
    return None


# --- the compiler


def make_library(compiler: list[str], folder: Path, key: str, deadline: float) -> None:
    """Compiles the sources; whatever killed or damaged ones have left goes. The caller holds the folder's claim."""
    sweep_up(folder)
    with TemporaryDirectory(prefix=".", suffix=".tmp", dir=folder) as scratch:
        made = Path(scratch, "kernels.so")
        output_of([*compiler, *FLAGS, "-o", str(made), *map(str, SOURCES)], deadline)
        content = made.read_bytes()
    for old in folder.glob(f"{key}-*.so"):
        old.unlink()
    write(folder / f"{key}-{hashlib.sha256(content).hexdigest()}.so", content)


def output_of(command: list[str], deadline: float) -> bytes:
    """What a program prints. Raises Missing if it fails or has not ended in time: then it ends, and what it began."""
    with TemporaryFile() as printed, TemporaryFile() as complaints:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=printed, stderr=complaints, process_group=0
        )
        try:
            code = process.wait(deadline - time.monotonic())
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise Missing(f"{command[0]} has not ended within a minute") from None
            raise
        for file in (printed, complaints):
            file.seek(0)
        if code:
            line = complaints.readline().decode(errors="replace").strip() or f"status {code}"
            raise Missing(f"{command[0]} fails: {line}")
        return printed.read()


def processor() -> str:
    """What -march=native depends on."""
    with suppress(OSError):
        if found := re.search(r"^(flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found.group()
    return platform.machine() + platform.processor()
