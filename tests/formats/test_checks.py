"""A format of one's own is checked as it is registered: what it says wrong is refused in one line, by its name."""

import pytest
import torch

import lowrank
from lowrank import Format, InputError, formats
from lowrank.config import DECOMPS
from lowrank.formats.checks import CHECKED

from .forms import Monarch, Started, made_whole, spoiled

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
        r"multiply of \(5, 8\) does not multiply by its weight",
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
        "fit makes a weight that is no nearer to the one given than zeros are",
    ),
    "a multiplication of images alone": (
        spoiled(
            multiply_work=lambda self, f, r: 1,
            multiply=lambda self, x, c, f: (x.flatten(0, 1) @ (c[0] @ c[1]).T).unflatten(0, x.shape[:2]),
        ),
        "RuntimeError: ",
    ),
    "a multiplication of what is contiguous alone": (
        spoiled(
            multiply_work=lambda self, f, r: 1,
            multiply=lambda self, x, c, f: (x.view(-1, f.inputs) @ (c[0] @ c[1]).T).view(*x.shape[:-1], -1),
        ),
        "RuntimeError: view size is not compatible",
    ),
    "a multiplication past a core": (
        spoiled(
            multiply_work=lambda self, f, r: 1,
            multiply=lambda self, x, c, f: x @ (c[0].detach() @ c[1]).T,
        ),
        "the gradients by multiply are not those by its weight",
    ),
    "a multiplication past its input": (
        spoiled(
            multiply_work=lambda self, f, r: 1,
            multiply=lambda self, x, c, f: x.detach() @ (c[0] @ c[1]).T,
        ),
        "the gradients by multiply are not those by its weight",
    ),
    "factors past a core": (
        spoiled(weight=lambda self, c, f: c[0] @ c[1], factors=lambda self, c, f: (c[0], c[1].detach())),
        "the gradients by its factors are not those by its weight",
    ),
    "modes that it does not look at, in its weight": (
        spoiled(uses_dims=False, weight=lambda self, c, f: len(f.modes) * c[0] @ c[1]),
        "uses_dims is False, but with 5 modes it is another",
    ),
    "modes that it does not look at, in its ranks": (
        spoiled(uses_dims=False, largest=lambda self, f: (len(f.modes),)),
        "uses_dims is False, but with 5 modes it is another",
    ),
    "a refusal that is no text": (spoiled(refusal=lambda self, f: True), "refusal is True, not a text"),
    "a fit of nearly zeros": (
        spoiled(fit=lambda self, w, f, r: [1e-6 * torch.ones(shape) for shape in self.shapes(f, r)]),
        "fit makes a weight that is no nearer to the one given than zeros are",
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


@pytest.mark.parametrize("decomp", formats.FORMATS)
def test_lowranks_own_formats_pass_the_same_checks(decomp, nothing_registered):
    lowrank.register("twin", formats.FORMATS[decomp])
    assert "twin" in DECOMPS and len(CHECKED) > 3


@pytest.mark.parametrize("blocks", [1, 64])
def test_a_format_may_be_for_some_sizes_only(blocks, nothing_registered):
    lowrank.register("monarch", Monarch(blocks))


def test_a_weight_that_is_transposed_where_it_is_square_is_refused(nothing_registered):
    turned = made_whole(lambda self, c, f: (c[0] @ c[1]).T if f.outputs == f.inputs else c[0] @ c[1])
    multiply = {"multiply_work": lambda self, f, r: 1, "multiply": lambda self, x, c, f: x @ (c[0] @ c[1]).T}
    with pytest.raises(InputError, match="for a weight of 9 x 9.*multiply of .* does not multiply by its weight"):
        lowrank.register("turned", type("Turned", (type(turned),), multiply)())
