"""Decomposed convolutions of every geometry and dimension are the dense ones with the weight that their cores make."""

import pytest
import torch
from layers_at_random import contractions, convolution, trained_step
from small import kinds
from torch import nn

from lowrank import decompose

pytestmark = pytest.mark.usefixtures("seeded")

GEOMETRIES = [
    {"kernel": 1},
    {"kernel": 1, "stride": 2, "bias": False},
    {"kernel": 3, "padding": 1},
    {"kernel": 3, "padding": "same", "dilation": 2},
    {"kernel": 3, "padding": (2, 1), "stride": (1, 2), "padding_mode": "reflect"},
    {"kernel": 2, "padding": "same", "padding_mode": "circular", "bias": False},
    {"kernel": 7, "padding": "valid", "stride": 3},
]


@kinds
@contractions
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_a_convolution_is_the_dense_one_with_its_weight(decomp, contraction, geometry):
    layer = convolution(decomp, contraction=contraction, **geometry)
    plain = nn.Conv2d(10, 12, geometry["kernel"], **{k: v for k, v in geometry.items() if k != "kernel"})
    with torch.no_grad():
        plain.weight.copy_(layer.weight)
        if layer.bias is not None:
            plain.bias.copy_(layer.bias)
    x = torch.randn(2, 10, 9, 11)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.dense()(x), plain(x), rtol=1e-4, atol=1e-4)


@contractions
@pytest.mark.parametrize("leading", [(3,), ()], ids=["batch", "one image"])
def test_a_pointwise_convolution_of_many_weights_is_the_dense_one(contraction, leading):
    """On a CPU it is another product, in channels_last: the values, the memory format and vmap see no difference."""
    layer = convolution("bottleneck", 288, 288, scale=1.0, contraction=contraction)
    plain = layer.dense()
    x = torch.randn(*leading, 5, 4, 288).movedim(-1, -3)  # channels_last
    assert layer(x).stride() == x.stride()
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer(x.contiguous()), plain(x), rtol=1e-4, atol=1e-4)
    several = torch.stack([x, x + 1])
    torch.testing.assert_close(torch.func.vmap(layer)(several)[1], plain(x + 1), rtol=1e-4, atol=1e-4)


def shape(axes: int, *sides: int) -> tuple[int, ...]:
    """As many sides as there are axes."""
    return sides[:axes]


KINDS = {
    "Conv1d": (lambda **options: nn.Conv1d(10, 12, **options), 1),
    "Conv2d": (lambda **options: nn.Conv2d(10, 12, **options), 2),
    "Conv3d": (lambda **options: nn.Conv3d(10, 12, **options), 3),
    "ConvTranspose1d": (lambda **options: nn.ConvTranspose1d(10, 12, **options), 1),
    "ConvTranspose2d": (lambda **options: nn.ConvTranspose2d(10, 12, **options), 2),
    "ConvTranspose3d": (lambda **options: nn.ConvTranspose3d(10, 12, **options), 3),
}


@pytest.mark.parametrize("name", KINDS)
@kinds
@contractions
def test_convolutions_of_any_dimension_are_the_dense_ones(name, decomp, contraction):
    make, axes = KINDS[name]
    x = torch.randn(2, 10, *shape(axes, 5, 6, 4))
    for options in (
        {"kernel_size": 1},
        {"kernel_size": shape(axes, 3, 2, 2), "stride": shape(axes, 2, 1, 2), "padding": 1, "bias": False},
        {"kernel_size": 2, "dilation": 2, "padding": shape(axes, 1, 0, 1)},
    ):
        plain = make(**options)
        layer = decompose(plain, decomp=decomp, dims=4, rank_scale=0.5, init="random", contraction=contraction)
        dense = layer.dense()
        assert type(layer) is not type(plain) is type(dense) and isinstance(layer, type(plain))
        assert layer.weight.shape == plain.weight.shape == dense.weight.shape and dense.weight.is_contiguous()
        for each in (x, x[0]):
            assert layer(each).shape == plain(each).shape
            torch.testing.assert_close(layer(each), dense(each), rtol=1e-4, atol=1e-4)
        assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in trained_step(layer, x))
        exact = decompose(plain, decomp="tt", dims=2, rank_scale=1)
        torch.testing.assert_close(exact(x), plain(x), rtol=1e-3, atol=1e-4)


@contractions
def test_a_transposed_convolution_gives_the_size_that_it_is_asked_for(contraction):
    plain = nn.ConvTranspose2d(10, 12, 3, stride=2, padding=1)
    layer = decompose(plain, rank_scale=0.5, contraction=contraction)
    for size in ([9, 11], [10, 12]):
        assert layer(torch.randn(2, 10, 5, 6), output_size=size).shape == (2, 12, *size)
        assert layer(torch.randn(2, 10, 5, 6), size).shape == (2, 12, *size)
