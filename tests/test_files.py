"""Files that are there as a whole or not at all, and folders that one process at a time holds."""

import errno
import io
import os
import time

import pytest
from small import EPOCHS, row

from lowrank.errors import InputError
from lowrank.files import claim, open_regular, read_at_most, replacing, sweep_up, temporary_name, write
from lowrank.records import store


def hold_forever(folder, held) -> None:
    with claim(folder):
        held.set()
        time.sleep(600)


def test_a_claim_is_held_by_one_process_and_freed_by_its_death(tmp_path, forks, start):
    held = forks.Event()
    holder = start(hold_forever, tmp_path / "a", held)
    assert held.wait(30)
    with claim(tmp_path / "a", wait=False) as mine:
        assert not mine
    with claim(tmp_path / "b", wait=False) as mine:
        assert mine
    holder.kill()
    with claim(tmp_path / "a") as mine:  # waits no longer than the holder lives
        assert mine
    holder.join()


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path, monkeypatch):
    store(tmp_path, row("a"), EPOCHS)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for path in (tmp_path / "a" / "record.json", tmp_path / "new"):
        with pytest.raises(InputError, match=rf"{path}.*No space left on device \([\d.]+ MB free\)"):
            write(path, b"x" * 1000)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, OSError])
def test_a_write_that_is_interrupted_leaves_the_old_file_and_nothing_beside_it(tmp_path, interrupt):
    path = tmp_path / "record.json"
    write(path, b"whole")
    with pytest.raises(interrupt), replacing(path) as temporary:
        temporary.write_bytes(b"ha")
        raise interrupt
    assert path.read_bytes() == b"whole" and list(tmp_path.iterdir()) == [path]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, make):
    make(tmp_path / "file")
    with pytest.raises(OSError), open_regular(tmp_path / "file"):
        pass


@pytest.mark.parametrize("size", [0, 1000, 10**6])
def test_of_a_file_that_never_ends_not_much_more_is_read_than_asked(size):
    with open("/dev/zero", "rb") as endless:
        assert size <= len(read_at_most(endless, size)) <= size + 2**16
    assert read_at_most(io.BytesIO(b"whole"), size) == b"whole"


def test_what_killed_writers_left_is_swept_up_and_nothing_else(tmp_path):
    others = {"record.json", ".claim", "mine.tmp", ".mine.tmp", ".mine.1a2b.tmp", ".thesis.tmp"}
    for name in {temporary_name(tmp_path / "record.json").name, *others} - {".thesis.tmp"}:
        (tmp_path / name).touch()
    for folder in (temporary_name(tmp_path / "kernels"), tmp_path / ".thesis.tmp"):
        (folder / "deep").mkdir(parents=True)
    sweep_up(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == others


def test_a_claim_that_would_wait_for_itself_is_refused(tmp_path):
    with claim(tmp_path), claim(tmp_path, wait=False) as mine:
        assert not mine
    refused = pytest.raises(InputError, match=f"^{tmp_path}: held by what asks for it")
    with claim(tmp_path), refused, claim(tmp_path):
        pass
    with claim(tmp_path, wait=False) as mine:
        assert mine
