"""The fused batch norm, pool and ReLU against torch's own, where this machine has a C++ compiler."""

import pytest
import torch
from compilers import compiled
from torch import nn

from lowrank.hardware.fused import fused_norm_pool_relu
from lowrank.network import norm_pool_relu

ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 5e-3}


def images(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(shape).mul(3).add(5).to(dtype).to(memory_format=torch.channels_last)


def norms(channels: int) -> list[nn.BatchNorm2d]:
    """Twice the same, with scales of both signs."""
    pair = [nn.BatchNorm2d(channels) for _ in range(2)]
    nn.init.normal_(pair[0].weight)
    nn.init.normal_(pair[0].bias)
    pair[1].load_state_dict(pair[0].state_dict())
    return pair


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one.double() - other.double()).norm() / other.double().norm()).item()


@compiled
@pytest.mark.parametrize("shape", [(4, 16, 8, 8), (3, 12, 6, 10), (2, 5, 4, 4), (8, 300, 2, 2)])
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("dtype", ROUNDING)
def test_output_gradients_and_running_statistics_are_torchs(dtype, pool, shape):
    x, (norm, reference) = images(*shape, dtype=dtype), norms(shape[1])
    own, other = x.clone().requires_grad_(), x.float().requires_grad_()
    output, expected = fused_norm_pool_relu(own, norm, pool), norm_pool_relu(other, reference, pool)
    gradient = torch.randn(expected.shape).to(dtype)
    output.backward(gradient)
    expected.backward(gradient.float())
    assert output.dtype is dtype and output.shape == expected.shape
    assert distance(output, expected) < ROUNDING[dtype]
    assert distance(own.grad, other.grad) < ROUNDING[dtype]
    for name, value in reference.named_parameters():
        assert distance(norm.get_parameter(name).grad, value.grad) < 1e-5
    for name, value in reference.named_buffers():
        assert distance(norm.get_buffer(name), value) < 1e-5
    with torch.no_grad():
        output, expected = (f(x, norm.eval(), pool) for f in (fused_norm_pool_relu, norm_pool_relu))
    assert distance(output, expected) < ROUNDING[dtype]


@compiled
def test_the_number_of_threads_changes_no_bit():
    x, (norm, _) = images(6, 16, 8, 8), norms(16)
    results, threads = [], torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        own = x.clone().requires_grad_()
        fused_norm_pool_relu(own, norm, pool=True).square().sum().backward()
        results.append(own.grad)
    torch.set_num_threads(threads)
    assert torch.equal(*results)


@compiled
@pytest.mark.parametrize("pool", [False, True])
def test_a_value_that_is_not_a_number_stays_seen(pool):
    x, (norm, _) = images(2, 4, 4, 4), norms(4)
    x[0, 1, 2, 3] = torch.nan
    assert fused_norm_pool_relu(x, norm, pool)[:, 1].isnan().all()


@compiled
@pytest.mark.parametrize("x", [images(2, 4, 5, 5), images(2, 4, 6, 6).contiguous(), images(2, 4, 6, 6).double()])
def test_what_the_library_cannot_do_is_done_by_torch(x):
    norm, reference = norms(4)
    if x.dtype is torch.float64:
        norm, reference = norm.double(), reference.double()
    assert torch.equal(fused_norm_pool_relu(x, norm, pool=True), norm_pool_relu(x, reference, pool=True))
