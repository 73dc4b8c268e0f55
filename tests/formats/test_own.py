"""A format of one's own is checked as it is registered: what it says wrong is refused in one line, by its name."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import lowrank
from lowrank import Format, InputError, formats
from lowrank.config import DECOMPS, Config
from lowrank.formats.own import CHECKED
from lowrank.layers import DecomposedConv2d

from .forms import Monarch, Started


def spoiled(**methods):
    return type("Spoiled", (Started,), methods)()


def made_whole(weight):
    return spoiled(inner=lambda self, f, r: None, weight_work=lambda self, f, r: 1, weight=weight)


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
    "a count of floats": (
        spoiled(factors_work=lambda self, f, r: f.outputs / 2),
        "factors_work at ranks .* is 6.0, not an integer",
    ),
    "a share of the weight": (
        spoiled(weight_work=lambda self, f, r: None),
        "weight_work at ranks .* is None, not an integer",
    ),
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
    "a cut through no mode": (spoiled(cuts=lambda self, f: [((9,), (0,))]), r"cuts has \(9,\) for rows; .* of 4 modes"),
    "a cut with nothing left": (spoiled(cuts=lambda self, f: [((), (0,))]), r"cuts has \(\) for rows; .* of 4 modes"),
    "a cut with nothing right": (
        spoiled(cuts=lambda self, f: [(range(len(f.modes)), (0,))]),
        r"cuts has range\(0, 4\) for rows; allowed: some of 4 modes, by number, not all",
    ),
    "a cut twice through a mode": (spoiled(cuts=lambda self, f: [((0, 0), (0,))]), r"cuts has \(0, 0\) for rows"),
    "a cut that no rank bounds": (spoiled(cuts=lambda self, f: [((0,), ())]), r"cuts has \(\) for ranks; .* 1 ranks"),
    "a cut that its rank does not bound": (
        spoiled(cuts=lambda self, f: [((0, 2), (0,))]),
        r"ranks \(0,\) of \(1,\) bound the rank over modes \(0, 2\): it is [2-9]",
    ),
    "cuts that are a number": (spoiled(cuts=lambda self, f: 1), "TypeError: 'int' object is not iterable"),
    "a cut of no rank": (spoiled(cuts=lambda self, f: [((0,), (1,))]), r"cuts has \(1,\) for ranks; .* 1 ranks"),
    "work of less than nothing": (
        spoiled(multiply_work=lambda self, f, r: -1),
        "work at ranks .* is -1, not an integer >= 0",
    ),
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
    "no weight": (made_whole(lambda self, c, f: None), "its cores make a weight of <class 'NoneType'>"),
    "a weight of numpy": (
        made_whole(lambda self, c, f: (c[0] @ c[1]).detach().numpy()),
        "its cores make a weight of <class 'numpy.ndarray'>$",
    ),
    "no cores": (spoiled(shapes=lambda self, f, r: []), r"shapes at ranks .* are \[\], not a list"),
    "ranks without end": (
        spoiled(largest=lambda self, f: (10**9,)),
        "at ranks .* it has 10,000,000,000 parameters; none are of use over 960, 10 times the weight's",
    ),
    "a core that no gradient reaches": (
        made_whole(lambda self, c, f: c[0] @ c[1].detach()),
        "no gradient of its weight reaches core 1",
    ),
    "half a gradient": (
        made_whole(lambda self, c, f: (c[0] + c[0].detach()) @ c[1]),
        "only a part of its weight's gradient reaches core 0",
    ),
    "cores that it writes to": (made_whole(lambda self, c, f: c[0].mul_(1) @ c[1]), "RuntimeError: a leaf Variable"),
    "nothing that counts W": (
        spoiled(inner=lambda self, f, r: None, weight=lambda self, c, f: c[0] @ c[1]),
        "NotImplementedError: Spoiled has neither `inner` nor `weight_work`",
    ),
    "another product": (
        spoiled(
            multiply_work=lambda self, f, r: 1,
            multiply=lambda self, x, c, f: x[..., :1].expand(*x.shape[:-1], f.outputs),
        ),
        "multiply does not multiply by its weight",
    ),
    "a product that writes to its input": (
        spoiled(
            multiply_work=lambda self, f, r: 1,
            multiply=lambda self, x, c, f: 2 * x.mul_(0.5) @ (c[0] @ c[1]).T,
        ),
        "multiply writes to what it multiplies",
    ),
    "no product": (
        spoiled(multiply_work=lambda self, f, r: 1),
        "NotImplementedError: Spoiled has `multiply_work`, but no `multiply`",
    ),
    "a start of zeros": (
        spoiled(start=lambda self, f, r: [torch.zeros(shape) for shape in self.shapes(f, r)]),
        "start makes a weight of norm 0",
    ),
    "a fit of other ranks": (
        spoiled(fit=lambda self, w, f, r: [w, torch.eye(f.inputs)]),
        r"fit makes cores of \[\(12, 8\), \(8, 8\)\], not of \[\(12, 1\), \(1, 8\)\]",
    ),
    "a fit that writes to its weight": (
        spoiled(fit=lambda self, w, f, r: [w.mul_(0.5)[:, : r[0]].clone(), torch.eye(f.inputs)[: r[0]]]),
        "fit writes to the weight that it is given",
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
    runs = set()
    for blocks in (2, 4):
        lowrank.register("monarch", Monarch(blocks))
        runs.add(Config(decomp="monarch", rank_scale=1.0).run_id("pixels"))
        layer = DecomposedConv2d(nn.Conv2d(8, 8, 1), formats.solve("monarch", [formats.fold(8, 8, 3)], rank_scale=1)[0])
        assert layer.core_0.shape[0] == blocks
    assert list(DECOMPS).count("monarch") == 1 and len(runs) == 2


@pytest.mark.parametrize("blocks", [1, 64])
def test_a_format_may_be_for_some_sizes_only(blocks, nothing_registered):
    lowrank.register("monarch", Monarch(blocks))


def test_a_weight_that_is_transposed_where_it_is_square_is_refused(nothing_registered):
    turned = made_whole(lambda self, c, f: (c[0] @ c[1]).T if f.outputs == f.inputs else c[0] @ c[1])
    multiply = {"multiply_work": lambda self, f, r: 1, "multiply": lambda self, x, c, f: x @ (c[0] @ c[1]).T}
    with pytest.raises(InputError, match="for a weight of 9 x 9.*multiply does not multiply by its weight"):
        lowrank.register("turned", type("Turned", (type(turned),), multiply)())


def test_a_layer_shows_the_name_of_its_form_as_text(nothing_registered):
    lowrank.register("<b>mine", Started())
    layer = lowrank.decompose(nn.Linear(12, 8), decomp="<b>mine", rank_scale=0.5)
    assert "&lt;b&gt;mine" in layer._repr_html_() and "<b>" not in layer._repr_html_()


SIZES = [(2, 4), (4, 2), (2, (4,)), {"left": 2}, {"left": 4}]
SIZES += [np.int64(3), np.int64(4), np.array([1, 2]), np.array([2, 1])]


def test_formats_of_one_name_made_with_other_sizes_have_other_runs(nothing_registered):
    def run_with(sizes):
        form = Monarch(blocks=2)
        form.sizes = sizes
        lowrank.register("monarch", form)
        return Config(decomp="monarch", rank_scale=1.0).run_id("pixels")

    runs = [run_with(sizes) for sizes in SIZES]
    assert len(set(runs)) == len(SIZES) and [run_with(sizes) for sizes in SIZES] == runs


def test_networks_keep_their_form_when_its_name_is_given_to_another(nothing_registered):
    lowrank.register("monarch", Monarch(blocks=4))
    layer = lowrank.decompose(nn.Linear(64, 32), decomp="monarch", budget=0.5)
    x = torch.randn(5, 64)
    y = layer(x)
    lowrank.register("monarch", Monarch(blocks=2))
    kept = [layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), lowrank.densify(layer)]
    for each in kept:
        assert torch.allclose(each(x), y, atol=1e-6)
    assert lowrank.decompose(nn.Linear(64, 32), decomp="monarch", budget=0.5).core_0.shape[0] == 2


def unless_checked(right, wrong):
    """A method that does as another on the weights that a format is checked on, and wrong on larger ones."""
    return lambda self, *given: wrong(*given) if max(given[-1].outputs, given[-1].inputs) > 200 else right(*given)


LATE = {
    "a transposed weight": (
        made_whole(unless_checked(lambda c, f: c[0] @ c[1], lambda c, f: (c[0] @ c[1]).T)),
        "its cores make a weight of 300 x 256, not 256 x 300",
    ),
    "transposed factors": (
        spoiled(
            weight=lambda self, c, f: c[0] @ c[1],
            factors=unless_checked(lambda c, f: c, lambda c, f: (c[1].T, c[0].T)),
        ),
        "its cores make a left factor of 300 x [0-9]+, not 256 x [0-9]+",
    ),
    "a product of another size": (
        spoiled(
            multiply_work=lambda self, f, r: 1,
            multiply=unless_checked(lambda x, c, f: x @ (c[0] @ c[1]).T, lambda x, c, f: x),
        ),
        "its cores make a product of 5 x 300, not 5 x 256",
    ),
}


@pytest.mark.parametrize("init", ["weights", "random"])
@pytest.mark.parametrize("late", LATE)
def test_another_shape_on_a_larger_weight_is_named(late, init, nothing_registered):
    form, line = LATE[late]
    contraction = "cores" if "product" in line else "auto"
    lowrank.register("late", form)
    with pytest.raises(InputError, match=f"^decomp='late', for a weight of 256 x 300: {line}$"):
        lowrank.decompose(nn.Linear(300, 256), decomp="late", budget=0.1, init=init, contraction=contraction)(
            torch.randn(5, 300)
        )
