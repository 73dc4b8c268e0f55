"""Any network: its layers are decomposed under one budget, go on working, and become plain layers again."""

from contextlib import contextmanager

import pytest
import torch
from networks import IMAGE, decomposed, mobilenet, networks, resnet, small, vit
from small import kinds
from torch import nn
from torch.nn.utils import prune
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from lowrank import InputError, assign, decompose, densify, summary
from lowrank.layers import Decomposed, DecomposedConv2d, DecomposedLinear

pytestmark = pytest.mark.usefixtures("seeded")


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """To rounding, on the outputs' own scale: untrained networks may end in very small ones."""
    assert theirs.abs().max() > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())


@pytest.mark.filterwarnings("ignore:left as they are")
@pytest.mark.parametrize("network", [models.resnet18, models.mobilenet_v2, models.vit_b_16])
@kinds
def test_torchvisions_networks_go_through_under_one_budget(network, decomp):
    with torch.device("meta"):
        plain, images = network(), torch.empty(2, 3, 224, 224)
    net = decompose(plain, decomp=decomp, dims=3, budget=0.25)
    left = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    left = [layer for layer in left if not isinstance(layer, Decomposed)]
    assert all(layer.groups > 1 for layer in left)
    layouts = [layer.layout for layer in decomposed(net).values()]
    used, weights = (sum(getattr(layout, name) for layout in layouts) for name in ("parameters", "size"))
    assert 0.99 * 0.25 * weights < used <= 0.25 * weights
    assert net(images).shape == (2, 1000)


@pytest.mark.filterwarnings("ignore:left as they are")
@networks
@pytest.mark.parametrize("decomp", ["tt", "tucker"])
def test_one_step_of_an_optimizer_moves_every_layer(network, decomp):
    net = decompose(network(), decomp=decomp, dims=3, budget=0.25, init="random")
    optimizer, start = torch.optim.SGD(net.parameters(), 0.1), densify(net).state_dict()
    nn.functional.cross_entropy(net(torch.randn(2, *IMAGE)), torch.tensor([1, 2])).backward()
    optimizer.step()
    for name, value in densify(net).state_dict().items():
        if name.endswith("weight"):
            assert value.isfinite().all() and not torch.equal(value, start[name])


@pytest.mark.filterwarnings("ignore:left as they are")
@networks
@pytest.mark.parametrize("decomp", ["tt", "tucker"])
def test_densify_gives_back_the_network_it_was(network, decomp):
    plain, images = network().eval(), torch.randn(2, *IMAGE)
    net = decompose(plain, decomp=decomp, dims=4, budget=0.3, init="random")
    dense = densify(net)
    assert not decomposed(dense) and not any(layer.training for layer in [*net.modules(), *dense.modules()])
    assert_same(dense(images), net(images))
    with torch.no_grad():  # where attention takes another way
        assert_same(dense(images), net(images))
    plain.load_state_dict(dense.state_dict())
    assert_same(plain(images), dense(images))


@pytest.mark.filterwarnings("ignore:left as they are")
@pytest.mark.parametrize("network", [mobilenet, vit])
def test_a_network_at_full_ranks_is_the_network_it_was(network):
    plain, images = network().eval(), torch.randn(2, *IMAGE)
    net = decompose(plain, decomp="tt", dims=2, rank_scale=1)
    assert all(0 < layer.error < 1e-4 for layer in decomposed(net).values())
    assert_same(net(images), plain(images))


@networks
@pytest.mark.filterwarnings("ignore:left as they are")
def test_half_precision_goes_through(network):
    net = decompose(network().bfloat16().eval(), decomp="tt", budget=0.3, init="random")
    images = torch.randn(2, *IMAGE).bfloat16()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert net(images).dtype == torch.bfloat16


@kinds
def test_the_budget_is_the_models_share_and_biases_stay(decomp):
    plain = small()
    net = decompose(plain, decomp=decomp, budget=0.5)
    table = summary(net)
    assert table.parameters.sum() <= 0.5 * table.weights.sum()
    assert net[0].bias.equal(plain[0].bias) and net[6].bias.equal(plain[6].bias)
    assert not decomposed(plain), "the module that is given stays as it is"


@kinds
def test_every_layer_keeps_its_interface(decomp):
    plain = small()
    net = decompose(plain, decomp=decomp, rank_scale=0.5)
    x = torch.randn(2, 3, 12, 12)
    assert net(x).shape == plain(x).shape
    assert isinstance(net[0], DecomposedConv2d) and isinstance(net[6], DecomposedLinear)
    for index in (0, 1, 6):
        ours, theirs = net[index], plain[index]
        assert ours.weight.shape == theirs.weight.shape
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
        names = names if index < 6 else ("in_features", "out_features")
        assert all(getattr(ours, name) == getattr(theirs, name) for name in names)


