"""Schedules, decays and rates of cores: gains are those of the Jacobian, a step in W is as long by every format."""

import math
from dataclasses import replace

import pytest
import torch
from small import kinds, networks
from torch import nn

import lowrank
from lowrank import Config, decompose, train
from lowrank.data import load
from lowrank.formats import FORMATS
from lowrank.layers import Decomposed
from lowrank.optimiser import AIM, SCHEDULES, core_rates, gains, make_optimiser, weight_decays


def layer(decomp, dims=4, scale=0.3) -> Decomposed:
    torch.manual_seed(0)
    return decompose(nn.Linear(24, 36, bias=False), decomp=decomp, dims=dims, rank_scale=scale, init="random")


def jacobians(layer) -> list[torch.Tensor]:
    """dW by each core, [weights, entries]."""

    def weight(*cores):
        return torch.func.functional_call(layer, {f"core_{k}": core for k, core in enumerate(cores)}, torch.eye(24))

    found = torch.autograd.functional.jacobian(weight, tuple(core.detach() for core in layer.cores))
    return [each.reshape(24 * 36, -1) for each in found]


@kinds
@pytest.mark.parametrize("dims", [2, 4, 6])
def test_a_gain_is_the_mean_square_of_the_jacobians_columns(decomp, dims):
    one = layer(decomp, dims)
    exact = [each.square().sum(0).mean().item() for each in jacobians(one)]
    assert gains(one) == pytest.approx(exact, rel=0.4)


def test_gains_do_not_touch_the_seeded_draws():
    one = layer("tt")
    state = torch.get_rng_state()
    assert gains(one) == gains(one)
    assert torch.equal(state, torch.get_rng_state())


@kinds
def test_larger_cores_get_smaller_rates(decomp):
    one = layer(decomp)
    before = core_rates(one)
    with torch.no_grad():
        one.cores[0].mul_(4)
    after = core_rates(one)
    ratios = [after[core] / before[core] for core in one.cores]
    assert ratios == pytest.approx([1, *[1 / 16] * (len(ratios) - 1)])


@kinds
def test_through_every_core_a_step_is_as_long_as_in_the_weight(decomp):
    one = layer(decomp)
    for core, jacobian in zip(one.cores, jacobians(one), strict=True):
        step = core_rates(one)[core] * jacobian @ jacobian.T  # of W, by the negative gradient with respect to W
        along = step.trace() / jacobian.shape[1]  # the mean over the directions in which the core moves W
        assert AIM / 2 < along < AIM * 2


@pytest.mark.parametrize("decay", ["plain", "compression", "frobenius", "none"])
def test_rates_leave_the_decay_of_a_step_as_it_is(decay):
    def pace(**parameters):
        """What decay takes off each parameter in a step, and the learning rate of each."""
        config = Config(dataset="digits", decomp="tt", dims=4, width=8, decay=decay, **parameters).fitted(50_000)
        loop = train.Loop(config, lowrank.build(config, 10), load("digits"), lambda: None)
        loop.set_rates(0.5)
        held = {id(parameter): group for group in loop.optimiser.param_groups for parameter in group["params"]}
        groups = {name: held[id(parameter)] for name, parameter in loop.network.named_parameters()}
        rates = {name: group["lr"] for name, group in groups.items()}
        return {name: rates[name] * group["weight_decay"] for name, group in groups.items()}, rates

    (fast, rates), (plain, same) = pace(recipe="fast"), pace(recipe="fast", without="core rates")
    assert fast == pytest.approx(plain) and len(set(same.values())) == 1
    assert {name for name in rates if rates[name] != same[name]} <= {name for name in rates if "core_" in name}
    assert len(set(rates.values())) > 1
    assert pace()[1] == same


# --- schedules and decays


def test_schedules_start_peak_and_end_where_they_should():
    assert [SCHEDULES["triangle"](at) for at in (0, 5 / 48, 5 / 24, 1)] == pytest.approx([0, 0.5, 1, 0])
    assert [SCHEDULES["constant"](at) for at in (0, 0.5, 1)] == [1, 1, 1]
    assert [SCHEDULES["cosine"](at) for at in (0, 1 / 3, 0.5, 1)] == pytest.approx([1, 0.75, 0.5, 0], abs=1e-12)


@pytest.mark.parametrize("decomp", ["tt", "dense"])
@pytest.mark.parametrize("decay", ["plain", "compression", "frobenius", "none"])
def test_every_group_holds_parameters_and_follows_the_schedule(decomp, decay):
    config, network = networks(decomp=decomp, decay=decay, epochs=3, batch_size=4)
    data = load("digits")
    few = replace(data, train_images=data.train_images[:20], train_labels=data.train_labels[:20])
    loop = train.Loop(config, network, few, lambda: None)
    rates = []
    loop.on_step = lambda: rates.append([group["lr"] for group in loop.optimiser.param_groups])
    for epoch in range(config.epochs):
        loop.train(epoch)
    assert all(len(set(step)) == 1 for step in rates)
    assert max(step[0] for step in rates) > 0.8 * config.learning_rate > 0.3 * config.learning_rate > rates[-1][0] > 0
    held = [id(parameter) for group in loop.optimiser.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in network.parameters())


