"""The CIFAR network: as large as the one it is named after, and it computes what that one does."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import lowrank
from lowrank.config import Config
from lowrank.network import norm_pool_relu, pointwise_shapes, select_decomposable

pytestmark = pytest.mark.usefixtures("seeded")


def test_the_dense_network_is_as_large_as_the_one_of_cifar10_fast():
    with torch.device("meta"):
        net = lowrank.build(Config(decomp="dense", width=64), classes=10)
    assert sum(parameter.numel() for parameter in net.parameters()) == 6_573_120


def compute_by_hand(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The network of cifar10-fast in evaluation, step by step: [B, 3, 32, 32] -> [B, classes]."""

    def block(name, x):
        names = ("running_mean", "running_var", "weight", "bias")
        x = F.conv2d(x, state[f"{name}.convolution.weight"], padding=1)
        return F.batch_norm(x, *(state[f"{name}.norm.{each}"] for each in names)).relu()

    x = block("first", x)
    x = F.max_pool2d(block("layer1", x), 2)
    x = x + block("residual1.1", block("residual1.0", x))
    x = F.max_pool2d(block("layer2", x), 2)
    x = F.max_pool2d(block("layer3", x), 2)
    x = x + block("residual3.1", block("residual3.0", x))
    return 0.125 * F.max_pool2d(x, 4).flatten(1) @ state["head.linear.weight"].T


def test_it_computes_what_the_one_of_cifar10_fast_does():
    net = lowrank.build(Config(decomp="dense", width=4), classes=10).eval()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    for name, value in state.items():
        if "norm" in name and value.is_floating_point():
            value.normal_(1, 0.5).abs_() if "var" in name else value.normal_()
    net.load_state_dict(state)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(net(x), compute_by_hand(state, x), rtol=1e-4, atol=1e-4)


@given(width=st.integers(1, 64))
@settings(deadline=None, max_examples=20)
def test_the_seven_convolutions_double_their_channels_behind_every_pool(width):
    w = width
    shapes = [
        (2 * w, w),
        (2 * w, 2 * w),
        (2 * w, 2 * w),
        (4 * w, 2 * w),
        (8 * w, 4 * w),
        (8 * w, 8 * w),
        (8 * w, 8 * w),
    ]
    assert pointwise_shapes(width) == shapes


@pytest.mark.parametrize(("form", "kernel"), [("dense", " x 3x3"), ("separable", "")])
def test_these_seven_are_what_may_be_decomposed(form, kernel):
    with torch.device("meta"):
        table = lowrank.summary(lowrank.build(Config(decomp=form, width=8), classes=10))
    found = select_decomposable(table)["shape"].tolist()
    assert found == [f"{outputs} x {inputs}{kernel}" for outputs, inputs in pointwise_shapes(8)] and len(table) > 7


def test_the_seed_decides_the_weights_and_nothing_before_it():
    nets = [lowrank.build(Config(decomp="tt", budget=0.5, width=4, seed=seed), classes=10) for seed in (1, 1, 2)]
    first, second, third = (torch.cat([each.flatten() for each in net.parameters()]) for net in nets)
    assert torch.equal(first, second) and not torch.allclose(first, third)


@pytest.mark.parametrize("pool", [False, True])
def test_a_block_pools_before_the_relu_to_the_same_end(pool):
    x, norm = torch.randn(4, 6, 8, 8), torch.nn.BatchNorm2d(6)
    usual = norm(x).relu()
    assert torch.equal(norm_pool_relu(x, norm, pool), F.max_pool2d(usual, 2) if pool else usual)
