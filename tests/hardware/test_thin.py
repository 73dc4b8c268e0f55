"""Blocks that end in a thin product, in training on a CPU: as torch computes them, though nothing wide is stored."""

import copy

import pytest
import torch
import torch.nn.functional as F
from compilers import compiled
from test_fused import distance, images, norms

from lowrank import decompose
from lowrank.hardware.thin import ThinNormPoolReLU, compute_block_natively, is_thin
from lowrank.layers import separable
from lowrank.network import Block, compute_blocks_by, norm_pool_relu

ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 5e-3}


def blocks(decomp="bottleneck", outputs=64, rank_scale=0.1, pool=True, contraction="auto"):
    """Twice the same block, the first computed by the kernels; both in training."""
    torch.manual_seed(0)
    convolution = separable(16, outputs)
    form = {"decomp": decomp, "rank_scale": rank_scale, "contraction": contraction, "init": "random"}
    convolution.pointwise = decompose(convolution.pointwise, **form)
    other = Block(convolution, outputs, pool)
    own = copy.deepcopy(other)
    compute_blocks_by(own, compute_block_natively)
    return own, other


@compiled
@pytest.mark.parametrize(
    ("shape", "channels"), [((4, 3, 8, 8), 32), ((19, 5, 4, 12), 48), ((9, 16, 4, 4), 128), ((2, 2, 4, 4), 16)]
)
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("dtype", ROUNDING)
def test_output_gradients_and_running_statistics_are_torchs(dtype, pool, shape, channels):
    z, (norm, reference) = images(*shape, dtype=dtype), norms(channels)
    left, reference = torch.randn(channels, shape[1]), reference.double()
    own, other = (each.requires_grad_() for each in (z.clone(), z.double()))
    own_left, other_left = (each.requires_grad_() for each in (left.clone(), left.double()))
    output = ThinNormPoolReLU.apply(own, own_left, norm.weight, norm.bias, norm, pool)
    expected = norm_pool_relu(F.conv2d(other, other_left[:, :, None, None]), reference, pool)
    gradient = torch.randn(expected.shape).to(dtype)
    output.backward(gradient)
    expected.backward(gradient.double())
    assert output.dtype is dtype and output.shape == expected.shape
    assert distance(output, expected) < ROUNDING[dtype]
    assert distance(own.grad, other.grad) < ROUNDING[dtype]
    for name, value in reference.named_parameters():
        assert distance(norm.get_parameter(name).grad, value.grad) < 1e-4
    for name, value in reference.named_buffers():
        assert distance(norm.get_buffer(name), value) < 1e-5
    assert distance(own_left.grad, other_left.grad) < 1e-4


def learned(block, x, precision=torch.float32):
    """The output of a block and the gradients of all its parameters."""
    block.zero_grad()
    with torch.autocast("cpu", dtype=precision, enabled=precision is torch.bfloat16):
        output = block(x)
    (output.float() * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    return [output.float().detach(), *(parameter.grad.clone() for parameter in block.parameters())]


@compiled
@pytest.mark.parametrize("contraction", ["factors", "weight"])
@pytest.mark.parametrize("decomp", ["bottleneck", "tt", "cp"])
def test_a_block_learns_as_it_does_without(decomp, contraction):
    own, other = blocks(decomp, contraction=contraction)
    assert is_thin(own.convolution.pointwise)
    x = images(6, 16, 8, 8)
    exact = learned(other, x)
    for a, b in zip(learned(own, x), exact, strict=True):
        assert distance(a, b) < 1e-2  # another pixel of two that are nearly the same may be the largest
    found, usual = learned(own, x, torch.bfloat16), learned(other, x, torch.bfloat16)
    for a, b, wanted in zip(found, usual, exact, strict=True):
        assert distance(a, wanted) < 2 * distance(b, wanted) + 1e-2


@compiled
def test_the_number_of_threads_changes_no_bit():
    z, left, (norm, _) = images(20, 5, 8, 8), torch.randn(48, 5), norms(48)
    results, threads = [], torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        own, own_left = z.clone().requires_grad_(), left.clone().requires_grad_()
        output = ThinNormPoolReLU.apply(own, own_left, norm.weight, norm.bias, norm, True)
        output.square().sum().backward()
        results.append((output, own.grad, own_left.grad))
    torch.set_num_threads(threads)
    assert all(map(torch.equal, *results))


@compiled
@pytest.mark.parametrize("pool", [False, True])
def test_a_value_that_is_not_a_number_stays_seen(pool):
    block, _ = blocks(pool=pool)
    x = images(2, 16, 8, 8)
    x[0, 1, 2, 3] = torch.nan
    assert block(x).isnan().all()


@compiled
@pytest.mark.parametrize("wide", [{"outputs": 24}, {"rank_scale": 1.0}, {"decomp": "tucker", "rank_scale": 0.9}])
def test_what_is_not_thin_enough_is_computed_as_before(wide):
    own, other = blocks(**wide)
    assert not is_thin(own.convolution.pointwise)
    x = images(4, 16, 8, 8)
    torch.testing.assert_close(own(x), other(x), rtol=1e-4, atol=1e-4)


@compiled
def test_images_that_are_not_a_multiple_of_a_lane_are_computed_as_before():
    own, other = blocks()
    x = images(4, 16, 6, 6)
    torch.testing.assert_close(own(x), other(x), rtol=1e-4, atol=1e-4)


@compiled
def test_evaluation_makes_the_product():
    own, other = blocks()
    x = images(4, 16, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(own.eval()(x), other.eval()(x), rtol=1e-4, atol=1e-4)
