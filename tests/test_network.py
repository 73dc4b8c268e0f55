"""Any network: its layers are decomposed under one budget, go on working, and become plain layers again."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from lowrank import InputError, decompose, densify, summary
from lowrank.formats import FORMATS
from lowrank.layers import Decomposed, DecomposedConv2d, DecomposedLinear, separable
from lowrank.network import cifar_network

kinds = pytest.mark.parametrize("decomp", FORMATS)
IMAGE = (3, 64, 64)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """To rounding, on the outputs' own scale: untrained networks may end in very small ones."""
    assert theirs.abs().max() > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())


def decomposed(module: nn.Module) -> dict[str, Decomposed]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, Decomposed)}


def small() -> nn.Sequential:
    """[B, 3, H, W] -> [B, 4]; layers 1 and 3 are one and the same."""
    shared = nn.Conv2d(16, 16, 3, padding=1)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)]
    return nn.Sequential(nn.Conv2d(3, 16, 3), shared, nn.ReLU(), shared, *head)


# --- the networks of torchvision


def mobilenet():
    """MobileNetV2, narrow."""
    return models.mobilenet_v2(num_classes=10, width_mult=0.25)


def resnet():
    """ResNet-18 with half of its blocks."""
    return models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)


def vit():
    """ViT-B/16, narrow and two of its twelve blocks deep."""
    net = models.VisionTransformer(64, 16, 2, 4, 128, 256, num_classes=10)
    nn.init.normal_(net.heads.head.weight, std=0.1)  # torchvision starts it at 0, where no gradient reaches the rest
    return net


networks = pytest.mark.parametrize("network", [resnet, mobilenet, vit])


@pytest.mark.filterwarnings("ignore:grouped convolutions")
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


@pytest.mark.filterwarnings("ignore:grouped convolutions")
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


@pytest.mark.filterwarnings("ignore:grouped convolutions")
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


@pytest.mark.filterwarnings("ignore:grouped convolutions")
@pytest.mark.parametrize("network", [mobilenet, vit])
def test_a_network_at_full_ranks_is_the_network_it_was(network):
    plain, images = network().eval(), torch.randn(2, *IMAGE)
    net = decompose(plain, decomp="tt", dims=2, rank_scale=1)
    assert all(0 < layer.error < 1e-4 for layer in decomposed(net).values())
    assert_same(net(images), plain(images))


@networks
@pytest.mark.filterwarnings("ignore:grouped convolutions")
def test_half_precision_goes_through(network):
    net = decompose(network().bfloat16().eval(), decomp="tt", budget=0.3, init="random")
    images = torch.randn(2, *IMAGE).bfloat16()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert net(images).dtype == torch.bfloat16


# --- what is decomposed


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


def test_grouped_convolutions_are_left_and_said_so():
    net = nn.Sequential(separable(8, 16), nn.Conv2d(16, 16, 1, groups=2))
    with pytest.warns(UserWarning, match="grouped convolutions are left as they are: 0.depthwise, 1"):
        net = decompose(net, decomp="tt", rank_scale=0.5)
    assert list(decomposed(net)) == ["0.pointwise"]
    assert list(summary(net).decomp) == ["grouped", "tt", "grouped"]


def test_skip_leaves_layers_by_pattern_and_counts_no_budget_for_them():
    plain = cifar_network(8, 10, separable)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # grouped ones that are skipped need no warning
        net = decompose(plain, decomp="tt", budget=0.3, skip=["first", "*depthwise", "head"])
    assert set(decomposed(net)) == {name for name, _ in plain.named_modules() if name.endswith("pointwise")}
    layouts = [layer.layout for layer in decomposed(net).values()]
    assert sum(layout.parameters for layout in layouts) <= 0.3 * sum(layout.size for layout in layouts)


def test_what_is_decomposed_already_is_left():
    once = decompose(small(), decomp="tt", rank_scale=0.5, skip="6")
    twice = decompose(once, decomp="cp", rank_scale=0.5)
    assert [layer.layout.decomp for layer in decomposed(twice).values()] == ["tt", "tt", "cp"]


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


# --- bad input


