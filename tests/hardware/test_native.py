"""The compiled kernels: whatever the compiler does or the cache holds, a sound library or a line that says why."""

import os
import shutil
import stat
import subprocess
import time
from pathlib import Path

import pytest

from lowrank.hardware import native

pytestmark = pytest.mark.skipif(not native.library(), reason="needs a C++ compiler with OpenMP")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWRANK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A cache with the library of this machine."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOWRANK_CACHE", str(folder))
        native.find_library()
    return folder


def compiler(folder: Path, script: str) -> str:
    """A $CXX of that script; it tells its version like any other."""
    file = folder / "cxx"
    file.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec c++ --version\n{script}\n')
    file.chmod(0o755)
    return str(file)


@pytest.fixture
def copying(made, tmp_path) -> str:
    """A $CXX that makes this machine's library in no time."""
    [library] = made.glob("kernels/*.so")
    return compiler(tmp_path, f"while [ $1 != -o ]; do shift; done; exec cp {library} $2")


def reason() -> str:
    """Why there is no library, asked anew."""
    native.library_or_reason.cache_clear()
    try:
        return native.reason()
    finally:
        native.library_or_reason.cache_clear()


COMPILERS = {
    "never ends": ("sleep 600 & sleep 600", "has not ended within a minute"),
    "fails": ("echo cxx: fatal error: no omp.h >&2; exit 1", "fails: cxx: fatal error: no omp.h"),
    "makes nothing": ("exit 0", "No such file"),
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


@pytest.mark.parametrize("name", ["", "no-such-compiler", "/"])
def test_no_compiler(cache, monkeypatch, name):
    monkeypatch.setenv("CXX", name)
    monkeypatch.setenv("PATH", "/nowhere")
    assert "there is no C++ compiler" in reason() or name and name in reason()


def test_a_compiler_may_have_arguments(cache, copying, monkeypatch):
    monkeypatch.setenv("CXX", f"env LANG=C {copying}")
    assert reason() == ""


@pytest.mark.parametrize("place", ["file", "/dev/null", "/proc"])
def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch, place):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.delenv("LOWRANK_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / place))
    line = reason()
    assert f"{tmp_path / place}/.cache/lowrank/kernels: cannot be written" in line and "compiler" not in line


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def without_functions(file: Path) -> None:
    source = file.with_suffix(".c")
    source.write_text("int nothing;")
    subprocess.run(["c++", "-shared", "-fPIC", "-o", str(file), str(source)], check=True)
    source.unlink()


def fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("damage", [cut, flip, without_functions, fifo, Path.unlink])
def test_a_damaged_library_is_made_anew(made, cache, copying, monkeypatch, damage):
    shutil.copytree(made, cache)
    monkeypatch.setenv("CXX", copying)
    [file] = cache.glob("kernels/*.so")
    right = file.read_bytes()
    damage(file)
    assert native.load_library(file.parent, file.stem.partition("-")[0]) is None
    assert reason() == ""
    assert [each.read_bytes() for each in cache.glob("kernels/*.so")] == [right]


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o770])
@pytest.mark.parametrize("place", ["", "kernels"])
def test_nothing_is_loaded_from_where_others_may_write(made, cache, monkeypatch, place, mode):
    shutil.copytree(made, cache)
    monkeypatch.setattr(Path, "group", lambda path: "users")
    monkeypatch.setattr(native.ctypes, "CDLL", lambda name: pytest.fail("loaded"))
    (cache / place).chmod(mode)
    assert f"others may write in {cache / place}" in reason()


def test_a_group_of_ones_own_and_a_folder_like_tmp_are_no_others(made, cache, monkeypatch):
    shutil.copytree(made, cache)
    monkeypatch.setattr(Path, "group", Path.owner)
    cache.chmod(0o775)
    assert reason() == ""
    cache.chmod(0o777 | stat.S_ISVTX)
    assert reason() == ""
    (cache / "kernels").chmod(0o777 | stat.S_ISVTX)
    assert "others may write" in reason()


def find_elsewhere(cache: Path, cxx: str) -> None:
    os.environ |= {"LOWRANK_CACHE": str(cache), "CXX": cxx}
    native.find_library()


@pytest.mark.timeout(120)
def test_what_killed_compilations_leave_is_swept_up_by_the_next(cache, copying, forks, tmp_path, monkeypatch):
    (tmp_path / "slow").mkdir()
    slow = compiler(tmp_path / "slow", "sleep 10")
    for _ in range(2):
        process = forks.Process(target=find_elsewhere, args=[cache, slow])
        left = set(cache.glob("kernels/.*.tmp"))
        process.start()
        while not set(cache.glob("kernels/.*.tmp")) - left and process.is_alive():
            time.sleep(0.01)
        process.kill()
        process.join()
    assert list(cache.glob("kernels/.*.tmp"))
    monkeypatch.setenv("CXX", copying)
    assert reason() == ""
    assert sorted(file.suffix for file in (cache / "kernels").iterdir()) == ["", ".so"]  # its claim and the library
