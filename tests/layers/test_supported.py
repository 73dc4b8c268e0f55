"""A layer is replaced if its forward is known: by its type, by its base's, or by what support is told."""

import abc
import doctest
from typing import Generic, TypeVar

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
    with pytest.raises(InputError, match="Mine, which has methods or attributes of its own"):
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


class Abstract(nn.Linear, abc.ABC):
    pass


class Typed(nn.Linear, Generic[TypeVar("T")]):
    pass


@pytest.mark.parametrize("kind", [Abstract, Typed, Typed[int], type("Bare", (nn.Linear,), {"__slots__": ()})])
def test_a_subclass_that_brings_nothing_is_taken(kind):
    net = decompose(nn.Sequential(kind(8, 8)), budget=0.9)
    assert isinstance(net[0], Decomposed) and isinstance(densify(net)[0], getattr(kind, "__origin__", kind))


class Scaled:
    def scaled(self, x):
        return 2 * self(x)


class Method(nn.Linear):
    scaled = Scaled.scaled


class Mixed(nn.Linear, Scaled):
    pass


class Property(nn.Linear):
    half = property(lambda self: self.weight / 2)


class Attribute(nn.Linear):
    gain = 3.0


class ClassMethod(nn.Linear):
    square = classmethod(lambda cls, size: cls(size, size))


class Slot(nn.Linear):
    __slots__ = ("gain",)


class Call(nn.Linear):
    __call__ = nn.Linear.forward


class Static(nn.Linear):
    forward = staticmethod(torch.relu)


class Heir(Attribute):
    pass


@pytest.mark.parametrize("kind", [Method, Mixed, Property, Attribute, ClassMethod, Slot, Call, Static, Heir])
def test_a_subclass_that_brings_anything_is_left_and_named(kind):
    with pytest.warns(UserWarning, match=f"left as they are: 0 .*{kind.__name__}, which has methods or attributes"):
        net = decompose(nn.Sequential(kind(8, 8), nn.Linear(8, 8)), budget=0.9)
    assert type(net[0]) is kind and isinstance(net[1], Decomposed)


def test_the_example_of_support_runs(monkeypatch):
    monkeypatch.setattr("lowrank.layers.supported.SUPPORTED", dict(SUPPORTED))
    [example] = doctest.DocTestFinder(recurse=False).find(
        lowrank.layers.support, globs={"lowrank": lowrank}, module=False
    )
    assert doctest.DocTestRunner().run(example).failed == 0
