"""Formats of one's own, as users write them."""

from math import prod

import torch
from torch import nn

from lowrank import Format
from lowrank.layers import Decomposed

SMALL = {"dataset": "digits", "width": 8, "epochs": 2, "batch_size": 128, "precision": "float32"}


class Monarch(Format):
    """Two block-diagonal matrices with a permutation between (Dao et al. 2022): b x b blocks of rank r each."""

    uses_dims = False

    def __init__(self, blocks):
        self.blocks = blocks

    def refusal(self, folding):
        odd = [size for size in (folding.outputs, folding.inputs) if size % self.blocks]
        return f"blocks={self.blocks} does not divide {odd[0]}" if odd else ""

    def largest(self, folding):
        return (max(1, folding.outputs * folding.inputs // (self.blocks * (folding.outputs + folding.inputs))),)

    def shapes(self, folding, ranks):
        b = self.blocks
        return [(b, folding.outputs // b, b * ranks[0]), (b, b * ranks[0], folding.inputs // b)]

    def weight_work(self, folding, ranks):
        return ranks[0] * folding.outputs * folding.inputs

    def multiply_work(self, folding, ranks):
        return sum(map(prod, self.shapes(folding, ranks)))

    def multiply(self, x, cores, folding):
        left, right = cores  # [b, O / b, b r], [b, b r, I / b]
        z = torch.einsum("...bi, bri -> ...br", x.unflatten(-1, (self.blocks, -1)), right)  # [..., b, b r]
        z = z.unflatten(-1, (self.blocks, -1)).transpose(-3, -2).flatten(-2)  # [..., b, b r]
        return torch.einsum("...br, bor -> ...bo", z, left).flatten(-2)  # [..., O]

    def weight(self, cores, folding):
        return self.multiply(cores[0].new_zeros(folding.inputs, folding.inputs).fill_diagonal_(1), cores, folding).T

    def fit(self, weight, folding, ranks):
        """The best of rank r in each block."""
        blocks = weight.unflatten(0, (self.blocks, -1)).unflatten(-1, (self.blocks, -1)).transpose(1, 2)
        left, values, right = torch.linalg.svd(blocks, full_matrices=False)  # of [b, b, O / b, I / b]
        left, right = (left * values[..., None, :])[..., : ranks[0]], right[..., : ranks[0], :]
        return [left.transpose(1, 2).flatten(-2), right.transpose(0, 1).flatten(1, 2)]


def held(net: nn.Module) -> list[Decomposed]:
    return [module for module in net.modules() if isinstance(module, Decomposed)]


class Started(Format):
    """A bottleneck that starts at ones."""

    def largest(self, folding):
        return (min(folding.outputs, folding.inputs),)

    def shapes(self, folding, ranks):
        return [(folding.outputs, ranks[0]), (ranks[0], folding.inputs)]

    def inner(self, folding, ranks):
        return ranks[0]

    def factors(self, cores, folding):
        return cores[0], cores[1]

    def start(self, folding, ranks):
        return [torch.ones(shape) for shape in self.shapes(folding, ranks)]


def spoiled(**methods):
    """One that starts at ones, with some methods wrong."""
    return type("Spoiled", (Started,), methods)()


def made_whole(weight):
    """One that makes W alone, and wrong."""
    return spoiled(inner=lambda self, f, r: None, weight_work=lambda self, f, r: 1, weight=weight)
