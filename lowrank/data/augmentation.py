"""What is done to training images by chance: a crop, a flip, a cutout, all in a few indexed copies of bytes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .images import SIZE


@dataclass(frozen=True)
class Augmentation:
    """What is done to an image by chance: a crop, a flip in every second, a cutout."""

    pad: int  # pixels that the crop may reach beyond the image
    hole: int  # pixels along each side of the cutout; 0 for none


FULL = Augmentation(pad=4, hole=8)
LIGHT = Augmentation(pad=2, hole=0)


def augment_images(
    images: Tensor, augmentation: Augmentation, generator: torch.Generator, fill: Tensor | int = 0
) -> Tensor:
    """uint8 [N, 3, 32, 32] -> the same, each image cropped, flipped or not, and cut out, as the generator draws.

    The crop is a window of the image padded by reflection. The cutout is a square, wholly inside, that gets the
    value `fill` (a number, or uint8 [1, 3, 1, 1]).
    """
    count, device, size = len(images), images.device, augmentation.hole
    top, left, flip, hole_top, hole_left = draws(count, augmentation, generator)
    side = torch.arange(SIZE, device=device)
    rows = reflect_index(top + side)
    columns = reflect_index(left + torch.where(flip == 1, side.flip(0), side))
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


def reflect_index(index: Tensor) -> Tensor:
    """Positions beyond an edge, mirrored at the pixel on the edge."""
    index = index.abs()
    return torch.minimum(index, 2 * (SIZE - 1) - index)
