"""What a Format brings is used everywhere: its sizes, its fit, its start, its multiplication and what it refuses."""

from functools import partial

import pytest
import torch
from torch import nn

import lowrank
from lowrank import InputError
from lowrank.config import Config
from lowrank.lab import explore, plots
from lowrank.optimiser import weight_decays

from .forms import SMALL, Started, held

# how large a layer becomes, in each of the ways to say so
SIZES = [{"rank_scale": 0.5}, {"budget": 0.5}, {"error": 0.95}, {"ranks": 1}, {"budgets": {"*": 0.5}}]


@pytest.mark.parametrize("budget", [0.3, 0.5, 0.8])
def test_it_meets_a_budget_and_its_sizes_are_shown(monarch, budget):
    config = Config(decomp="monarch", budget=budget, width=16)
    layers = held(lowrank.build(config, classes=10))
    cores = sum(core.numel() for layer in layers for core in layer.cores)
    assert 0.9 * budget < cores / sum(layer.layout.size for layer in layers) <= budget
    table = explore.sizes(config)
    assert table.parameters.iloc[:7].sum() == cores
    assert list(table.contraction.iloc[:7]) == [layer.contraction for layer in layers]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_layer_that_it_cannot_hold_is_left_and_said(monarch, size):
    net = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 10))
    with pytest.warns(UserWarning, match="left as they are, as decomp='monarch' cannot hold them: 1: blocks=4") as said:
        small = lowrank.decompose(net, decomp="monarch", **size)
    assert said[0].filename == __file__  # the line that has called it
    assert type(small[1]) is nn.Linear and type(small[0]) is not nn.Linear
    assert lowrank.summary(small).left["1"] == "monarch cannot hold it: blocks=4 does not divide 10"


@pytest.mark.parametrize("decay", ["plain", "compression", "frobenius", "none"])
def test_it_trains_under_every_kind_of_weight_decay(monarch, tmp_path, decay):
    config = Config(decomp="monarch", budget=0.5, width=8, decay=decay)
    net = lowrank.build(config, classes=10)
    decays = {id(core): decay for decay, group in weight_decays(net, config).items() for core in group}
    layer = held(net)[0]
    share = {"plain": 1, "compression": layer.compression, "frobenius": 0, "none": 0}[decay]
    assert decays[id(layer.core_0)] == config.weight_decay * share
    record = lowrank.run(log=lambda line: None, decomp="monarch", budget=0.5, decay=decay, runs=str(tmp_path), **SMALL)
    assert record["status"] == "done" and record["train_loss"] < 2.3


def test_a_sweep_trains_it_and_a_plot_has_a_colour_for_it(monarch, tmp_path):
    study = lowrank.grid(decomp=["monarch", "tt"], budget=[0.5])
    table = lowrank.sweep(study, runs=str(tmp_path), workers=1, log=lambda line: None, **SMALL)
    assert dict(zip(table.decomp, table.status, strict=True)) == {"monarch": "done", "tt": "done"}
    labels = plots.accuracy_against_parameters(lowrank.results(tmp_path)).get_legend_handles_labels()[1]
    assert {"monarch", "tt"} <= set(labels)
    assert plots.colours("decomp", ["monarch", "tt"])["monarch"] not in plots.COLOURS.values()


def test_a_trained_weight_is_fitted_by_its_own_fit(monarch):
    linear = nn.Linear(32, 24)
    errors = [lowrank.decompose(linear, decomp="monarch", budget=budget).error for budget in (0.3, 0.6, 0.8)]
    assert errors == sorted(errors, reverse=True)
    blocks = linear.weight.detach().reshape(4, 6, 4, 8).transpose(1, 2)
    layer = lowrank.decompose(linear, decomp="monarch", budget=0.6)
    tail = torch.linalg.svdvals(blocks)[..., layer.layout.ranks[0] :]
    assert errors[1] == pytest.approx((tail.square().sum().sqrt() / linear.weight.norm()).item(), rel=1e-4)


