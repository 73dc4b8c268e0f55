"""A dataset as bytes on the device, shuffled, augmented and normalised in batches."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .augmentation import Augmentation, augment_images


@dataclass(frozen=True, eq=False)
class Data:
    """A dataset; all tensors are on one device."""

    train_images: Tensor  # uint8 [N, 3, 32, 32]
    train_labels: Tensor  # int64 [N]
    test_images: Tensor  # uint8 [M, 3, 32, 32]
    test_labels: Tensor  # int64 [M]
    classes: tuple[str, ...]  # the name of each label
    fingerprint: str  # 12 hex digits of a hash over pixels, labels and the sizes of the splits
    validation_images: Tensor | None = None  # uint8 [V, 3, 32, 32], see `hold_out`
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
        for chosen in order.split(min(16 * batch_size, count)):  # a GPU is faster at a few large pieces of work
            images, labels = self.train_images[chosen], self.train_labels[chosen]
            if augmentation:
                images = augment_images(images, augmentation, generator, fill)
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


def check_device(device: str | torch.device) -> torch.device:
    """The device of a tensor there; raises InputError if there can be none."""
    try:
        return torch.empty(0, device=device).device
    except Exception as error:  # torch raises many kinds
        reason = str(error).partition("\n")[0]
        raise InputError(f"device={device!r}; allowed: a device of this machine, as 'cpu' ({reason})") from error


def standardise(images: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """uint8 -> float32, both [B, 3, 32, 32], channels_last; mean and deviation are [1, 3, 1, 1]."""
    return images.float().sub_(mean).div_(deviation).contiguous(memory_format=torch.channels_last)


def hold_out(data: Data, share: float) -> Data:
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


def assemble_data(
    train_images: Any, train_labels: Any, test_images: Any, test_labels: Any, classes: Iterable[str]
) -> Data:
    """Data on the CPU from arrays of the same shapes, with its fingerprint."""
    given = (train_images, train_labels, test_images, test_labels)
    arrays = [np.ascontiguousarray(array, kind) for array, kind in zip(given, (np.uint8, np.int64) * 2, strict=True)]
    digest = hashlib.blake2b(digest_size=6)
    for array in arrays:
        digest.update(str(array.shape).encode())
        digest.update(array)
    return Data(*map(torch.from_numpy, arrays), tuple(map(str, classes)), digest.hexdigest())
