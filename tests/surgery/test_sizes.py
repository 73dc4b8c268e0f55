"""How large each weight becomes: shares and ranks by hand, the largest that is of use, and why a layer stays dense."""

import numpy as np
import pandas as pd
import pytest
import torch
from networks import decomposed_names, layouts, several, uneven
from small import kinds
from torch import nn

from lowrank import InputError, decompose, densify, summary
from lowrank.formats import FORMATS, fold, solve

pytestmark = pytest.mark.usefixtures("seeded")


def size(net: nn.Module, *names: str) -> float:
    """The share that these layers have of their weights."""
    table = summary(net).loc[list(names)]
    return table.parameters.sum() / table.weights.sum()


@pytest.mark.parametrize("decomp", ["bottleneck", "tt", "tucker", "cp", "ring"])
def test_budgets_by_hand(decomp):
    net = decompose(several(), decomp=decomp, budgets={"1": 0.2, "[01]": 0.6}, budget=0.5)
    assert 0.1 < size(net, "1") <= 0.2 < 0.4 < size(net, "0") <= 0.6 and 0.4 < size(net, "3", "4") <= 0.5
    assert decomposed_names(decompose(several(), decomp=decomp, budgets={"1": 0.2})) == ["1"]


def test_ranks_by_hand():
    net = decompose(several(), decomp="bottleneck", ranks={"0": 3, "3": (5,), "4": 100})
    assert [net[k].layout.ranks for k in (0, 3, 4)] == [(3,), (5,), (5,)] and decomposed_names(net) == ["0", "3", "4"]
    net = decompose(several(), decomp="tucker", dims=4, ranks={"1": (2, 3, 2, 4)}, budget=0.5)
    assert net[1].layout.ranks == (2, 3, 2, 4) and size(net, "0", "3", "4") <= 0.5


@pytest.mark.parametrize("decomp", ["bottleneck", "cp", "tt", "tucker", "tucker_tt", "ring"])
def test_a_budget_of_all_takes_the_largest_that_is_of_use(decomp):
    net = decompose(several(), decomp=decomp, budget=1.0, init="random")
    assert 0.8 < size(net, "0", "1", "3", "4") <= 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"budget": "0.1"}, "budget='0.1'; allowed"),
        ({"budget": True}, "budget=True"),
        ({"rank_scale": [0.5]}, r"rank_scale=\[0.5\]"),
        ({"budgets": {"0": 2}}, r"budgets={'0': 2}; allowed: numbers above 0 and up to 1"),
        ({"budgets": {"9": 0.5}}, "budgets='9' names no layer of 0, 1, 3, 4"),
        ({"ranks": {"0": 0}}, r"ranks=0; bottleneck takes 1 to \(10,\) for modes"),
        ({"ranks": {"0": (1, 2)}}, r"ranks=\(1, 2\); bottleneck takes 1 to \(10,\)"),
        ({"ranks": {"0": (99,)}}, r"ranks=\(99,\)"),
        ({"ranks": {"0": 2.5}}, r"ranks=2.5"),
        ({"ranks": "8"}, "ranks='8'; bottleneck takes 1 to"),
        ({"budgets": 0.5}, r"budgets=0.5; allowed: .*pattern"),
        ({"budgets": pd.Series({"0": 0.5})}, "budgets=0 .*; allowed: a dict with a pattern"),
        ({"budgets": np.array([0.5, 0.5])}, r"budgets=array.*; allowed: a dict with a pattern"),
        ({"ranks": 2, "budget": 0.5}, "budget=0.5: ranks or budgets name every layer; allowed: one of them"),
        ({"budgets": {"*": 0.5}, "error": 0.5}, "error=0.5: ranks or budgets name every layer; allowed: one of them"),
        ({"budget": 0.5, "allocation": "error", "rank_rule": "root"}, "allocation='error', rank_rule='root'; allowed"),
        ({"only": "9", "budget": 0.5}, "only='9' names no layer; there are 0, 1, 3, 4"),
        ({"skip": [3], "budget": 0.5}, "skip=3; allowed: patterns of names, types, functions"),
        ({"skip": 3, "budget": 0.5}, "skip=3; allowed: patterns of names, types, functions"),
        ({"skip": nn.LSTM, "budget": 0.5}, "skip=<class .*LSTM'> names no layer"),
    ],
)
def test_a_wrong_choice_gets_one_line(options, message):
    with pytest.raises(InputError, match=message) as raised:
        decompose(several(), decomp="bottleneck", **options)
    assert "\n" not in str(raised.value)


def test_each_dense_layer_has_its_own_reason_and_loses_it_once_it_is_decomposed():
    net = nn.Sequential(nn.Linear(48, 64), nn.Linear(64, 64))
    named = decompose(net, budgets={"0": 0.3})
    assert summary(named).left.tolist() == ["", "no pattern names it"]
    net[0].weight.data = torch.randn(1, 64).T @ torch.randn(1, 48)
    near = decompose(net, error=0.1)
    assert summary(near).left.tolist() == ["", "nothing smaller comes within error=0.1"]
    again = densify(decompose(near, budget=0.5, only="1"))
    assert summary(again).left.tolist() == ["", ""]


def test_ranks_by_hand_are_taken():
    net = uneven()
    assert [layout.ranks for layout in layouts(decompose(net, decomp="bottleneck", ranks=5))] == [(5,)] * 3
    mixed = decompose(net, decomp="tt", ranks={"0": (2, 3), "*": 4})
    assert [layout.ranks for layout in layouts(mixed)] == [(2, 3), (4, 4), (4, 4)]
    largest = FORMATS["bottleneck"].largest(fold(64, 48, 3))
    assert layouts(decompose(net, decomp="bottleneck", ranks=10**6))[0].ranks == largest


def test_random_cores_and_ghosts_follow_the_even_path():
    net = uneven()
    even = solve("tt", [fold(64, 48, 3), fold(64, 64, 3), fold(32, 64, 3, 9)], budget=0.3)
    assert layouts(decompose(net, budget=0.3, init="random")) == even
    assert layouts(decompose(net.to("meta"), budget=0.3)) == even


@kinds
def test_what_comes_near_by_hand_stands_beside_what_does_not(decomp):
    net = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
    torch.nn.init.orthogonal_(net[1].weight)
    small = decompose(net, decomp=decomp, error=1e-3, ranks={"0": 1})
    assert decomposed_names(small) == ["0"] and summary(small).left["1"] == "nothing smaller comes within error=0.001"


@kinds
def test_zeros_are_within_any_error(decomp):
    net = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
    nn.init.zeros_(net[0].weight)
    small = decompose(net, decomp=decomp, error=0.9)
    assert small[0].error == 0 and set(small[0].layout.ranks) == {1} and not small[0].weight.any()
