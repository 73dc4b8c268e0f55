"""The table of what a network consists of: rows, sizes, multiply-adds."""

import pytest
import torch
from networks import Language, decomposed, mobilenet, resnet, small
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from lowrank import InputError, decompose, summary
from lowrank.layers import Decomposed, DecomposedConv2d, separable
from lowrank.network import cifar_network

pytestmark = pytest.mark.usefixtures("seeded")


def test_the_summary_has_a_row_for_each_layer():
    net = decompose(small(), decomp="tt", dims=3, rank_scale=0.5, skip="6")
    table = summary(net)
    assert list(table.index) == ["0", "1", "6"] and table.index.name == "layer"
    assert list(table.columns) == [
        "decomp", "shape", "modes", "ranks", "weights", "parameters", "share", "contraction", "multiply_adds", "error",
        "left",
    ]  # fmt: skip
    row = table.loc["1"]
    assert row["shape"] == "16 x 16 x 3x3" and row["modes"] == "16 | 16 x 9" and row["decomp"] == "tt"
    assert row["weights"] == 16 * 16 * 9 and row["parameters"] == sum(core.numel() for core in net[1].cores)
    assert row["share"] == row["parameters"] / row["weights"] and row["error"] == net[1].error > 0
    assert table.loc["6"].drop("shape").tolist() == ["dense", "", "", 64, 64, 1.0, "", 64, 0.0, "skipped"]
    assert not table.isna().any().any() and "16 | 16 x 9" in table._repr_html_()


@pytest.mark.filterwarnings("ignore:left as they are")
@pytest.mark.parametrize("network", [resnet, mobilenet, lambda: cifar_network(8, 10, separable)])
@pytest.mark.parametrize("contraction", ["factors", "weight", "auto"])
def test_multiply_adds_are_those_that_torch_counts(network, contraction):
    net = decompose(network(), decomp="tt", dims=3, rank_scale=0.3, init="random", contraction=contraction).eval()
    image = (3, 32, 32)
    build = sum(layer.layout.build_multiply_adds(layer.contraction) for layer in decomposed(net).values())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.randn(1, *image))
    assert summary(net, image).multiply_adds.sum() == counter.get_total_flops() // 2 - build


@pytest.mark.filterwarnings("ignore:left as they are")
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_summary_takes_networks_of_any_precision(dtype):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1))
    expected = summary(net, (3, 8, 8)).multiply_adds.tolist()
    assert summary(net.to(dtype), (3, 8, 8)).multiply_adds.tolist() == expected == [36 * 216, 36 * 32]


def test_the_summary_takes_inputs_of_any_kind():
    class Both(Language):
        def forward(self, tokens, *, mask):
            return super().forward(tokens) * mask

    tokens = torch.randint(20, (3, 5))
    expected = [0, 15 * 256, 15 * 256, 15 * 320]
    assert summary(Language(), example=tokens).multiply_adds.tolist() == expected
    assert summary(Language(), example=(tokens,)).multiply_adds.tolist() == expected
    assert summary(Both(), example={"tokens": tokens, "mask": 1}).multiply_adds.tolist() == expected
    with pytest.raises(InputError, match=r"image=\(5,\), without example=: the network does not take it"):
        summary(nn.Sequential(nn.Embedding(20, 4)), (5,))
    with pytest.raises(InputError, match="example: the network does not take it") as raised:
        summary(Language(), example=torch.randn(3))
    assert "\n" not in str(raised.value)


def test_the_summary_leaves_the_network_as_it_was():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Linear(4, 4)).eval())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    summary(net, example=torch.randn(3, 4))
    assert [layer.training for layer in net] == [True, True, False] and not net[0]._forward_hooks
    torch.testing.assert_close(dict(net.state_dict()), before)


def test_a_transposed_convolution_is_counted_where_it_takes_its_input():
    net = nn.Sequential(nn.ConvTranspose2d(4, 6, 2, stride=2, bias=False))
    assert summary(net, (4, 5, 5)).multiply_adds.tolist() == [25 * 4 * 6 * 4]
    net = decompose(net, decomp="bottleneck", ranks={"0": 2}, contraction="factors")
    assert summary(net, (4, 5, 5)).multiply_adds.tolist() == [25 * 4 * 2 * 4 + 100 * 2 * 6]
    assert isinstance(net[0], Decomposed) and not isinstance(net[0], DecomposedConv2d)
