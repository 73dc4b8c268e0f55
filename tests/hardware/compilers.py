"""Compilers that are scripts, and what comes of them."""

from pathlib import Path

import pytest

from lowrank.hardware import native

compiled = pytest.mark.skipif(not native.library(), reason="needs a C++ compiler with OpenMP")


def compiler(folder: Path, script: str) -> str:
    """A $CXX of that script; it tells its version like any other."""
    file = folder / "cxx"
    file.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec c++ --version\n{script}\n')
    file.chmod(0o755)
    return str(file)


def reason() -> str:
    """Why there is no library, asked anew."""
    native.library_or_reason.cache_clear()
    try:
        return native.reason()
    finally:
        native.library_or_reason.cache_clear()
