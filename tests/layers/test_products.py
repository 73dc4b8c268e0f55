"""Decomposed products with the last axis are those with the weight that their cores make, whichever way that lies."""

import pytest
import torch
import torch.nn.functional as F
from layers_at_random import contractions
from small import kinds
from torch import nn

from lowrank import decompose

pytestmark = pytest.mark.usefixtures("seeded")


class Conv1D(nn.Module):
    """The linear layer of transformers: its weight is [inputs, outputs]."""

    __module__, __qualname__ = "transformers.pytorch_utils", "Conv1D"

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, self.nx), self.weight).view(*x.shape[:-1], self.nf)


@kinds
@contractions
def test_the_linear_layer_of_transformers_is_known_by_its_name(decomp, contraction):
    plain, x = Conv1D(12, 10), torch.randn(2, 3, 10)
    layer = decompose(plain, decomp=decomp, dims=4, rank_scale=0.5, contraction=contraction)
    dense = layer.dense()
    assert type(dense) is Conv1D and dense.weight.shape == layer.weight.shape == (10, 12)
    assert (layer.nf, layer.nx) == (dense.nf, dense.nx) == (12, 10)
    torch.testing.assert_close(layer(x), dense(x), rtol=1e-4, atol=1e-5)
    distance = (layer.weight - plain.weight).norm() / plain.weight.norm()
    assert distance.item() == pytest.approx(layer.error, abs=1e-4)


@kinds
@contractions
@pytest.mark.parametrize("leading", [(), (3,), (2, 3, 4), (0,)])
def test_a_linear_layer_is_the_dense_one_with_its_weight(decomp, contraction, leading):
    layer = decompose(nn.Linear(10, 12), decomp=decomp, dims=4, rank_scale=0.4, init="random", contraction=contraction)
    x = torch.randn(*leading, 10)
    assert layer(x).shape == (*leading, 12)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), rtol=1e-4, atol=1e-4)