def test_a_layer_that_is_used_twice_stays_one():
    net = decompose(small(), decomp="tt", rank_scale=0.5)
    dense = densify(net)
    assert net[1] is net[3] and dense[1] is dense[3] and dense[3].weight.shape == (16, 16, 3, 3)


def test_a_single_layer_is_a_network_too():
    layer = decompose(nn.Linear(8, 6), decomp="cp", rank_scale=0.5)
    assert isinstance(layer, DecomposedLinear) and type(densify(layer)) is nn.Linear


def test_frozen_layers_stay_frozen():
    plain = small().requires_grad_(False)
    net = decompose(plain, decomp="tt", rank_scale=0.5)
    assert not any(parameter.requires_grad for parameter in [*net.parameters(), *densify(net).parameters()])


@kinds
@pytest.mark.parametrize("init", ["weights", "random", "decompose", "decompose_rescaled"])
def test_precision_and_place_stay(decomp, init):
    net = decompose(small().bfloat16(), decomp=decomp, rank_scale=0.5, init=init)
    assert all(parameter.dtype == torch.bfloat16 for parameter in [*net.parameters(), *densify(net).parameters()])
    with torch.device("meta"):
        ghost = small()
    ghost = decompose(ghost, decomp=decomp, rank_scale=0.5, init=init)
    assert ghost(torch.empty(2, 3, 12, 12, device="meta")).shape == (2, 4)
    ghost.load_state_dict(net.state_dict(), assign=True)
    x = torch.randn(2, 3, 12, 12).bfloat16()
    torch.testing.assert_close(ghost(x), net(x))


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SURROUNDINGS = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "default float64": lambda: default_dtype(torch.float64),
    "default bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device": lambda: torch.device("meta"),
}


@kinds
@pytest.mark.parametrize("init", ["weights", "random", "decompose"])
def test_the_result_is_the_same_whatever_surrounds_it(decomp, init):
    plain, x = nn.Sequential(nn.Conv1d(6, 8, 1), nn.Flatten(), nn.Linear(8, 6)), torch.randn(2, 6, 1)
    torch.manual_seed(1)
    expected = decompose(plain, decomp=decomp, rank_scale=0.3, init=init)
    for name, surrounding in SURROUNDINGS.items():
        torch.manual_seed(1)
        with surrounding():
            net = decompose(plain, decomp=decomp, rank_scale=0.3, init=init)
            dense = densify(net)
        for key, value in expected.state_dict().items():
            torch.testing.assert_close(net.state_dict()[key], value, rtol=0, atol=0, msg=f"{name}: {key}")
        for each in (net, dense):
            each(x).square().sum().backward()
            assert all(parameter.grad is not None for parameter in each.parameters()), name


def test_a_network_made_in_inference_mode_is_trained_after():
    with torch.inference_mode():
        plain = small()
    net = decompose(plain, rank_scale=0.5)
    net(torch.randn(2, 3, 12, 12)).sum().backward()
    assert all(core.grad is not None for layer in decomposed(net).values() for core in layer.cores)


@kinds
def test_weights_of_float64_are_fitted_in_float64(decomp):
    """A weight that the format can hold: the error of a fit in float32 would be 1e-7."""
    exact = decompose(nn.Linear(12, 10).double(), decomp=decomp, dims=2, rank_scale=0.4, init="random")
    net = decompose(densify(exact), decomp=decomp, dims=2, rank_scale=1)
    assert net.core_0.dtype == torch.float64
    distance = (net.weight - exact.weight).norm() / exact.weight.norm()
    assert distance < (1e-12 if decomp in ("bottleneck", "tt", "tucker", "tucker_tt") else 0.01)


def test_a_layer_whose_cores_are_parametrized_becomes_plain():
    net, x = decompose(nn.Sequential(nn.Linear(8, 6)), rank_scale=0.5), torch.randn(3, 8)
    nn.utils.parametrizations.orthogonal(net[0], "core_0")
    dense = densify(net)
    assert list(dense.state_dict()) == ["0.weight", "0.bias"]
    torch.testing.assert_close(dense(x), net(x), rtol=1e-4, atol=1e-5)


