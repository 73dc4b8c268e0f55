"""A layer is replaced if its forward is known: by its exact type, by its base's, or by what support is told."""

import doctest

import pytest
import torch
from torch import nn

import lowrank
from lowrank import InputError, decompose, densify
from lowrank.layers import SUPPORTED, Decomposed, DecomposedLinear, support

pytestmark = pytest.mark.usefixtures("seeded")


def test_a_type_whose_forward_is_known_can_be_registered():
    class Mine(nn.Linear):
        def forward(self, x):
            return super().forward(x)

    plain = nn.Sequential(Mine(12, 8))
    with pytest.raises(InputError, match="Mine, which has methods of its own"):
        decompose(plain, rank_scale=0.5)
    support(Mine, DecomposedLinear)
    try:
        net = decompose(plain, rank_scale=1, dims=2)
        assert isinstance(net[0], Decomposed) and type(densify(net)[0]) is Mine
        x = torch.randn(3, 12)
        torch.testing.assert_close(net(x), plain(x), rtol=1e-4, atol=1e-4)
    finally:
        del SUPPORTED[Mine]
    with pytest.raises(InputError, match="decomposed=<class .*Linear'>; allowed: a subclass of Decomposed"):
        support(Mine, nn.Linear)


def test_a_subclass_that_computes_as_its_base_does_is_known():
    class Named(nn.Conv3d):
        """As torchvision's Conv3DSimple."""

        def __init__(self, planes):
            super().__init__(3, planes, 1)

        @staticmethod
        def stride_of(stride):
            return stride

    plain, x = Named(8), torch.randn(2, 3, 4, 4, 4)
    net = decompose(plain, dims=2, rank_scale=1)
    assert type(densify(net)) is Named and isinstance(net, Decomposed)
    torch.testing.assert_close(net(x), plain(x), rtol=1e-4, atol=1e-4)


def test_the_example_of_support_runs(monkeypatch):
    monkeypatch.setattr("lowrank.layers.supported.SUPPORTED", dict(SUPPORTED))
    [example] = doctest.DocTestFinder(recurse=False).find(
        lowrank.layers.support, globs={"lowrank": lowrank}, module=False
    )
    assert doctest.DocTestRunner().run(example).failed == 0
