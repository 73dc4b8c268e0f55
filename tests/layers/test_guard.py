"""The weight of a decomposed layer: whatever writes to it is told what to do, and to compute with it is as ever."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lowrank import InputError, decompose

pytestmark = pytest.mark.usefixtures("seeded")


def initialised(module: nn.Module) -> None:
    if hasattr(module, "weight"):
        nn.init.kaiming_normal_(module.weight)


def written(index: object, value: float):
    def write(layer):
        layer.weight[index] = value

    return write


def replaced(layer):
    layer.weight = nn.Parameter(torch.zeros(6, 8))


def added(layer):
    weight = layer.weight
    weight += 1


WRITES = {
    "copy_": lambda layer: layer.weight.copy_(torch.zeros(6, 8)),
    "data.copy_": lambda layer: layer.weight.data.copy_(torch.zeros(6, 8)),
    "detach().mul_": lambda layer: layer.weight.detach().mul_(2),
    "a view": lambda layer: layer.weight.T[2:].view(-1, 6).zero_(),
    "a chunk": lambda layer: layer.weight.chunk(2)[0].zero_(),
    "[0] = 1": written(0, 1.0),
    "[mask] = 1": written(torch.ones(6, 8, dtype=torch.bool), 1.0),
    "+=": added,
    "= parameter": replaced,
    "= tensor": lambda layer: setattr(layer, "weight", torch.zeros(6, 8)),
    "data =": lambda layer: setattr(layer.weight, "data", torch.zeros(6, 8)),
    "out=": lambda layer: torch.mul(layer.weight, 2, out=layer.weight),
    "_foreach_mul_": lambda layer: torch._foreach_mul_([layer.weight], 2),
    "init.normal_": lambda layer: nn.init.normal_(layer.weight),
    "init.orthogonal_": lambda layer: nn.init.orthogonal_(layer.weight),
    "init.trunc_normal_": lambda layer: nn.init.trunc_normal_(layer.weight),
    "apply(init)": lambda layer: nn.Sequential(layer).apply(initialised),
    "reset_parameters": lambda layer: layer.reset_parameters(),
    "requires_grad_": lambda layer: layer.weight.requires_grad_(False),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("grad", [True, False])
def test_writing_to_the_weight_says_what_to_do(write, grad):
    layer = decompose(nn.Linear(8, 6), rank_scale=0.5)
    before = layer.weight.clone()
    with pytest.raises(InputError, match=r"lowrank.assign\(layer, weight\)") as raised, torch.set_grad_enabled(grad):
        WRITES[write](layer)
    assert "\n" not in str(raised.value) and layer.weight.equal(before)


def test_fusing_with_a_batch_norm_says_what_to_do():
    layer, norm = decompose(nn.Conv2d(8, 6, 1), rank_scale=0.5).eval(), nn.BatchNorm2d(6).eval()
    with pytest.raises(InputError, match="lowrank.assign"):
        torch.nn.utils.fuse_conv_bn_eval(layer, norm)
    fused, x = torch.nn.utils.fuse_conv_bn_eval(layer.dense(), norm), torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(fused(x), norm(layer(x)), rtol=1e-4, atol=1e-4)


def test_computing_with_the_weight_is_as_with_any_tensor():
    layer = decompose(nn.Linear(8, 6), rank_scale=0.5)
    weight, x = layer.weight, torch.randn(3, 8)
    assert type(weight + 1) is type(F.linear(x, weight)) is type(weight.clone()) is torch.Tensor
    copied = weight.detach().clone().zero_()
    assert copied.sum() == 0 and weight.abs().sum() > 0 and x.copy_(weight[:3]).equal(weight[:3])
    gradients = torch.autograd.grad(weight.square().sum(), layer.cores)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
