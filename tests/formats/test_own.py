"""A format of one's own is one class: what it brings is used, and what it says wrong is refused."""

import pickle
from functools import partial
from math import prod

import pytest
import torch
from torch import nn

import lowrank
from lowrank import Format, InputError, formats
from lowrank.config import DECOMPS, Config
from lowrank.formats.own import CHECKED
from lowrank.lab import explore, plots
from lowrank.layers import Decomposed, DecomposedConv2d
from lowrank.optimiser import weight_decays

SMALL = {"dataset": "digits", "width": 8, "epochs": 2, "batch_size": 128, "precision": "float32"}


class Monarch(Format):
    """Two block-diagonal matrices with a permutation between (Dao et al. 2022): b x b blocks of rank r each."""

    uses_dims = False

    def __init__(self, blocks):
        self.blocks = blocks

    def refusal(self, folding):
        odd = [size for size in (folding.outputs, folding.inputs) if size % self.blocks]
        return f"blocks={self.blocks} does not divide {odd[0]}" if odd else ""

    def largest(self, folding):
        return (max(1, folding.outputs * folding.inputs // (self.blocks * (folding.outputs + folding.inputs))),)

    def shapes(self, folding, ranks):
        b = self.blocks
        return [(b, folding.outputs // b, b * ranks[0]), (b, b * ranks[0], folding.inputs // b)]

    def weigh(self, folding, ranks):
        return ranks[0] * folding.outputs * folding.inputs

    def work(self, folding, ranks):
        return sum(map(prod, self.shapes(folding, ranks)))

    def multiply(self, x, cores, folding):
        left, right = cores  # [b, O / b, b r], [b, b r, I / b]
        z = torch.einsum("...bi, bri -> ...br", x.unflatten(-1, (self.blocks, -1)), right)  # [..., b, b r]
        z = z.unflatten(-1, (self.blocks, -1)).transpose(-3, -2).flatten(-2)  # [..., b, b r]
        return torch.einsum("...br, bor -> ...bo", z, left).flatten(-2)  # [..., O]

    def weight(self, cores, folding):
        return self.multiply(cores[0].new_zeros(folding.inputs, folding.inputs).fill_diagonal_(1), cores, folding).T

    def fit(self, weight, folding, ranks):
        """The best of rank r in each block."""
        blocks = weight.unflatten(0, (self.blocks, -1)).unflatten(-1, (self.blocks, -1)).transpose(1, 2)
        left, values, right = torch.linalg.svd(blocks, full_matrices=False)  # of [b, b, O / b, I / b]
        left, right = (left * values[..., None, :])[..., : ranks[0]], right[..., : ranks[0], :]
        return [left.transpose(1, 2).flatten(-2), right.transpose(0, 1).flatten(1, 2)]


# how large a layer becomes, in each of the ways to say so
SIZES = [{"rank_scale": 0.5}, {"budget": 0.5}, {"error": 0.95}, {"ranks": 1}, {"budgets": {"*": 0.5}}]


@pytest.fixture
def monarch(nothing_registered):
    lowrank.register("monarch", Monarch(blocks=4))


def held(net: nn.Module) -> list[Decomposed]:
    return [module for module in net.modules() if isinstance(module, Decomposed)]


# --- a Monarch


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
    with pytest.warns(UserWarning, match="left as they are, as decomp='monarch' cannot hold them: 1: blocks=4"):
        small = lowrank.decompose(net, decomp="monarch", **size)
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
    assert len({Config(**config).run("data") for config in configs}) == 1
    record = {"decomp": "monarch", "dims": 3, "budget": 0.1, "rank_scale": 0, "seed": 0, "dataset": "digits"}
    assert "dims" not in explore.title(record | {"test_accuracy": 0.5, "parameters": 1000})


# --- a start of one's own


class Started(formats.Format):
    def largest(self, folding):
        return (min(folding.outputs, folding.inputs),)

    def shapes(self, folding, ranks):
        return [(folding.outputs, ranks[0]), (ranks[0], folding.inputs)]

    def inner(self, folding, ranks):
        return ranks[0]

    def factors(self, cores, folding):
        return cores[0], cores[1]

    def start(self, folding, ranks):
        return [torch.ones(shape) for shape in self.shapes(folding, ranks)]


def test_a_start_of_its_own_is_brought_to_the_spread_of_the_dense_weight(nothing_registered):
    lowrank.register("started", Started())
    linear = nn.Linear(12, 8)
    layer = lowrank.decompose(linear, decomp="started", rank_scale=0.5, init="random")
    assert torch.unique(layer.weight).numel() == 1
    torch.testing.assert_close(layer.weight.norm(), linear.weight.norm())


# --- what is refused


def spoiled(**methods):
    return type("Spoiled", (Started,), methods)()


def made_whole(weight):
    return spoiled(inner=lambda self, f, r: None, weigh=lambda self, f, r: 1, weight=weight)


WRONG = {
    "a transposed weight": (
        made_whole(lambda self, c, f: (c[0] @ c[1]).T),
        r"for a weight of 12 x 8, folded into .*: its cores make a weight of \(8, 12\)",
    ),
    "transposed factors": (
        spoiled(factors=lambda self, c, f: (c[1].T, c[0].T)),
        r"its cores make a weight of \(8, 12\)",
    ),
    "too few inputs": (spoiled(factors=lambda self, c, f: (c[0], c[1][:, :4])), r"a weight of \(12, 4\)"),
    "another width": (spoiled(inner=lambda self, f, r: r[0] + 1), "inner is 2, but its factors are"),
    "a count of floats": (spoiled(build=lambda self, f, r: f.outputs / 2), "build at ranks .* is 6.0, not an integer"),
    "a share of the weight": (spoiled(weigh=lambda self, f, r: None), "weigh at ranks .* is None, not an integer"),
    "a float for a width": (spoiled(inner=lambda self, f, r: float(r[0])), "inner at ranks .* is 1.0, not an integer"),
    "a float for a rank": (spoiled(largest=lambda self, f: (f.outputs / 2,)), r"largest is \(6.0,\), not positive"),
    "no ranks": (spoiled(largest=lambda self, f: None), "largest is None, not positive integers"),
    "no shapes": (spoiled(shapes=lambda self, f, r: None), "shapes at ranks .* are None, not a list"),
    "a number in place of a shape": (
        spoiled(shapes=lambda self, f, r: [f.outputs]),
        r"shapes .* are \[12\], not a list",
    ),
    "another rule": (spoiled(rank_rule="best"), "rank_rule is 'best'; allowed: useful, root, uniform, original"),
    "no pace": (spoiled(pace=lambda self, f: (0,)), r"pace is \(0,\), not positive numbers"),
    "half a rank": (spoiled(original=lambda self, f: (0.5,)), r"original is \(0.5,\), not positive integers"),
    "a float for axes": (spoiled(splits=lambda self, f, r: [1.0, 1]), r"splits are \[1.0, 1\] for cores of"),
    "too many axes": (spoiled(splits=lambda self, f, r: [1, 3]), r"splits are \[1, 3\] for cores of"),
    "a cut through no mode": (spoiled(cuts=lambda self, f: [((9,), (0,))]), r"cuts has \(9,\) and \(0,\) for 4 modes"),
    "a cut of no rank": (spoiled(cuts=lambda self, f: [((0,), (1,))]), r"cuts has .* for 4 modes and 1 ranks"),
    "work of less than nothing": (spoiled(work=lambda self, f, r: -1), "work at ranks .* is -1, not an integer >= 0"),
    "a rank of no use": (
        spoiled(largest=lambda self, f: (4, 4)),
        r"raising rank 1 of \(1, 1\) by one adds no parameters",
    ),
    "a sum": (spoiled(weight=lambda self, c, f: c[0] @ c[1] + 1), "the product of its factors is not its weight"),
    "a square": (
        made_whole(lambda self, c, f: (c[0] @ c[1]) ** 2),
        "not linear in core 0",
    ),
    "absolute values": (made_whole(lambda self, c, f: c[0].abs() @ c[1]), "not linear in core 0"),
    "a weight of zeros": (made_whole(lambda self, c, f: 0 * c[0] @ c[1]), "random cores make a weight of norm 0"),
    "no weight": (made_whole(lambda self, c, f: None), "its cores make a weight of None"),
    "a core that no gradient reaches": (
        made_whole(lambda self, c, f: c[0] @ c[1].detach()),
        "no gradient of its weight reaches core 1",
    ),
    "cores that it writes to": (made_whole(lambda self, c, f: c[0].mul_(1) @ c[1]), "RuntimeError: a leaf Variable"),
    "nothing that counts W": (
        spoiled(inner=lambda self, f, r: None, weight=lambda self, c, f: c[0] @ c[1]),
        "NotImplementedError: Spoiled has neither `inner` nor `weigh`",
    ),
    "another product": (
        spoiled(work=lambda self, f, r: 1, multiply=lambda self, x, c, f: x[..., :1].expand(*x.shape[:-1], f.outputs)),
        "multiply does not multiply by its weight",
    ),
    "no product": (spoiled(work=lambda self, f, r: 1), "NotImplementedError: Spoiled has a `work`, but no `multiply`"),
    "a start of zeros": (
        spoiled(start=lambda self, f, r: [torch.zeros(shape) for shape in self.shapes(f, r)]),
        "start makes a weight of norm 0",
    ),
    "a fit of other ranks": (
        spoiled(fit=lambda self, w, f, r: [w, torch.eye(f.inputs)]),
        r"fit makes cores of \[\(12, 8\), \(8, 8\)\], not of \[\(12, 1\), \(1, 8\)\]",
    ),
    "a fit of something else": (
        spoiled(fit=lambda self, w, f, r: [9 * torch.ones(shape) for shape in self.shapes(f, r)]),
        "fit makes a weight that is farther from the one given than zeros are",
    ),
    "an error": (spoiled(shapes=lambda self, f, r: [torch.ones(3).reshape(2)]), "RuntimeError: shape"),
    "what it has not": (Format(), "NotImplementedError: Format has no `largest`"),
    "blocks that divide nothing": (Monarch(blocks=11), "its `refusal` allows none of the weights .* 12 x 8"),
    "a class": (Started, "form=<class .*Started'>; allowed: an object of a class derived from lowrank.Format"),
    "a function": (lambda cores: cores, "form=<function .*; allowed: an object of a class"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_not_as_it_says_is_refused_in_one_line(wrong, nothing_registered):
    form, line = WRONG[wrong]
    with pytest.raises(InputError, match=f"^decomp='wrong'.*{line}") as refusal:
        lowrank.register("wrong", form)
    assert "\n" not in str(refusal.value)
    assert "wrong" not in DECOMPS


@pytest.mark.parametrize("decomp", ["dense", "separable", "tt", "ring"])
def test_names_of_lowranks_own_are_refused(decomp, nothing_registered):
    with pytest.raises(InputError, match=f"^decomp='{decomp}': lowrank has one of that name"):
        lowrank.register(decomp, Started())


@pytest.mark.parametrize("decomp", formats.FORMATS)
def test_lowranks_own_formats_pass_the_same_checks(decomp, nothing_registered):
    lowrank.register("twin", formats.FORMATS[decomp])
    assert "twin" in DECOMPS and len(CHECKED) > 3


def test_registering_draws_nothing_from_the_global_generator(nothing_registered):
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    lowrank.register("monarch", Monarch(blocks=4))
    assert torch.equal(torch.randn(3), expected)


def test_the_same_name_again_replaces_the_form(nothing_registered):
    for blocks in (2, 4):
        lowrank.register("monarch", Monarch(blocks))
        layer = DecomposedConv2d(nn.Conv2d(8, 8, 1), formats.solve("monarch", [formats.fold(8, 8, 3)], rank_scale=1)[0])
        assert layer.core_0.shape[0] == blocks
    assert list(DECOMPS).count("monarch") == 1


def test_a_layer_shows_the_name_of_its_form_as_text(nothing_registered):
    lowrank.register("<b>mine", Started())
    layer = lowrank.decompose(nn.Linear(12, 8), decomp="<b>mine", rank_scale=0.5)
    assert "&lt;b&gt;mine" in layer._repr_html_() and "<b>" not in layer._repr_html_()


# --- a process that does not know it


def test_what_a_process_does_not_know_is_named_as_ones_own(monarch, tmp_path):
    asked = {"decomp": "monarch", "budget": 0.5, "runs": str(tmp_path), "save_weights": True, **SMALL}
    record = lowrank.run(log=lambda line: None, **asked)
    start = lowrank.run(log=lambda line: None, **asked | {"decomp": "separable", "budget": 0.0})["run"]
    started = lowrank.run(log=lambda line: None, **asked | {"start": start, "epochs": 0})["run"]
    net = pickle.dumps(lowrank.load(record["run"], runs=tmp_path))
    del formats.FORMATS["monarch"]  # as in a fresh process
    table = lowrank.results(tmp_path)
    assert set(table.decomp) == {"monarch", "separable"} and "monarch" in explore.title(record)
    plots.accuracy_against_parameters(table)
    unknown, linear = "allowed: .*ring, or one of your own: lowrank.register", nn.Linear(8, 8)
    for ask, line in (
        (lambda: Config(decomp="monarch"), unknown),
        (lambda: lowrank.load(record["run"], runs=tmp_path), unknown),
        (lambda: lowrank.load(started, runs=tmp_path), "a format of your own that this process does not know"),
        (lambda: lowrank.status([{"decomp": "monarch"}]), unknown),
        (lambda: lowrank.decompose(linear, decomp="monarch", budget=0.5), unknown),
        (lambda: pickle.loads(net)(torch.zeros(1, 3, 32, 32)), "a format of your own that this process does not know"),
    ):
        with pytest.raises(InputError, match=f"^decomp='monarch'.*{line}") as refusal:
            ask()
        assert "\n" not in str(refusal.value)
