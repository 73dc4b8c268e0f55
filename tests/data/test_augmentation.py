"""Crop, flip and cutout are those of numpy, each as likely as it should be."""

from collections import Counter

import numpy as np
import pytest
import torch
from small import epoch

from lowrank.data.augmentation import FULL, LIGHT, Augmentation, augment_images, draws
from lowrank.data.dataset import Data
from lowrank.data.images import SIZE

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def reference(image: np.ndarray, drawn: tuple[int, ...], augmentation: Augmentation, fill: np.ndarray) -> np.ndarray:
    """One image [3, 32, 32], augmented with numpy step by step."""
    (top, left, flip, hole_top, hole_left), pad, hole = drawn, augmentation.pad, augmentation.hole
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)), mode="reflect")
    window = padded[:, top + pad : top + pad + 32, left + pad : left + pad + 32].copy()
    window = window[:, :, ::-1].copy() if flip else window
    window[:, hole_top : hole_top + hole, hole_left : hole_left + hole] = fill
    return window


augmentations = pytest.mark.parametrize("augmentation", [FULL, LIGHT], ids=["full", "light"])


@augmentations
@pytest.mark.parametrize("device", DEVICES)
def test_augmentation_equals_numpy(data, device, augmentation):
    images, fill = data.train_images.repeat(10, 1, 1, 1), torch.tensor([1, 2, 3], dtype=torch.uint8).view(1, 3, 1, 1)
    drawn = draws(1000, augmentation, torch.Generator(device).manual_seed(7))
    generator = torch.Generator(device).manual_seed(7)
    result = augment_images(images.to(device), augmentation, generator, fill.to(device)).cpu()
    chances = zip(*(each.flatten().tolist() for each in drawn), strict=True)
    expected = [
        reference(image.numpy(), chance, augmentation, fill[0].numpy())
        for image, chance in zip(images, chances, strict=True)
    ]
    assert np.array_equal(result, np.stack(expected))
    assert torch.equal(images, data.train_images.repeat(10, 1, 1, 1))  # the originals are as they were


@augmentations
def test_every_crop_flip_and_cutout_is_as_likely(augmentation):
    drawn = draws(20_000, augmentation, torch.Generator().manual_seed(0))
    crop, cutout = range(-augmentation.pad, augmentation.pad + 1), range(SIZE - augmentation.hole + 1)
    for values, wanted in zip(drawn, (crop, crop, range(2), cutout, cutout), strict=True):
        counts, expected = Counter(values.flatten().tolist()), 20_000 / len(wanted)
        assert sorted(counts) == list(wanted)
        assert all(abs(count - expected) < 6 * expected**0.5 for count in counts.values())


def test_cutout_is_64_pixels_of_the_training_mean(data):
    images = torch.where(data.train_images < 128, 20, 181).to(torch.uint8)
    data = Data(images, data.train_labels, images, data.train_labels, data.classes, data.fingerprint)
    fill = images.double().mean((0, 2, 3), keepdim=True).round()
    batch, _ = epoch(data, 50, 0, 0, FULL)
    assert ((batch == fill).sum((2, 3)) == 64).all()