@pytest.mark.parametrize(
    "options, message",
    [
        ({"decomp": "svd"}, "decomp='svd'; allowed: .*tt"),
        ({"dims": 1}, "dims=1; allowed: an integer >= 2"),
        ({"dims": 2.5}, "dims=2.5; allowed: an integer >= 2"),
        ({"rank_scale": 0}, "budget=0.0; allowed: one of budget, rank_scale and error, above 0 and up to 1, or ranks"),
        ({"budget": 0.5}, "budget=0.5, rank_scale=0.5; allowed: one of budget"),
        ({"error": 0.5}, "rank_scale=0.5, error=0.5; allowed: one of budget"),
        ({"ranks": 3}, "rank_scale=0.5, ranks=3; allowed: one of budget"),
        ({"rank_scale": 0, "ranks": (2, 3, 4)}, r"ranks=\(2, 3, 4\) for layer '0' in tt; allowed: 2 integers"),
        ({"rank_scale": 0, "ranks": {"6": 2}}, "ranks=None for layer '0' in tt; allowed: 2 integers above 0, or one"),
        ({"rank_scale": 0, "ranks": 0}, "ranks=0 for layer '0' in tt; allowed: 2 integers above 0"),
        ({"allocation": "error"}, "allocation='error', rank_scale=0.5; allowed: rank_scale with allocation='even'"),
        ({"allocation": "greedy"}, "allocation='greedy'; allowed: error, even"),
        ({"rank_scale": 1.5}, "rank_scale=1.5; allowed: .* up to 1"),
        ({"rank_scale": 0, "budget": 1e-4}, r"budget=0.0001: the smallest tt .* allowed is 0\.\d+ or more"),
        ({"rank_rule": "2019"}, "rank_rule='2019'; allowed: useful, root, uniform, original"),
        ({"init": "zeros"}, "init='zeros'; allowed: weights, random, decompose, decompose_rescaled"),
        ({"contraction": "fast"}, "contraction='fast'; allowed: auto, factors, weight"),
        ({"contraction": "factors", "rank_rule": "original"}, "contraction='factors': .* no cut"),
        ({"skip": ["layer9"]}, "skip='layer9' names no layer; there are 0, 1, 3, 6"),
        ({"skip": "*"}, r"skip='\*' leaves no Conv2d"),
    ],
)
def test_bad_input_gets_one_line_that_names_it(options, message):
    with pytest.raises(InputError, match=message) as raised:
        decompose(small(), **{"rank_scale": 0.5, **options})
    assert "\n" not in str(raised.value)


# --- the summary


def test_the_summary_has_a_row_for_each_layer():
    net = decompose(small(), decomp="tt", dims=3, rank_scale=0.5, skip="6")
    table = summary(net)
    assert list(table.index) == ["0", "1", "6"] and table.index.name == "layer"
    assert list(table.columns) == [
        "decomp", "shape", "modes", "ranks", "weights", "parameters", "share", "contraction", "multiply_adds", "error"
    ]  # fmt: skip
    row = table.loc["1"]
    assert row["shape"] == "16 x 16 x 3x3" and row["modes"] == "16 | 16 x 9" and row["decomp"] == "tt"
    assert row["weights"] == 16 * 16 * 9 and row["parameters"] == sum(core.numel() for core in net[1].cores)
    assert row["share"] == row["parameters"] / row["weights"] and row["error"] == net[1].error > 0
    assert table.loc["6"].drop("shape").tolist() == ["dense", "", "", 64, 64, 1.0, "", 64, 0.0]
    assert not table.isna().any().any() and "16 | 16 x 9" in table._repr_html_()


@pytest.mark.filterwarnings("ignore:grouped convolutions")
@pytest.mark.parametrize("network", [resnet, mobilenet, lambda: cifar_network(8, 10, separable)])
@pytest.mark.parametrize("contraction", ["factors", "weight", "auto"])
def test_multiply_adds_are_those_that_torch_counts(network, contraction):
    net = decompose(network(), decomp="tt", dims=3, rank_scale=0.3, init="random", contraction=contraction).eval()
    image = (3, 32, 32)
    build = sum(layer.layout.build_multiply_adds(layer.contraction) for layer in decomposed(net).values())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.randn(1, *image))
    assert summary(net, image).multiply_adds.sum() == counter.get_total_flops() // 2 - build


def test_attention_is_counted_though_its_output_layer_is_never_called():
    net = models.VisionTransformer(32, 8, 1, 4, 64, 128)
    net = decompose(net, decomp="tt", rank_scale=0.3, init="random", contraction="factors")
    table, tokens = summary(net, (3, 32, 32)), 1 + (32 // 8) ** 2
    rows = table[table.index.str.endswith("out_proj")]
    assert (rows.contraction == "weight").all() and (rows.multiply_adds == tokens * 64 * 64).all() and len(rows) == 1


def test_the_summary_counts_a_shared_layers_parameters_once_and_every_call():
    table = summary(small(), (3, 12, 12))
    assert list(table.index) == ["0", "1", "6"]
    assert table.parameters["1"] == 16 * 16 * 9 and table.multiply_adds["1"] == 2 * 10 * 10 * 16 * 16 * 9
