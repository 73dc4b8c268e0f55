"""The kernels that are written in C++ for a CPU, as a library that this machine's compiler makes.

That is done when it is first needed, in a few seconds, and kept in the cache. Where there is no compiler with OpenMP,
torch does what the library would.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from .config import cache_folder

SOURCES = [Path(__file__).with_name(name) for name in ("fused.cpp", "thin.cpp")]
HEADER = Path(__file__).with_name("kernels.h")
# Without traps: GCC would branch where a comparison could raise one, and branches are not vectorised.
FLAGS = ["-std=c++17", "-O3", "-march=native", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC"]
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


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


@lru_cache
def library() -> ctypes.CDLL | None:
    """The compiled fused.cpp; None where this machine cannot make it."""
    with suppress(OSError, subprocess.CalledProcessError):
        return ctypes.CDLL(str(compiled()))
    return None


def compiled() -> Path:
    """The library for these sources, compiler and processor: homes are shared between machines."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or ""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    sources = [file.read_bytes() for file in (*SOURCES, HEADER)]
    decisive = [*sources, version, processor().encode(), " ".join(FLAGS).encode()]
    file = cache_folder() / f"kernels-{hashlib.sha256(b'|'.join(decisive)).hexdigest()[:16]}.so"
    if not file.exists():
        with TemporaryDirectory(dir=file.parent) as scratch:
            made = Path(scratch, file.name)
            subprocess.run([compiler, *FLAGS, "-o", made, *SOURCES], capture_output=True, check=True)
            os.replace(made, file)
    return file


def processor() -> str:
    """What -march=native depends on."""
    with suppress(OSError):
        if found := re.search(r"^(flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found.group()
    return platform.machine() + platform.processor()
