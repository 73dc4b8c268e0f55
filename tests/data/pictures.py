"""Small image folders and archives of two classes, and the line that refuses one."""

import io
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lowrank.data import load
from lowrank.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
NAMES = [
    f"{split}/{kind}/{k}.png" for split, n in (("train", 3), ("test", 2)) for kind in ("cat", "dog") for k in range(n)
]


def encoded(image: Image.Image, kind: str = "png", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


FILES = {name: encoded(Image.fromarray(each)) for name, each in zip(NAMES, PIXELS, strict=True)}


def tarred(path: Path, files: dict[str, bytes], *others: tarfile.TarInfo, kind: str = "") -> Path:
    with tarfile.open(path, f"w:{kind}") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in others:
            archive.addfile(member)
    return path


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def unpacked(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


FORMS = {"": unpacked, ".tar": tarred, ".zip": zipped}


def refusal(path: Path, memory: int = 0) -> str:
    """The line that refuses a dataset; `memory` is what may be taken meanwhile, in bytes."""
    if memory:
        tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            load(path)
        assert tracemalloc.get_traced_memory()[1] <= memory
    finally:
        tracemalloc.stop()
    line = str(caught.value)
    assert line.startswith(f"dataset={str(path)!r}: ") and "\n" not in line and len(line) < 500
    return line
