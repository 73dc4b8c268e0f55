"""Matrix products with the last axis whose weight is held as a tensor decomposition.

Shapes below: I inputs, O outputs, m the inner width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .decomposed import Decomposed


class DecomposedProduct(Decomposed):
    """A decomposed matrix product with the last axis: [..., I] -> [..., O]."""

    def applied(self, x: Tensor) -> Tensor:
        if self.contraction == "weight":
            return F.linear(x, self.matrix().to(self.core_0.dtype).to(x.dtype), self.bias)  # [..., O]
        if self.contraction == "cores":
            return self.multiply(x)  # [..., O]
        left, right = (factor.to(x.dtype) for factor in self.factors())  # [O, m], [m, I]
        return F.linear(F.linear(x, right), left, self.bias)  # [..., O]


class DecomposedLinear(DecomposedProduct, nn.Linear):
    """[..., I] -> [..., O], weight [O, I]."""


class DecomposedConv1D(DecomposedProduct):
    """The linear layer that transformers calls Conv1D: [..., I] -> [..., O], weight [I, O]."""

    @staticmethod
    def to_matrix(layer, weight):
        return weight.T  # [O, I]

    def to_weight(self, matrix):
        return matrix.T  # [I, O]
