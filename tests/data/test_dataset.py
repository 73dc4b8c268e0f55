"""A dataset: its batches, how they are normalised, what is held out."""

import math
from dataclasses import replace

import pytest
import torch
from small import epoch

from lowrank.data import load
from lowrank.data.augmentation import FULL
from lowrank.data.dataset import Data, hold_out
from lowrank.errors import InputError

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def test_an_epoch_has_each_image_once_with_its_label(data):
    images, labels = epoch(data, 10, 0, 0, None)
    assert sorted(labels.tolist()) == list(range(100)) != labels.tolist()
    assert torch.equal(images, data.train_images[labels])
    images_augmented, labels_augmented = epoch(data, 10, 0, 0, FULL)
    assert torch.equal(labels_augmented, labels) and not torch.equal(images_augmented, images)


@pytest.mark.parametrize("batch_size, sizes", [(30, [30] * 3), (100, [100]), (64, [64]), (101, [100]), (2, [2] * 50)])
def test_batches_are_full(data, batch_size, sizes):
    assert [len(images) for images, _ in data.training_batches(batch_size, 0, 0, FULL)] == sizes


def test_order_and_augmentation_come_from_seed_and_epoch(data):
    first = epoch(data, 30, 5, 2, FULL)
    assert all(map(torch.equal, epoch(data, 30, 5, 2, FULL), first))
    for seed, number in ((5, 3), (6, 2), (2, 5)):
        assert not any(map(torch.equal, epoch(data, 30, seed, number, FULL), first))


def test_normalised_training_images_have_mean_0_and_deviation_1():
    data = load("digits")
    images = data.normalise(data.train_images)
    assert images.dtype == torch.float32 and images.is_contiguous(memory_format=torch.channels_last)
    deviation, mean = torch.std_mean(images.double(), (0, 2, 3), correction=0)
    assert mean.abs().max() < 1e-5 and (deviation - 1).abs().max() < 1e-5


def test_constant_channel_stays_finite(data):
    flat = torch.full_like(data.train_images, 9)
    data = Data(flat, data.train_labels, flat, data.train_labels, data.classes, data.fingerprint)
    assert not data.normalise(flat).any()


@pytest.mark.skipif("cuda" not in DEVICES, reason="needs a GPU")
def test_an_epoch_on_a_gpu_never_waits_for_it():
    data = load("digits", "cuda")
    data.normalise(data.test_images)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for images, _ in data.training_batches(64, 0, 0, FULL):
            data.normalise(images)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("share", [0.001, 0.1, 0.25, 0.5])
def test_validation_images_are_balanced_disjoint_and_always_the_same(share):
    data = load("digits")
    first, second = hold_out(data, share), hold_out(data, share)
    assert torch.equal(first.validation_images, second.validation_images)
    counts = torch.bincount(data.train_labels)
    assert torch.bincount(first.validation_labels).tolist() == [math.ceil(share * count) for count in counts.tolist()]
    both = torch.cat([first.train_images, first.validation_images]).flatten(1)
    assert sorted(map(bytes, both.numpy())) == sorted(map(bytes, data.train_images.flatten(1).numpy()))
    assert first.fingerprint == data.fingerprint and torch.equal(first.test_images, data.test_images)


def test_validation_needs_a_class_with_two_images():
    data = load("digits")
    chosen = [int((data.train_labels == label).nonzero()[0]) for label in range(10)]
    single = replace(data, train_images=data.train_images[chosen], train_labels=data.train_labels[chosen])
    with pytest.raises(InputError, match="validation=0.1: every class has a single training image"):
        hold_out(single, 0.1)
