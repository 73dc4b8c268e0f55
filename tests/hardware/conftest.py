"""Caches and compilers of the kernels that take no time."""

from pathlib import Path

import pytest
from compilers import compiler

from lowrank.hardware import native


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """A cache with the library of this machine."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOWRANK_CACHE", str(folder))
        native.find_library()
    return folder


@pytest.fixture
def copying(made, tmp_path) -> str:
    """A $CXX that makes this machine's library in no time."""
    [library] = made.glob("kernels/*.so")
    return compiler(tmp_path, f"while [ $1 != -o ]; do shift; done; exec cp {library} $2")
