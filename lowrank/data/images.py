"""Image folders and archives of them as pixels: what strangers have packed, read within bounds and never unpacked."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from posixpath import dirname, join, normpath
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from ..errors import InputError
from ..files import open_regular, read_at_most

SIZE = 32  # pixels along each side of an image
CLUTTER = {"thumbs.db", "desktop.ini", "__macosx"}  # what desktops leave in folders, beside hidden files
SPLITS = {"train": "train", "test": "test"} | dict.fromkeys(("val", "valid", "validation"), "val")  # by folder
MOST_PIXELS = 89_478_485  # of an image: those from which on Pillow warns of decompression bombs
MOST_BYTES = 2**28  # of an image file
MOST_OTHER_BYTES = 2**32  # of anything else in an archive, which is skipped over
MOST_HEADER_BYTES = 2**20  # of a long name in a tar archive
LONG_NAMES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, *tarfile.GNU_TYPES[:2])


def read_splits(path: Path) -> dict[str, dict[tuple[str, ...], np.ndarray]]:
    """For train, test and val each image [3, 32, 32] under the parts of its name; val only if there is no test.

    Raises what archives and images raise.
    """
    splits, links, deeper = {split: {} for split in SPLITS.values()}, {}, []
    for name, source in tqdm(members(path), desc=f"reading {path.name}", unit=" images", disable=None):
        split, parts = split_of(name), PurePosixPath(name).parts
        if not split:
            deeper.append(name)
            continue
        if split == "val" and splits["test"]:
            continue
        if isinstance(source, str):
            links[parts] = PurePosixPath(source).parts
            continue
        with source() as file:
            content = read_at_most(file, MOST_BYTES)
        splits[split][parts] = pixels(content, f"dataset={str(path)!r}: {name}")
    images = {parts: image for each in splits.values() for parts, image in each.items()}
    for parts, target in links.items():
        for _ in range(40):  # as many as Linux follows: they may go in a circle
            target = links.get(target, target)
        if target not in images:
            raise InputError(f"dataset={str(path)!r}: {'/'.join(parts)} is a link to what is no image of the archive")
        splits[split_of("/".join(parts))][parts] = images[target]
    if deeper:
        left = f"left out {len(deeper):,} files that lie deeper than <class>/*, {min(deeper)} for one"
        warnings.warn(f"dataset={str(path)!r}: {left}", stacklevel=2)
    return splits


def members(path: Path) -> Iterator[tuple[str, Callable[[], BinaryIO] | str]]:
    """Name of each file in the splits, and what opens it or, for a link, the name that it stands for; deeper ones, too.

    An archive is gone through once and not unpacked. Raises ValueError at what is no file.
    """
    if path.is_dir():
        deeper = (file.relative_to(path).as_posix() for file in path.glob("*/*/*/**/*") if not file.is_dir())
        for name in (*list_images(path), *filter(is_deeper, deeper)):
            yield name, partial(open_regular, path / name)
    elif path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist(), key=split_of):
                if split_of(name) or is_deeper(name):
                    yield name, partial(archive.open, name)
                else:
                    check_no_class(name, stat.S_ISLNK(archive.getinfo(name).external_attr >> 16))
                    archive.open(name).close()  # raises BadZipFile if this is not the name that was given to the file
    else:
        with tarfile.open(path, tarinfo=Header) as archive:
            for member in archive:
                if (split_of(member.name) or is_deeper(member.name)) and not member.isdir():
                    yield member.name, find_source(archive, member)
                else:
                    check_no_class(member.name, member.issym())
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(512) != bytes(512):  # tarfile takes a damaged header for the end
                raise tarfile.ReadError("its end is missing")
            for _ in range(MOST_OTHER_BYTES // 2**20):  # up to the checksum of a compressed archive
                if not archive.fileobj.read(2**20):
                    return


def check_no_class(name: str, is_link: bool) -> None:
    """Raises ValueError at a link in the place of a class's folder, whose images would be left out."""
    if is_link and split_of(f"{name}/*"):
        raise ValueError(f"{name} is a link in the place of a class: pack its images themselves")


def find_source(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], BinaryIO] | str:
    if member.isfile():
        return partial(archive.extractfile, member)
    if member.issym():
        return normpath(join(dirname(member.name), member.linkname))
    if member.islnk():
        return normpath(member.linkname)
    raise ValueError(f"{member.name} is a device or a fifo")


