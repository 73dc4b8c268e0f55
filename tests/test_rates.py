"""Learning rates for cores: the gains are those of the Jacobian, and a step in W is as long through every format."""

import pytest
import torch
from torch import nn

import lowrank
from lowrank import Config, decompose, train
from lowrank.data import load
from lowrank.formats import FORMATS
from lowrank.layers import Decomposed
from lowrank.rates import AIM, core_rates, gains

kinds = pytest.mark.parametrize("decomp", FORMATS)


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
