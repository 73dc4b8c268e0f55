"""A decomposed network whose state_dict is loaded again, in whatever way its layers are held."""

import enum
import json

import pytest
import torch
from networks import several
from small import kinds
from torch import nn

import lowrank
from lowrank import InputError
from lowrank.formats import FORMATS
from lowrank.formats.products import Bottleneck

pytestmark = pytest.mark.usefixtures("seeded")


def tied():
    net = nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 24))
    net[2].weight = net[0].weight
    return net


NETWORKS = {"several": several, "tied": tied, "a lone layer": lambda: nn.Linear(24, 12)}
WAYS = {
    "by the error": {"budget": 0.4},
    "even": {"budget": 0.5, "init": "random", "dims": 4},
    "ranks by hand": {"ranks": 2},
    "within an error": {"error": 0.7},
}


@kinds
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_a_state_dict_fits_a_network_that_is_held_alike(make, way, decomp, tmp_path):
    small = lowrank.decompose(make(), decomp=decomp, **way)
    torch.save({"net": small.state_dict(), "layouts": lowrank.layouts(small)}, tmp_path / "small.pt")
    kept = torch.load(tmp_path / "small.pt", weights_only=True)
    for layouts in (kept["layouts"], json.loads(json.dumps(kept["layouts"]))):
        same = lowrank.hold(make(), layouts)
        same.load_state_dict(kept["net"])
        assert sum(map(torch.numel, same.parameters())) == sum(map(torch.numel, small.parameters()))
        assert lowrank.layouts(same) == lowrank.layouts(small)
        assert all(each.requires_grad for each in same.parameters())
        plain = lowrank.densify(same).state_dict()
        assert all(torch.equal(plain[name], each) for name, each in lowrank.densify(small).state_dict().items())


def test_a_plain_network_has_no_layouts_and_is_held_as_it_is():
    net = several()
    assert lowrank.layouts(net) == {} and type(lowrank.hold(net, {})[0]) is type(net[0])


WRONG = {
    "another size": (lambda: nn.Sequential(nn.Linear(12, 24)), "0 is 24 x 12, not 24 x 24"),
    "no such layer": (lambda: nn.ModuleDict({"a": nn.Linear(24, 24)}), "0 is not there"),
    "no layer to decompose": (lambda: nn.Sequential(nn.LSTM(24, 24)), "0 is not there"),
    "a grouped convolution": (lambda: nn.Sequential(nn.Conv1d(24, 24, 1, groups=2)), "0 is grouped"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_network_that_cannot_be_held_so_is_refused_in_one_line(wrong):
    make, line = WRONG[wrong]
    layouts = lowrank.layouts(lowrank.decompose(nn.Sequential(nn.Linear(24, 24)), budget=0.5))
    with pytest.raises(InputError, match="^layouts: not those of such a module") as refusal:
        lowrank.hold(make(), layouts)
    assert line in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "layouts", [5, {"0": 5}, {"0": {}}, {"0": {"decomp": "tt", "folding": {}, "ranks": [1]}}, None]
)
def test_what_are_no_layouts_is_refused_in_one_line(layouts):
    with pytest.raises(InputError, match="^layouts(: not those of such a module|=.*; allowed: what lowrank.layouts)"):
        lowrank.hold(nn.Sequential(nn.Linear(24, 24)), layouts)


DAMAGED = [
    *({"ranks": ranks} for ranks in ([], [0, 0], [-1, 2], [10**6, 10**6], [1.5, 2], ["a", "b"], [2, 2, 2, 2, 2, 2])),
    *({"folding": {"rows": rows}} for rows in (0, -1, 3, 2**40, 1.5, "a")),
    *({"folding": {"modes": modes}} for modes in ([], [576], [1, 2], [24, -4, -6], [24, 4.0, 6], [24, 5, 5], ["a"])),
    *({"folding": {"outputs": outputs}} for outputs in (-24, 12, "a")),
]


@kinds
def test_sizes_that_no_layer_has_are_refused_in_one_line(decomp):
    net = lowrank.decompose(nn.Sequential(nn.Linear(24, 24)), decomp="tt", ranks=2)
    layout = lowrank.layouts(net)["0"] | {"decomp": decomp}
    for damage in DAMAGED:
        folding = layout["folding"] | damage.get("folding", {})
        with pytest.raises(InputError, match="^layouts: not those of such a module") as refusal:
            lowrank.hold(nn.Sequential(nn.Linear(24, 24)), {"0": layout | damage | {"folding": folding}})
        assert "\n" not in str(refusal.value), damage


def test_layouts_of_several_weights_are_refused_for_one():
    net = lowrank.decompose(nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 24)), ranks={"0": 2, "2": 3})
    with pytest.raises(InputError, match="0, 2 share a weight, and these are several"):
        lowrank.hold(tied(), lowrank.layouts(net))


class Rolled(Bottleneck):
    """One whose rows are moved by a number that is the format's own."""

    def __init__(self, by):
        self.by = by

    def factors(self, cores, folding):
        left, right = super().factors(cores, folding)
        return left.roll(self.by, 0), right

    def fit(self, weight, folding, ranks):
        return super().fit(weight.roll(-self.by, 0), folding, ranks)


class Way(enum.StrEnum):
    DOWN = "down"


@pytest.mark.parametrize("told", [None, 3, Way.DOWN, float("nan"), (1, 2), {"a": [Way.DOWN]}], ids=repr)
def test_a_format_that_was_made_with_another_size_is_told_from_it(told, nothing_registered, tmp_path):
    def registered(by):
        lowrank.register("rolled", Rolled(by))
        FORMATS["rolled"].told = told

    def hold(layouts):
        return lowrank.layouts(lowrank.hold(nn.Sequential(nn.Linear(24, 24)), layouts))

    registered(1)
    layouts = lowrank.layouts(lowrank.decompose(nn.Sequential(nn.Linear(24, 24)), decomp="rolled", budget=0.5))
    torch.save(layouts, tmp_path / "layouts.pt")
    kept = torch.load(tmp_path / "layouts.pt", weights_only=True)
    older = {"0": {name: each for name, each in layouts["0"].items() if name != "sizes"}}
    for same in (layouts, kept, json.loads(json.dumps(layouts)), older):
        assert json.dumps(hold(same)) == json.dumps(layouts)
    registered(2)
    with pytest.raises(InputError, match="decomp='rolled' was made with {'by': 1.*}, the one registered here with"):
        hold(layouts)


def test_a_format_that_is_not_known_is_named():
    layouts = lowrank.layouts(lowrank.decompose(nn.Sequential(nn.Linear(24, 24)), budget=0.5))
    layouts["0"]["decomp"] = "mine"
    with pytest.raises(
        InputError, match="^decomp='mine': if it is a format of your own, this process does not know it"
    ):
        lowrank.hold(nn.Sequential(nn.Linear(24, 24)), layouts)
