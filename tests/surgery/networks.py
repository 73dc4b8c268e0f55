"""Networks that are small enough for a test, and their decomposed layers."""

import pytest
import torch
from small import fall
from torch import nn
from torchvision import models

from lowrank.formats import Layout
from lowrank.layers import Decomposed


def decomposed(module: nn.Module) -> dict[str, Decomposed]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, Decomposed)}


def decomposed_names(module: nn.Module) -> list[str]:
    return list(decomposed(module))


def small() -> nn.Sequential:
    """[B, 3, H, W] -> [B, 4]; layers 1 and 3 are one and the same."""
    shared = nn.Conv2d(16, 16, 3, padding=1)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)]
    return nn.Sequential(nn.Conv2d(3, 16, 3), shared, nn.ReLU(), shared, *head)


def mobilenet():
    """MobileNetV2, narrow."""
    return models.mobilenet_v2(num_classes=10, width_mult=0.25)


def resnet():
    """ResNet-18 with half of its blocks."""
    return models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)


def vit():
    """ViT-B/16, narrow and two of its twelve blocks deep."""
    net = models.VisionTransformer(64, 16, 2, 4, 128, 256, num_classes=10)
    nn.init.normal_(net.heads.head.weight, std=0.1)  # torchvision starts it at 0, where no gradient reaches the rest
    return net


IMAGE = (3, 64, 64)  # that these three take
networks = pytest.mark.parametrize("network", [resnet, mobilenet, vit])


def layouts(net: nn.Module) -> list[Layout]:
    return [layer.layout for layer in net.modules() if isinstance(layer, Decomposed)]


def uneven() -> nn.Sequential:
    """One layer of full rank, two that need little."""
    convolution = nn.Conv2d(64, 32, 3, padding=1)
    net = nn.Sequential(nn.Linear(48, 64), nn.Linear(64, 64), nn.Unflatten(1, (64, 1, 1)), convolution)
    for layer, share in ((net[1], 0.05), (net[3], 0.1)):
        layer.weight.data = fall(layer.weight.shape[0], layer.weight[0].numel(), share).reshape(layer.weight.shape)
    return net


class Language(nn.Module):
    """An embedding and a head of one weight, and two linear layers of another."""

    def __init__(self, head=True):
        super().__init__()
        self.embed, self.one, self.two = nn.Embedding(20, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 20, bias=False)
        self.two.weight = self.one.weight
        if head:
            self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.two(torch.relu(self.one(self.embed(tokens)))))


def several() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(16, 12), nn.Linear(12, 10))