class Header(tarfile.TarInfo):
    """What stands before a file of a tar archive. Raises ValueError at sizes that would fill the memory, or for hours
    be skipped over."""

    @classmethod
    def frombuf(cls, *arguments: Any) -> tarfile.TarInfo:
        header = super().frombuf(*arguments)
        if header.size > (MOST_HEADER_BYTES if header.type in LONG_NAMES else MOST_OTHER_BYTES):
            raise ValueError(f"{header.name} has {header.size:,} bytes")
        return header


def list_images(folder: Path) -> list[str]:
    """What is in the splits of a folder and is no folder, that of val/ last. Raises OSError at what cannot be read."""
    splits = [each for each in folder.iterdir() if each.name.lower() in SPLITS and each.is_dir()]
    classes = [each for split in splits for each in split.iterdir() if each.is_dir()]
    files = (file for each in classes for file in each.iterdir() if not file.is_dir())
    return sorted(sorted(filter(split_of, (file.relative_to(folder).as_posix() for file in files))), key=split_of)


def split_of(name: str) -> str:
    """The split of a file …/train/<class>/*, with test/ and val/ likewise; "" if it is none, hidden or clutter."""
    parts = PurePosixPath(name).parts
    none = is_clutter(parts) or len(parts) < 3 or name.endswith("/")
    return "" if none else SPLITS.get(parts[-3].lower(), "")


def is_deeper(name: str) -> bool:
    """Whether a file lies in a split, but in a folder within the class's folder."""
    parts = PurePosixPath(name).parts
    none = is_clutter(parts) or name.endswith("/") or split_of(name)
    return not none and any(part.lower() in SPLITS for part in parts[:-3])


def is_clutter(parts: tuple[str, ...]) -> bool:
    return any((part.startswith(".") and part != "..") or part.lower() in CLUTTER for part in parts)


def pixels(content: bytes, name: str) -> np.ndarray:
    """uint8 [3, 32, 32], turned upright and resized (bicubic) if the size is another.

    Raises InputError, which starts with the name.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            check_image(image, len(content))
            image.load()
            with suppress(Exception):  # a damaged note of how the camera was held turns nothing
                ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(image.convert("RGB").resize((SIZE, SIZE))).transpose(2, 0, 1)
    except UnidentifiedImageError:
        reason = "no known kind of image" if content else "it is empty"
        raise InputError(f"{name} cannot be read as an image of 8 bits a channel ({reason})") from None
    except Exception as error:  # Pillow raises many kinds
        raise InputError(f"{name} cannot be read as an image of 8 bits a channel ({error})") from None


def check_image(image: Image.Image, size: int) -> None:
    """Raises ValueError, before anything is decoded, at what would take too much memory, or a program, to read."""
    if size > MOST_BYTES or image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width:,} x {image.height:,} pixels; allowed are {MOST_PIXELS:,} and 256 MiB")
    if image.mode[0] in "IF":  # Pillow would make almost all of it white
        raise ValueError(f"its pixels are of mode {image.mode}")
    if image.format == "EPS":  # Pillow would run Ghostscript
        raise ValueError("a drawing")


def contents(path: Path) -> str:
    """What a folder or an archive holds instead of splits: its first folders with files."""
    if path.is_dir():
        names = [each.relative_to(path).as_posix() for each in islice(path.rglob("*"), 10_000) if each.is_file()]
    elif path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    else:
        with tarfile.open(path, tarinfo=Header) as archive:
            names = [member.name for member in archive if not member.isdir()]
    folders = sorted({f"{dirname(name)}/*" if "/" in name else "*" for name in names})
    more = f" and {len(folders) - 4} more" if len(folders) > 4 else ""
    return ", ".join(folders[:4]) + more if folders else "no file"


def find_inner(path: Path) -> Path | None:
    """The folder below this one that holds a train/ for it."""
    found = (each for each in islice(path.rglob("*"), 10_000) if each.name.lower() == "train" and each.is_dir())
    return next((each.parent for each in found if each.parent != path), None)


def content_hash(path: Path) -> str:
    """A hash of the bytes of an archive; of a folder, of its place and its images' names, sizes and times of change.

    Raises OSError, with the name, at what cannot be read: a link to nothing, a device, a fifo.
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    digest = hashlib.sha256(os.fsencode(path.resolve()))
    for name in list_images(path):
        about = (path / name).stat()
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path / name))
        digest.update(os.fsencode(f"{name}\0{about.st_size}\0{about.st_mtime_ns}\0{about.st_ctime_ns}\n"))
    return digest.hexdigest()[:16]