def test_weight_decay_of_each_kind_of_weight():
    expected = {"plain": 1.0, "none": 0.0, "frobenius": 0.0}
    for decay in ("plain", "compression", "frobenius", "none"):
        config, network = networks(decay=decay, budget=0.5, weight_decay=0.01)
        of = {id(p): value for value, each in weight_decays(network, config).items() for p in each}
        for layer in network.modules():
            if isinstance(layer, Decomposed):
                wanted = 0.01 * expected.get(decay, layer.compression)
                assert [of[id(core)] for core in layer.cores] == pytest.approx([wanted] * len(layer.cores))
        assert of[id(network.first.convolution.weight)] == (0 if decay == "none" else 0.01)


# --- a loop of one's own


def model() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 24), nn.Linear(24, 4))
    return decompose(net, decomp="tt", dims=4, rank_scale=0.3, init="random", skip="4")


def test_groups_hold_every_parameter_once_at_the_fast_recipes_rates():
    net = model()
    groups, rates = lowrank.parameter_groups(net, 0.1, weight_decay=1e-3), core_rates(net)
    held = {id(parameter): group for group in groups for parameter in group["params"]}
    assert len(held) == sum(len(group["params"]) for group in groups) == len(list(net.parameters()))
    for parameter in net.parameters():
        group = held[id(parameter)]
        assert group["lr"] == pytest.approx(0.1 * rates.get(parameter, 1))
        assert group["lr"] * group["weight_decay"] == pytest.approx(1e-4)
    assert len({group["lr"] for group in groups}) > 1


def test_groups_are_those_of_the_fast_recipe():
    config = Config(dataset="digits", decomp="tt", dims=4, width=8, recipe="fast", weight_decay=5e-4)
    net = lowrank.build(config, 10)
    theirs = make_optimiser(net, config).param_groups
    ours = lowrank.parameter_groups(net, 1.0, weight_decay=5e-4)
    pairs = [(group["lr"], group["weight_decay"], sorted(map(id, group["params"]))) for group in ours]
    assert sorted(pairs) == sorted((g["rate"], g["weight_decay"], sorted(map(id, g["params"]))) for g in theirs)


def test_optimisers_of_matrices_get_matrices_and_another_the_rest():
    net, x = model(), torch.randn(8, 3, 8, 8)
    matrices = lowrank.parameter_groups(net, 0.02, matrices=True)
    others = lowrank.parameter_groups(net, 0.1, matrices=False)
    optimisers = torch.optim.Muon(matrices), torch.optim.SGD(others, momentum=0.9)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    net(x).square().mean().backward()
    for each in optimisers:
        each.step()
    for parameter, was in zip(net.parameters(), before, strict=True):
        assert not torch.equal(parameter, was)
    assert all(parameter.dim() == 2 for group in matrices for parameter in group["params"])
    net[0].requires_grad_(False)
    frozen = set(map(id, net[0].parameters()))
    assert not frozen & {id(parameter) for group in lowrank.parameter_groups(net, 0.1) for parameter in group["params"]}


@pytest.mark.parametrize("decomp", FORMATS)
def test_a_layer_that_starts_at_zeros_learns(decomp):
    layer = nn.Linear(16, 16, bias=False)
    nn.init.zeros_(layer.weight)
    held = decompose(layer, decomp=decomp, budget=0.9)
    optimiser = torch.optim.SGD(lowrank.parameter_groups(held, 0.1), momentum=0.9)
    (held(torch.eye(16)) - torch.eye(16)).square().sum().backward()
    optimiser.step()
    assert 0 < held.matrix().norm() < 100


@pytest.mark.parametrize("options, message", [
    ({"learning_rate": 0}, "learning_rate=0, weight_decay=0.0; allowed: above 0, 0 or more"),
    ({"learning_rate": 0.1, "weight_decay": -1}, "weight_decay=-1"),
    ({"learning_rate": 0.1, "matrices": False}, "matrices=False: the network has no such parameter"),
])  # fmt: skip
def test_wrong_groups_get_one_line(options, message):
    with pytest.raises(lowrank.InputError, match=message):
        lowrank.parameter_groups(nn.Linear(4, 4, bias=False), **options)


@pytest.mark.parametrize(
    "rate", [10**400, math.inf, math.nan, 1j, True, "0.1", *[torch.tensor(1.0).to(to) for to in ("meta", torch.cfloat)]]
)
def test_a_rate_that_is_no_number_is_one_line(rate):
    with pytest.raises(lowrank.InputError, match="^learning_rate=.*; allowed: above 0, 0 or more$"):
        lowrank.parameter_groups(nn.Linear(4, 4), rate)


def test_a_lazy_layer_has_no_parameters_yet():
    with pytest.raises(lowrank.InputError, match="^network: a layer of it is lazy"):
        lowrank.parameter_groups(nn.LazyLinear(4), 0.1)
