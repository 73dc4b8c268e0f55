"""Where data come from: scikit-learn, torchvision, folders and archives; read once, and kept in the cache."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..config import DATASETS, dataset_name
from ..errors import InputError, printable
from ..files import lock, open_regular, replacing
from ..interrupts import interrupts_after_loading
from ..paths import cache_folder, locate
from .dataset import Data, assemble_data, check_device
from .images import content_hash, contents, find_inner, read_splits

STORED = ("train_images", "train_labels", "test_images", "test_labels", "classes", "fingerprint")  # in the cache
DECODING = 2  # counts up when the same files give other pixels: the cache of an older one is not used any more


def load_data(dataset: str | os.PathLike, device: str | torch.device = "cpu") -> Data:
    """The dataset of that name or path, on the device.

    `digits` is scikit-learn's, `cifar10` and `cifar100` are torchvision's, downloaded once. Anything else is a folder
    with train/<class>/* and test/<class>/*, or an archive of one, whose images are resized to 32x32.
    Case does not matter, and val/, valid/ or validation/ stand in for a test/ that is not there.
    Raises InputError, one line, if the data cannot be downloaded, are damaged or are not laid out like that.
    """
    check_device(device)
    dataset = os.fspath(dataset) if isinstance(dataset, os.PathLike) else dataset
    if not isinstance(dataset, str) or not dataset:
        raise InputError(f"dataset={dataset!r}; allowed: {', '.join(DATASETS)}, or the path of a folder or a file")
    if dataset == "digits":
        data = digits()
    elif dataset in DATASETS:
        data = load_cached(dataset, partial(torchvision_data, dataset))
    else:
        path = locate(dataset)
        if not os.path.isdir(path) and not os.path.isfile(path):
            allowed = f"{', '.join(DATASETS)} or the path of a folder or a file"
            raise InputError(f"dataset={dataset!r}: there is no such path; allowed are {allowed}")
        try:
            key = content_hash(path)
        except OSError as error:
            raise InputError(
                f"dataset={dataset!r}: {error.filename or path} cannot be read: {error.strerror}"
            ) from error
        data = load_cached(f"{dataset_name(dataset)}-{key}-{DECODING}", partial(decode_images, path))
    tensors = {name: value.to(device) for name, value in vars(data).items() if isinstance(value, Tensor)}
    return replace(data, **tensors)


# The cache


def load_cached(name: str, build: Callable[[], Data]) -> Data:
    """The data kept under that name; if there are none, or damaged ones, what `build` makes, kept from now on."""
    file = cache_folder() / f"{name}.npz"
    data = read_cached(file)
    if data is None:
        data = build()
        with contextlib.suppress(OSError):  # if nothing can be kept, the next run builds again
            keep_data(data, file)
    return data


def read_cached(file: Path) -> Data | None:
    """What `keep_data` wrote, or None if it is missing or is not what it was."""
    try:
        with open_regular(file) as stream, np.load(stream) as stored:
            *arrays, fingerprint = (stored[name] for name in STORED)
            data = assemble_data(*arrays)
    except Exception:  # a damaged file fails in many ways, and each means the same
        return None
    return data if data.fingerprint == str(fingerprint) else None


def keep_data(data: Data, file: Path) -> None:
    """Written whole or not at all, however many processes do so at once."""
    with replacing(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **{name: np.asarray(getattr(data, name)) for name in STORED})


# Where data come from: scikit-learn


def digits() -> Data:
    """1797 handwritten digits of 8x8 greys, every sixth a test image.

    A pixel becomes 3x3, and a black border of 4 fills up 32x32, so that no crop cuts a digit off.
    """
    with interrupts_after_loading("scikit-learn"):
        from sklearn.datasets import load_digits  # slow to import, and only this dataset needs it

    source = load_digits()
    greys = np.rint(source.images * (255 / source.images.max())).astype(np.uint8)
    images = np.pad(greys.repeat(3, 1).repeat(3, 2), ((0, 0), (4, 4), (4, 4)))[:, None].repeat(3, 1)
    test = np.arange(len(images)) % 6 == 0
    return assemble_data(images[~test], source.target[~test], images[test], source.target[test], source.target_names)


# Where data come from: torchvision


def torchvision_data(dataset: str) -> Data:
    """CIFAR from torchvision, which verifies every file; raises InputError if it cannot be downloaded."""
    with interrupts_after_loading("torchvision"):
        from torchvision import datasets  # slow to import, and only the first run needs it

    kind, folder = getattr(datasets, dataset.upper()), cache_folder()
    with tempfile.TemporaryDirectory() as scratch:
        archive = folder / kind.filename
        try:
            if not sound(archive, kind.tgz_md5):
                archive = archive if os.access(folder, os.W_OK | os.X_OK) else Path(scratch, kind.filename)
                download(kind.url, archive, kind.tgz_md5)
        except (OSError, http.client.HTTPException) as error:
            raise InputError(
                f"dataset={dataset!r}: the download failed ({error}). Start again to go on with it, or put "
                f"{kind.filename} (from {kind.url}, md5 {kind.tgz_md5}) into {folder} by hand, "
                "or use dataset='digits', or the path of an image folder or of an archive of one"
            ) from error
        unpacked = Path(tempfile.mkdtemp(dir=scratch))
        (unpacked / kind.filename).symlink_to(archive.resolve())
        train, test = (kind(unpacked, train=split, download=True) for split in (True, False))
    images = [split.data.transpose(0, 3, 1, 2) for split in (train, test)]
    return assemble_data(images[0], train.targets, images[1], test.targets, train.classes)


def sound(file: Path, md5: str) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, partial(hashlib.md5, usedforsecurity=False)).hexdigest() == md5


def download(url: str, archive: Path, md5: str) -> None:
    """Fetches the archive; a second process waits until the first is done.

    torchvision would start from nothing after a broken download, so what has come is kept in a .part file.
    """
    part = archive.with_name(archive.name + ".part")
    with part.open("ab") as file:
        lock(file.fileno())
        for _ in range(2):  # once more from the start, if what was kept is damaged
            if sound(archive, md5):
                return
            append_rest(url, file)
            if sound(part, md5):
                os.replace(part, archive)
                return
            file.truncate(0)
    raise OSError("what arrives is damaged")


def append_rest(url: str, file: BinaryIO) -> None:
    """What the file at the url has beyond what `file`, open to append, holds of it."""
    held = file.seek(0, os.SEEK_END)
    request = urllib.request.Request(url, headers={"Range": f"bytes={held}-"} if held else {})
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return  # nothing is missing
    with response, tqdm(desc=url, total=response.length, unit="B", unit_scale=True, disable=None) as bar:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            file.truncate(0)
        while chunk := response.read(2**16):
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
        if response.length:
            raise ConnectionError("the connection broke off")


# Where data come from: folders and archives


def decode_images(path: Path) -> Data:
    """The images of a folder or an archive in the order of their names, whatever the order in the archive.

    Raises InputError if the archive is damaged, a file is no image, or the layout is not that of `load_data`.
    """
    try:
        splits = read_splits(path)
    except InputError:
        raise
    except Exception as error:  # archives fail in many ways
        reason = str(error).partition("\n")[0].rstrip(":")
        raise InputError(f"dataset={str(path)!r}: it is damaged or cannot be read ({reason})") from error
    train, test = splits["train"], splits["test"] or splits["val"]
    for images, wanted in ((train, "train/<class>/"), (test, "test/<class>/ or val/<class>/")):
        if not images:
            raise InputError(
                f"dataset={str(path)!r}: there are no images in {wanted}; there is {contents(path)}; "
                f"allowed is train/<class>/* with test/<class>/*: {suggest_layout(path)}"
            )
    classes = sorted({each[-2] for each in train})
    if strange := [each for each in sorted(test) if each[-2] not in classes]:
        raise InputError(f"dataset={str(path)!r}: {'/'.join(strange[0][-3:-1])} is a class that train/ does not have")
    labels = {name: label for label, name in enumerate(classes)}
    arrays = []
    for images in (train, test):
        arrays += [np.stack([images[each] for each in sorted(images)]), [labels[each[-2]] for each in sorted(images)]]
    return assemble_data(*arrays, map(printable, classes))


def suggest_layout(path: Path) -> str:
    """What makes a data set of what was given instead of one."""
    if inner := find_inner(path):
        return f"give {inner}"
    return "move the folders of the classes into train/, and then, say, every fifth image of each into test/<class>/"