@pytest.mark.parametrize("init", ["weights", "random", "decompose", "decompose_rescaled"])
def test_every_start_has_the_spread_of_the_dense_weight_or_fits_it(monarch, init):
    linear = nn.Linear(64, 64)
    layer = lowrank.decompose(linear, decomp="monarch", budget=0.5, init=init)
    ratio = (layer.weight.std() / linear.weight.std()).item()
    assert ratio == pytest.approx(1, rel=0.02) if init in ("random", "decompose_rescaled") else 0.6 < ratio < 1


@pytest.mark.parametrize("contraction", ["cores", "weight", "auto"])
def test_its_own_multiplication_is_that_of_its_weight(monarch, contraction):
    for net, x in (
        (nn.Linear(12, 8), torch.randn(5, 3, 12)),
        (nn.Conv2d(12, 8, 1), torch.randn(2, 12, 3, 5)),
        (nn.Conv2d(12, 8, 1, bias=False), torch.randn(2, 3, 5, 12).movedim(-1, 1)),
    ):
        layer = lowrank.decompose(net, decomp="monarch", rank_scale=1, init="random", contraction=contraction)
        assert contraction in ("auto", layer.contraction)
        torch.testing.assert_close(layer(x), layer.dense()(x), rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16


def test_its_own_multiplication_is_taken_if_it_is_less_work_and_counted(monarch):
    for size, contraction in ((32, "weight"), (1024, "cores")):
        layer = lowrank.decompose(nn.Linear(size, size, device="meta"), decomp="monarch", budget=0.25)
        assert layer.contraction == layer.layout.contraction == contraction
        share = lowrank.summary(layer).multiply_adds.iloc[0] / size**2
        assert share == (1 if contraction == "weight" else layer.compression)


def test_only_what_can_be_multiplied_so_is(monarch):
    conv = nn.Conv2d(1024, 1024, 3, device="meta")
    assert lowrank.decompose(conv, decomp="monarch", budget=0.25).contraction == "weight"
    with pytest.raises(InputError, match="^contraction='cores': Conv2d.*3, 3.* is not 1 x 1"):
        lowrank.decompose(conv, decomp="monarch", budget=0.25, contraction="cores")
    with pytest.raises(InputError, match="^contraction='cores': tt has no multiplication of its own"):
        lowrank.decompose(nn.Linear(8, 8), budget=0.5, contraction="cores")


def test_a_size_that_does_not_fit_is_said_in_one_line(monarch):
    for ask in (
        *(partial(lowrank.decompose, nn.Linear(10, 8), decomp="monarch", **size) for size in SIZES),
        lambda: lowrank.build(Config(decomp="monarch", width=5), classes=10),
        lambda: explore.sizes(Config(decomp="monarch", width=5)),
    ):
        line = "^decomp='monarch' cannot hold a weight of .*: blocks=4 does not divide"
        with pytest.raises(InputError, match=line) as refusal:
            ask()
        assert "\n" not in str(refusal.value)


def test_dims_is_no_parameter_of_its_runs(monarch):
    configs = lowrank.grid(decomp=["monarch"], dims=[2, 5], rank_rule=["useful", "original"])
    assert len({Config(**config).run_id("data") for config in configs}) == 1
    record = {"decomp": "monarch", "dims": 3, "budget": 0.1, "rank_scale": 0, "seed": 0, "dataset": "digits"}
    assert "dims" not in explore.title(record | {"test_accuracy": 0.5, "parameters": 1000})


def test_a_start_of_its_own_is_brought_to_the_spread_of_the_dense_weight(nothing_registered):
    lowrank.register("started", Started())
    linear = nn.Linear(12, 8)
    layer = lowrank.decompose(linear, decomp="started", rank_scale=0.5, init="random")
    assert torch.unique(layer.weight).numel() == 1
    torch.testing.assert_close(layer.weight.norm(), linear.weight.norm())
