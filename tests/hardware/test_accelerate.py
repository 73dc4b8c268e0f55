"""The door to the hardware: what it decides on this machine, and that a network computes the same behind it."""

import copy

import pytest
import torch
from compilers import compiled
from torch import nn

import lowrank
from lowrank.config import DECOMPS, Config
from lowrank.hardware import accelerate, native
from lowrank.hardware.graph import Recorded
from lowrank.hardware.thin import compute_block_natively
from lowrank.network import Block, compute_block

CPU = torch.device("cpu")


def network(**parameters):
    return lowrank.build(Config(dataset="digits", width=8, **parameters).fitted(1500), 10)


def computes(net):
    return {block.compute for block in net.modules() if isinstance(block, Block)}


@pytest.fixture
def no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", str(tmp_path / "missing"))
    native.library_or_reason.cache_clear()
    yield
    native.library_or_reason.cache_clear()


@compiled
def test_on_a_cpu_blocks_compute_with_the_kernels():
    net = network()
    assert computes(net) == {compute_block}
    accelerate(net, CPU)
    assert computes(net) == {compute_block_natively}


def test_without_a_compiler_torch_computes(no_compiler):
    net = network()
    accelerate(net, CPU)
    assert computes(net) == {compute_block}


@pytest.mark.parametrize("decomp", DECOMPS)
def test_a_network_computes_and_learns_the_same(decomp):
    plain = network(decomp=decomp)
    fast, images = copy.deepcopy(plain), torch.randn(16, 3, 32, 32)
    accelerate(fast, CPU)
    for _ in range(2):
        outputs = [net(images) for net in (fast, plain)]
        torch.testing.assert_close(*outputs, rtol=1e-3, atol=1e-4)
        for output in outputs:
            output.square().sum().backward()
    for one, other in zip(fast.parameters(), plain.parameters(), strict=True):
        assert (one.grad - other.grad).norm() < 1e-2 * other.grad.norm()
    torch.testing.assert_close(fast.eval()(images), plain.eval()(images), rtol=1e-3, atol=1e-4)


def test_plain_convolutions_lie_channels_last_and_cores_as_they_were():
    net = network(decomp="tt")
    accelerate(net, CPU)
    for layer in net.modules():
        for parameter in layer.parameters(recurse=False):
            plain = isinstance(layer, nn.Conv2d) and not hasattr(layer, "cores")
            assert parameter.is_contiguous(memory_format=torch.channels_last if plain else torch.contiguous_format)


def test_a_step_is_recorded_on_a_gpu_alone():
    def step(images, labels):
        return labels

    assert accelerate(nn.Sequential(), CPU)(step) is step
    assert isinstance(accelerate(nn.Sequential(), torch.device("cuda"))(step), Recorded)
