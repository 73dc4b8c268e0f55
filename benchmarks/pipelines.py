"""How others train the same network: the pipeline of 2018 and torchvision's, the references for speed.

Both take one image after the other through a DataLoader in this process, and train in float32 and in torch's default
memory format, with plain SGD. They share nothing with lowrank.train but the network and the schedule.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from lowrank.config import Config
from lowrank.data.augmentation import FULL
from lowrank.data.dataset import Data
from lowrank.data.images import SIZE
from lowrank.network import build, compute_blocks_by
from lowrank.optimiser import SCHEDULES
from lowrank.train import steps_an_epoch

CPU = torch.device("cpu")


class Numpy(Dataset):
    """As in 2018: normalised and padded beforehand, then cropped, flipped and cut out by numpy, image by image."""

    def __init__(self, data: Data) -> None:
        images, (mean, deviation) = data.train_images.numpy(), (each.numpy()[0] for each in data.moments)
        border = [(0, 0), (0, 0), (FULL.pad, FULL.pad), (FULL.pad, FULL.pad)]
        self.images = np.pad((images - mean) / deviation, border, mode="reflect").astype(np.float32)
        self.labels = data.train_labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        top, left = np.random.randint(0, 2 * FULL.pad + 1, 2)
        image = self.images[index, :, top : top + SIZE, left : left + SIZE]
        image = (image[:, :, ::-1] if np.random.rand() < 0.5 else image).copy()
        top, left = np.random.randint(0, SIZE - FULL.hole + 1, 2)
        image[:, top : top + FULL.hole, left : left + FULL.hole] = 0
        return image, self.labels[index]


class Torchvision(Dataset):
    """The same augmentation by torchvision's transforms."""

    def __init__(self, data: Data) -> None:
        self.images, self.labels = data.train_images, data.train_labels.tolist()
        mean, deviation = (each.flatten().div(255).tolist() for each in data.moments)
        share = (FULL.hole / SIZE) ** 2
        self.transform = v2.Compose(
            [
                v2.RandomCrop(SIZE, padding=FULL.pad, padding_mode="reflect"),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(mean, deviation),
                v2.RandomErasing(p=1, scale=(share, share), ratio=(1, 1)),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def compute_block_in_the_old_order(x: Tensor, convolution: nn.Module, norm: nn.BatchNorm2d, pool: bool) -> Tensor:
    """A Block in the order of 2018; max pool and ReLU commute. [B, C, H, W] -> [B, O, H / 2, W / 2] or [B, O, H, W]."""
    x = torch.relu(norm(convolution(x)))
    return F.max_pool2d(x, 2) if pool else x


class Pipeline:
    """A network of lowrank and its optimiser, trained the way of `images`, one epoch at a time.

    With `summed` the loss is summed over the batch, as in 2018: the rate is divided by the batch size, the decay
    multiplied.
    """

    def __init__(
        self, config: Config, data: Data, images: type[Dataset], summed: bool = False, device: torch.device = CPU
    ) -> None:
        self.config, self.device = config, device
        self.network = build(config, len(data.classes)).to(device)
        compute_blocks_by(self.network, compute_block_in_the_old_order)
        self.loader = DataLoader(images(data), config.batch_size, shuffle=True, drop_last=True)
        self.steps = steps_an_epoch(config, data)
        self.reduction, self.factor = ("sum", config.batch_size) if summed else ("mean", 1)
        decay = config.weight_decay * self.factor
        parameters = self.network.parameters()
        self.optimiser = torch.optim.SGD(parameters, 0.1, config.momentum, weight_decay=decay, nesterov=True)

    def train(self, epoch: int) -> None:
        self.network.train()
        for step, (images, labels) in enumerate(self.loader):
            progress = (epoch * self.steps + step + 1) / (self.config.epochs * self.steps + 1)
            peak = self.config.learning_rate / self.factor
            self.optimiser.param_groups[0]["lr"] = peak * SCHEDULES[self.config.schedule](progress)
            logits = self.network(images.to(self.device))
            loss = F.cross_entropy(logits, labels.to(self.device), reduction=self.reduction)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
