"""This machine's C++ compiler, which makes the library of kernels, and what that library depends on."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

SOURCES = [Path(__file__).with_name(name) for name in ("fused.cpp", "thin.cpp")]
HEADER = Path(__file__).with_name("kernels.h")
# Without traps: GCC would branch where a comparison could raise one, and branches are not vectorised.
FLAGS = ["-std=c++17", "-O3", "-march=native", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC"]


class Missing(Exception):
    """Why there is no library."""


def find_compiler() -> list[str]:
    """$CXX, which may have arguments, or c++. Raises Missing if there is neither."""
    asked = os.environ.get("CXX", "").strip()
    try:
        compiler = shlex.split(asked or shutil.which("c++") or "")
    except ValueError as error:
        raise Missing(f"$CXX={asked!r} cannot be read: {error}") from None
    if not compiler:
        raise Missing("there is no C++ compiler: neither c++ nor $CXX")
    if not shutil.which(compiler[0]):
        raise Missing(f"$CXX={asked!r}: there is no program {compiler[0]!r}")
    return compiler


def compile_sources(compiler: list[str], library: Path, deadline: float) -> None:
    """Make the library. Raises Missing if the compiler fails or has not ended at the deadline (time.monotonic)."""
    run_program([*compiler, *FLAGS, "-o", str(library), *map(str, SOURCES)], deadline)


def make_key(compiler: list[str], deadline: float) -> str:
    """A hash of what the library depends on: sources, compiler, processor. Homes are shared between machines."""
    version = run_program([*compiler, "--version"], deadline)
    sources = [file.read_bytes() for file in (*SOURCES, HEADER)]
    decisive = [*sources, version, describe_processor().encode(), " ".join(FLAGS).encode()]
    return hashlib.sha256(b"|".join(decisive)).hexdigest()[:16]


def run_program(command: list[str], deadline: float) -> bytes:
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


def describe_processor() -> str:
    """What -march=native depends on."""
    with suppress(OSError):
        if found := re.search(r"^(flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found.group()
    return platform.machine() + platform.processor()
