"""Images as bytes on the device: read once and kept, then shuffled, augmented and normalised in batches."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import math
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .config import DATASETS, InputError, dataset_name
from .files import lock, open_regular, replacing
from .images import SIZE, content_hash, contents, read_splits
from .paths import cache_folder, located

STORED = ("train_images", "train_labels", "test_images", "test_labels", "classes", "fingerprint")  # in the cache
READING = 2  # counts up when the same files give other pixels: the cache of an older one is not used any more


@dataclass(frozen=True)
class Augmentation:
    """What is done to an image by chance: a crop, a flip in every second, a cutout."""

    pad: int  # pixels that the crop may reach beyond the image
    hole: int  # pixels along each side of the cutout; 0 for none


FULL = Augmentation(pad=4, hole=8)
LIGHT = Augmentation(pad=2, hole=0)


@dataclass(frozen=True, eq=False)
class Data:
    """A dataset; all tensors are on one device."""

    train_images: Tensor  # uint8 [N, 3, 32, 32]
    train_labels: Tensor  # int64 [N]
    test_images: Tensor  # uint8 [M, 3, 32, 32]
    test_labels: Tensor  # int64 [M]
    classes: tuple[str, ...]  # the name of each label
    fingerprint: str  # 12 hex digits of a hash over pixels, labels and the sizes of the splits
    validation_images: Tensor | None = None  # uint8 [V, 3, 32, 32], see `held_out`
    validation_labels: Tensor | None = None  # int64 [V]

    def training_batches(
        self, batch_size: int, seed: int, epoch: int, augmentation: Augmentation | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One shuffled epoch of uint8 images [B, 3, 32, 32] and labels [B], the same for the same seed and epoch.

        A last batch that is not full is left out; a training set smaller than `batch_size` is one batch.
        """
        device, count = self.train_images.device, len(self.train_images)
        fill = self.moments[0].round().to(torch.uint8)
        state = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)
        generator = torch.Generator(device).manual_seed(int(state[0]))
        order = torch.randperm(count, generator=generator, device=device)[: count // batch_size * batch_size or count]
        for chosen in order.split(16 * batch_size):  # a GPU is faster at a few large pieces of work
            images, labels = self.train_images[chosen], self.train_labels[chosen]
            if augmentation:
                images = augmented(images, augmentation, generator, fill)
            yield from zip(images.split(batch_size), labels.split(batch_size), strict=True)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 -> float32, both [B, 3, 32, 32], channels_last; mean 0 and deviation 1 over the training images."""
        return standardise(images, *self.moments)

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the training images, 0 to 255, each float32 [1, 3, 1, 1].

        From whole numbers, so that every device gets the same. The deviation of a constant channel counts as 1.
        """
        moments = []
        for channel in self.train_images.unbind(1):
            levels = list(enumerate(torch.bincount(channel.flatten(), minlength=256).tolist()))
            n, total, squares = (sum(times * level**power for level, times in levels) for power in (0, 1, 2))
            moments.append((total / n, ((n * squares - total**2) / n**2) ** 0.5 or 1.0))
        mean, deviation = torch.tensor(moments, device=self.train_images.device).T.reshape(2, 1, 3, 1, 1)
        return mean, deviation


def standardise(images: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """uint8 -> float32, both [B, 3, 32, 32], channels_last; mean and deviation are [1, 3, 1, 1]."""
    return images.float().sub_(mean).div_(deviation).contiguous(memory_format=torch.channels_last)


def load(dataset: str | os.PathLike, device: str | torch.device = "cpu") -> Data:
    """The dataset of that name or path, on the device.

    `digits` is scikit-learn's, `cifar10` and `cifar100` are torchvision's, downloaded once. Anything else is a folder
    with train/<class>/* and test/<class>/*, or an archive of one, whose images are resized to 32x32.
    Case does not matter, and val/, valid/ or validation/ stand in for a test/ that is not there.
    Raises InputError, one line, if the data cannot be downloaded, are damaged or are not laid out like that.
    """
    dataset = os.fspath(dataset)
    if dataset == "digits":
        data = digits()
    elif dataset in DATASETS:
        data = cached(dataset, partial(torchvision_data, dataset))
    else:
        path = located(dataset)
        if not os.path.isdir(path) and not os.path.isfile(path):
            allowed = f"{', '.join(DATASETS)} or the path of a folder or a file"
            raise InputError(f"dataset={dataset!r}: there is no such path; allowed are {allowed}")
        try:
            key = content_hash(path)
        except OSError as error:
            raise InputError(f"dataset={dataset!r}: {error.filename} cannot be read: {error.strerror}") from error
        data = cached(f"{dataset_name(dataset)}-{key}-{READING}", partial(decoded, path))
    tensors = {name: value.to(device) for name, value in vars(data).items() if isinstance(value, Tensor)}
    return replace(data, **tensors)


def held_out(data: Data, share: float) -> Data:
    """The data with this share of the training images, rounded up in every class, set apart for validation.

    They are the same in every run of a dataset: chosen evenly over the order of each class's images. The last image of
    a class is never taken. Raises InputError if no class has an image to spare.
    """
    if not share:
        return data
    labels = data.train_labels.cpu().numpy()
    apart = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        count = min(math.ceil(share * len(of_class)), len(of_class) - 1)
        apart[of_class[np.arange(count) * len(of_class) // max(1, count)]] = True
    if not apart.any():
        raise InputError(f"validation={share}: every class has a single training image; allowed is 0")
    mask = torch.from_numpy(apart).to(data.train_labels.device)
    return replace(
        data,
        train_images=data.train_images[~mask],
        train_labels=data.train_labels[~mask],
        validation_images=data.train_images[mask],
        validation_labels=data.train_labels[mask],
    )


def assembled(train_images: Any, train_labels: Any, test_images: Any, test_labels: Any, classes: Iterable[str]) -> Data:
    """Data on the CPU from arrays of the same shapes, with its fingerprint."""
    given = (train_images, train_labels, test_images, test_labels)
    arrays = [np.ascontiguousarray(array, kind) for array, kind in zip(given, (np.uint8, np.int64) * 2, strict=True)]
    digest = hashlib.blake2b(digest_size=6)
    for array in arrays:
        digest.update(str(array.shape).encode())
        digest.update(array)
    return Data(*map(torch.from_numpy, arrays), tuple(map(str, classes)), digest.hexdigest())


# Augmentation


def augmented(images: Tensor, augmentation: Augmentation, generator: torch.Generator, fill: Tensor | int = 0) -> Tensor:
    """uint8 [N, 3, 32, 32] -> the same, each image cropped, flipped or not, and cut out, as the generator draws.

    The crop is a window of the image padded by reflection. The cutout is a square, wholly inside, that gets the
    value `fill` (a number, or uint8 [1, 3, 1, 1]).
    """
    count, device, size = len(images), images.device, augmentation.hole
    top, left, flip, hole_top, hole_left = draws(count, augmentation, generator)
    side = torch.arange(SIZE, device=device)
    rows = reflected(top + side)
    columns = reflected(left + torch.where(flip == 1, side.flip(0), side))
    # Whole rows of 32 bytes first, then columns within them: several times faster than gathering single pixels.
    lines = torch.arange(3 * count, device=device).view(count, 3, 1) * SIZE + rows[:, None]
    cropped = images.reshape(-1, SIZE).index_select(0, lines.flatten()).view(count, 3, SIZE, SIZE)
    cropped = cropped.gather(3, columns[:, None, None].expand(-1, 3, SIZE, -1)).view(count, 3, -1)
    if not size:
        return cropped.view_as(images)
    hole = torch.arange(size, device=device)
    pixels = ((hole_top + hole)[:, :, None] * SIZE + (hole_left + hole)[:, None]).view(count, 1, -1)
    values = torch.as_tensor(fill, dtype=torch.uint8, device=device).reshape(1, -1, 1).expand(count, 3, size**2)
    return cropped.scatter_(2, pixels.expand(-1, 3, -1), values).view_as(images)


def draws(count: int, augmentation: Augmentation, generator: torch.Generator) -> list[Tensor]:
    """What chance decides for each image, each int64 [count, 1]: the crop's top and left (-pad to pad), flip (0 or 1),
    the cutout's top and left (0 to 32 - hole)."""
    crop, cutout = (-augmentation.pad, augmentation.pad + 1), (0, SIZE - augmentation.hole + 1)
    ranges, device = [crop, crop, (0, 2), cutout, cutout], generator.device
    return [torch.randint(low, high, (count, 1), generator=generator, device=device) for low, high in ranges]


def reflected(index: Tensor) -> Tensor:
    """Positions beyond an edge, mirrored at the pixel on the edge."""
    index = index.abs()
    return torch.minimum(index, 2 * (SIZE - 1) - index)


# The cache


def cached(name: str, build: Callable[[], Data]) -> Data:
    """The data kept under that name; where there are none, or damaged ones, what `build` makes, kept from now on."""
    file = cache_folder() / f"{name}.npz"
    data = restored(file)
    if data is None:
        data = build()
        with contextlib.suppress(OSError):  # where nothing can be kept, the next run builds again
            keep_data(data, file)
    return data


def restored(file: Path) -> Data | None:
    """What `keep_data` wrote, or None where it is missing or is not what it was."""
    try:
        with open_regular(file) as stream, np.load(stream) as stored:
            *arrays, fingerprint = (stored[name] for name in STORED)
            data = assembled(*arrays)
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
    from sklearn.datasets import load_digits  # slow to import, and only this dataset needs it

    source = load_digits()
    greys = np.rint(source.images * (255 / source.images.max())).astype(np.uint8)
    images = np.pad(greys.repeat(3, 1).repeat(3, 2), ((0, 0), (4, 4), (4, 4)))[:, None].repeat(3, 1)
    test = np.arange(len(images)) % 6 == 0
    return assembled(images[~test], source.target[~test], images[test], source.target[test], source.target_names)


# Where data come from: torchvision


def torchvision_data(dataset: str) -> Data:
    """CIFAR from torchvision, which verifies every file; raises InputError where it cannot be downloaded."""
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
    return assembled(images[0], train.targets, images[1], test.targets, train.classes)


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
        for _ in range(2):  # once more from the start, where what was kept is damaged
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


def decoded(path: Path) -> Data:
    """The images of a folder or an archive in the order of their names, whatever the order in the archive.

    Raises InputError if the archive is damaged, a file is no image, or the layout is not that of `load`.
    """
    try:
        splits = read_splits(path)
    except InputError:
        raise
    except Exception as error:  # archives fail in many ways
        reason = str(error).partition("\n")[0]
        raise InputError(f"dataset={str(path)!r}: it is damaged or cannot be read ({reason})") from error
    train, test = splits["train"], splits["test"] or splits["val"]
    for images, wanted in ((train, "train/<class>/"), (test, "test/<class>/ or val/<class>/")):
        if not images:
            raise InputError(
                f"dataset={str(path)!r}: there are no images in {wanted}; there is {contents(path)}; "
                "allowed is train/<class>/* with test/<class>/*"
            )
    classes = sorted({each[-2] for each in train})
    if strange := [each for each in sorted(test) if each[-2] not in classes]:
        raise InputError(f"dataset={str(path)!r}: {'/'.join(strange[0][-3:-1])} is a class that train/ does not have")
    labels = {name: label for label, name in enumerate(classes)}
    arrays = []
    for images in (train, test):
        arrays += [np.stack([images[each] for each in sorted(images)]), [labels[each[-2]] for each in sorted(images)]]
    return assembled(*arrays, classes)
