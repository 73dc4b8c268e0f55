"""The table of what a network consists of: rows, sizes, multiply-adds."""

import pytest
import torch
from networks import decomposed, mobilenet, resnet, small
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from lowrank import decompose, summary
from lowrank.layers import separable
from lowrank.network import cifar_network


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
    assert table.loc["6"].drop("shape").tolist() == ["dense", "", "", 64, 64, 1.0, "", 64, 0.0, ""]
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
