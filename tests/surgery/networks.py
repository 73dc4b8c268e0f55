"""Networks that are small enough for a test, and their decomposed layers."""

from torch import nn
from torchvision import models

from lowrank.layers import Decomposed


def decomposed(module: nn.Module) -> dict[str, Decomposed]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, Decomposed)}


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
