"""The C++ compiler of this machine: whatever it is and does, it is used, or a line names it and torch does the work."""

import subprocess

import pytest
from compilers import compiled, compiler, reason

from lowrank.hardware import native

pytestmark = compiled

COMPILERS = {
    "never ends": ("sleep 600 & sleep 600", "has not ended within a minute"),
    "fails": ("echo cxx: fatal error: no omp.h >&2; exit 1", "fails: cxx: fatal error: no omp.h"),
    "makes nothing": ("exit 0", "makes no library"),
    "makes no library": ("while [ $1 != -o ]; do shift; done; echo text > $2", "cannot be loaded"),
    "leaves out the functions": (
        "while [ $1 != -o ]; do shift; done; echo 'int nothing;' > $2.c; exec c++ -shared -fPIC -o $2 $2.c",
        "cannot be loaded",
    ),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("script", "said"), COMPILERS.values(), ids=COMPILERS)
def test_a_compiler_that_cannot_is_named_and_torch_does_it(cache, tmp_path, monkeypatch, script, said):
    monkeypatch.setattr(native, "LIMIT", 2)
    monkeypatch.setenv("CXX", compiler(tmp_path, script))
    line = reason()
    assert line.startswith("no compiled kernels (") and said in line and "\n" not in line
    assert not list(cache.rglob("*.tmp"))
    children = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(tmp_path / "cxx") not in children


NONE = {
    **dict.fromkeys(["", " "], "there is no C++ compiler: neither c++ nor $CXX"),
    "no-such-compiler -O": "$CXX='no-such-compiler -O': there is no program 'no-such-compiler'",
    "/": "$CXX='/': there is no program '/'",
    "g++ 'x": '$CXX="g++ \'x" cannot be read: No closing quotation',
}


@pytest.mark.parametrize(("name", "said"), NONE.items())
def test_no_compiler(cache, monkeypatch, name, said):
    monkeypatch.setenv("CXX", name)
    monkeypatch.setenv("PATH", "/nowhere")
    assert reason() == f"no compiled kernels ({said})"


def test_a_compiler_may_have_arguments(cache, copying, monkeypatch):
    monkeypatch.setenv("CXX", f"env LANG=C {copying}")
    assert reason() == ""