class Holders(nn.Module):
    """Layers that forward reaches by a list, by a dict, by a bound method and by a wrapper of torch.compile."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(8, 8) for _ in range(4))
        self.steps, self.named = [self.a], {"b": self.b}
        self.bound = self.c.__call__
        self.wrapped = torch.compile(self.d, backend="eager")

    def forward(self, x):
        return self.wrapped(self.bound(self.named["b"](self.steps[0](x))))


def test_whatever_holds_a_layer_holds_the_decomposed_one():
    torch.compiler.reset()
    plain, x = Holders(), torch.randn(3, 8)
    net = decompose(plain, rank_scale=0.5, example=x)
    layers = decomposed(net)
    assert set(layers) == {"a", "b", "c", "d"}
    for twin in (net, densify(net)):
        before = twin(x)
        twin(x).sum().backward()
        assert all(parameter.grad is not None for parameter in twin.parameters())
        torch.testing.assert_close(before, twin.d(twin.c(twin.b(twin.a(x)))))
    assert (net(x) - plain(x)).abs().max() > 1e-3


@pytest.mark.filterwarnings("ignore:left as they are")
@pytest.mark.parametrize("network, node", [(resnet, "layer3.0.relu_1"), (mobilenet, "features.9"), (vit, "encoder.ln")])
def test_features_can_be_extracted(network, node):
    net, images = decompose(network().eval(), rank_scale=0.2, init="random"), torch.randn(2, *IMAGE)
    extractor = create_feature_extractor(net, [node])
    theirs = create_feature_extractor(densify(net), [node])
    assert_same(extractor(images)[node], theirs(images)[node])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"decomp": "svd"}, "decomp='svd'; allowed: .*tt"),
        ({"decomp": ["tt"]}, r"decomp=\['tt'\]; allowed: .*tt"),
        ({"dims": 1}, "dims=1; allowed: an int, 2 to 32"),
        ({"dims": 2.5}, "dims=2.5; allowed: an int, 2 to 32"),
        ({"rank_scale": 0}, "budget=0.0, rank_scale=0, error=0.0; allowed: one of budget, rank_scale and error"),
        ({"budget": 0.5}, "budget=0.5, rank_scale=0.5; allowed: one of budget"),
        ({"error": 0.5}, "rank_scale=0.5, error=0.5; allowed: one of budget"),
        ({"rank_scale": 0, "ranks": (2, 3, 4)}, r"ranks=\(2, 3, 4\); tt takes 1 to"),
        ({"rank_scale": 0, "ranks": 0}, "ranks=0; tt takes 1 to"),
        ({"rank_scale": 0, "ranks": 2.5}, "ranks=2.5; tt takes 1 to"),
        ({"allocation": "error"}, "allocation='error', rank_scale=0.5; allowed: allocation='even'"),
        ({"allocation": "greedy"}, "allocation='greedy'; allowed: error, even"),
        ({"rank_scale": 1.5}, "rank_scale=1.5; allowed: .* up to 1"),
        ({"rank_scale": 0, "budget": 1e-4}, r"budget=0.0001: the smallest tt .* allowed is 0\.\d+ or more"),
        ({"rank_rule": "2019"}, "rank_rule='2019'; allowed: auto, useful, root, uniform, original"),
        ({"init": "zeros"}, "init='zeros'; allowed: weights, random, decompose, decompose_rescaled"),
        ({"contraction": "fast"}, "contraction='fast'; allowed: auto, factors, weight"),
        ({"contraction": "factors", "rank_rule": "original"}, "contraction='factors': .* no cut"),
        ({"skip": ["layer9"]}, "skip='layer9' names no layer; there are 0, 1, 3, 6"),
        ({"skip": "*"}, r"there is nothing to decompose with .*skip='\*'"),
    ],
)
def test_bad_input_gets_one_line_that_names_it(options, message):
    with pytest.raises(InputError, match=message) as raised:
        decompose(small(), **{"rank_scale": 0.5, **options})
    assert "\n" not in str(raised.value)


@kinds
def test_assign_fits_the_cores_in_place(decomp):
    layer = decompose(nn.Conv2d(6, 8, 3), decomp=decomp, rank_scale=0.6, init="random")
    cores, target = list(layer.cores), decompose(nn.Conv2d(6, 8, 3), decomp=decomp, rank_scale=0.3).weight.detach()
    assign(layer, target)
    distance = (layer.weight - target).norm() / target.norm()
    assert layer.error == pytest.approx(distance.item(), abs=1e-4) and layer.error < 0.2
    assert all(a is b and a.requires_grad for a, b in zip(layer.cores, cores, strict=True))
    for wrong in (target[0], torch.full_like(target, float("nan")), [1, 2]):
        with pytest.raises(InputError, match=r"allowed: a tensor of \(8, 6, 3, 3\) without NaN"):
            assign(layer, wrong)
    with pytest.raises(InputError, match="layer=Linear; allowed: a layer that lowrank.decompose made"):
        assign(nn.Linear(2, 2), torch.zeros(2, 2))


def test_cores_that_pruning_makes_anew_are_named():
    net = decompose(nn.Sequential(nn.Linear(8, 8)), budget=0.9)
    prune.l1_unstructured(net[0], "core_0", 0.5)
    for name, use in (("0", lambda: densify(net)), ("layer", lambda: assign(net[0], torch.ones(8, 8)))):
        with pytest.raises(InputError, match=f"^{name}: core_0 is made anew at each call"):
            use()
    prune.remove(net[0], "core_0")
    torch.testing.assert_close(densify(net)[0].weight, torch.Tensor(net[0].weight))
