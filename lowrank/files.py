"""Files that are written whole or not at all and read without waiting, and folders that one process at a time holds.

Claims are `flock` locks: they hold between the processes of a host, and between hosts if the file system passes
them on. The kernel frees them when their process dies. (The package filelock waits by trying again every 50 ms; here a
process that waits is woken.)
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from .errors import InputError

CLAIM = ".claim"  # the file whose lock holds a folder; it stays
HOLDERS: dict[Path, tuple[int, int]] = {}  # which process and thread holds what was claimed here
TOKEN = 4  # random bytes in the name of a file that is being written

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextmanager
def explain_errors(path: Path) -> Iterator[None]:
    """Makes an OSError an InputError with the path, the cause and the space left."""
    try:
        yield
    except OSError as error:
        there = next(folder for folder in [path, *path.absolute().parents] if os.path.exists(folder))
        space = f"{shutil.disk_usage(there).free / 1e6:.1f} MB free"
        raise InputError(f"{path}: cannot be written: {error.strerror or error} ({space})") from error


def temporary_name(path: Path) -> Path:
    """Another name beside this one, which `sweep_up` knows."""
    return path.with_name(f".{path.name}.{secrets.token_hex(TOKEN)}.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Another path beside this one: the file that the caller writes there takes this one's place as a whole or not
    at all, whatever kills the process or the machine."""
    temporary = temporary_name(path)
    try:
        yield temporary
        flush(temporary, os.O_RDWR)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        flush(path.parent, os.O_RDONLY)  # the new name, too, outlives a power cut


def flush(path: Path, mode: int) -> None:
    """Has the system put a file, or the names in a folder, onto the disk."""
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, content: bytes) -> None:
    """The file as a whole or not at all.

    Raises InputError, with the path and the space left, if the disk is full or the folder read-only.
    """
    with explain_errors(path), replacing(path) as temporary:
        temporary.write_bytes(content)


def open_at_once(name: str, flags: int) -> int:
    """An opener that waits for nobody, as the other end of a fifo."""
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0), 0o666)


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """A file to read bytes from. Raises OSError if it is none: a fifo, too, which would wait for its writer."""
    with open(path, "rb", opener=open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is no regular file")
        yield file


def read_at_most(file: BinaryIO, size: int) -> bytes:
    """The rest of a file, but not much more than so many bytes; takes no more memory than there is to read."""
    return b"".join(islice(iter(partial(file.read, 2**16), b""), size // 2**16 + 1))


def sweep_up(folder: Path, name: str = "*") -> None:
    """Removes what killed writers left under a `temporary_name`; the caller holds the folder's claim."""
    for leftover in folder.glob(f".{name}.{2 * TOKEN * '[0-9a-f]'}.tmp"):
        remove(leftover)


def remove(path: Path) -> None:
    """Removes a file, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# --- locks


def lock(descriptor: int, wait: bool = True) -> bool:
    """Locks an open file until it is closed; without `wait` False if another process has locked it.

    Raises InputError if this system has no such locks.
    """
    if fcntl is None:
        raise InputError(
            "this system has no fcntl, whose locks keep processes apart: runs, sweeps and downloads need Linux or macOS"
        )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def this_thread() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


def refuse_own(folder: Path) -> None:
    """Raises InputError if this thread holds the folder: to wait for it would be to wait for itself."""
    if HOLDERS.get(folder / CLAIM) == this_thread():
        raise InputError(f"{folder}: held by what asks for it, such as a run that its own log or watch starts again")


@contextmanager
def claim(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Holds a folder for this process: True once it is held; without `wait` False if another holds it.

    Makes the folder if there is none. The file stays: to remove it would let two processes hold two files.
    Raises InputError, instead of waiting, if this thread holds it.
    """
    file = folder / CLAIM
    if wait:
        refuse_own(folder)
    with explain_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with explain_errors(file):
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    held = False
    try:
        held = lock(descriptor, wait)
        if held:
            HOLDERS[file] = this_thread()
        yield held
    finally:
        if held:
            del HOLDERS[file]
        os.close(descriptor)
