"""A small dataset."""

import pytest
import torch

from lowrank.data import Data


@pytest.fixture
def data() -> Data:
    """100 random images, each labelled by its place."""
    images = torch.randint(0, 256, (100, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Data(images, torch.arange(100), images[:9], torch.arange(9), tuple(map(str, range(100))), "0" * 12)
