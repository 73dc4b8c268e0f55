"""The compiled kernels: whatever the compiler does or the cache holds, a sound library or a line that says why."""

import os
import shutil
import stat
import subprocess
import time
from pathlib import Path

import pytest
from compilers import compiled, compiler, reason

from lowrank.hardware import native

pytestmark = compiled


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
