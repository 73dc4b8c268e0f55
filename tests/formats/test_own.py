"""A format of one's own: known by its name, with runs of its own, in networks that keep it."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import lowrank
from lowrank import InputError, formats
from lowrank.config import DECOMPS, Config
from lowrank.formats.checks import check_copy
from lowrank.layers import DecomposedConv2d
from lowrank.sweeps.plan import count_form

from .forms import Monarch, Started, made_whole, spoiled


@pytest.mark.parametrize("decomp", ["dense", "separable", "tt", "ring"])
def test_names_of_lowranks_own_are_refused(decomp, nothing_registered):
    with pytest.raises(InputError, match=f"^decomp='{decomp}': lowrank has one of that name"):
        lowrank.register(decomp, Started())


def test_registering_draws_nothing_from_the_global_generator(nothing_registered):
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    lowrank.register("monarch", Monarch(blocks=4))
    assert torch.equal(torch.randn(3), expected)


def test_a_copy_for_a_worker_is_tried_without_a_draw_from_the_global_generator():
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    check_copy("monarch", Monarch(blocks=4))
    assert torch.equal(torch.randn(3), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_what_the_caller_has_set_torch_to_refuses_no_format(dtype, nothing_registered):
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        lowrank.register("monarch", Monarch(2))
    try:
        torch.set_default_dtype(dtype)
        with torch.device("meta"):
            lowrank.register("monarch", Monarch(2))
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_tensor_without_numbers_tells_nothing_apart(nothing_registered):
    form = Monarch(2)
    form.held = [torch.eye(3).to_sparse(), torch.empty(3, device="meta")]
    lowrank.register("monarch", form)
    assert Config(decomp="monarch", rank_scale=1.0).run_id("pixels")


def test_the_same_name_again_replaces_the_form(nothing_registered):
    runs = set()
    for blocks in (2, 4):
        lowrank.register("monarch", Monarch(blocks))
        runs.add(Config(decomp="monarch", rank_scale=1.0).run_id("pixels"))
        layer = DecomposedConv2d(nn.Conv2d(8, 8, 1), formats.solve("monarch", [formats.fold(8, 8, 3)], rank_scale=1)[0])
        assert layer.core_0.shape[0] == blocks
    assert list(DECOMPS).count("monarch") == 1 and len(runs) == 2


def test_a_layer_shows_the_name_of_its_form_as_text(nothing_registered):
    lowrank.register("<b>mine", Started())
    layer = lowrank.decompose(nn.Linear(12, 8), decomp="<b>mine", rank_scale=0.5)
    assert "&lt;b&gt;mine" in layer._repr_html_() and "<b>" not in layer._repr_html_()


SIZES = [(2, 4), (4, 2), (2, (4,)), {"left": 2}, {"left": 4}]
SIZES += [np.int64(3), np.int64(4), np.array([1, 2]), np.array([2, 1]), torch.tensor([0.5, 1]), torch.tensor([1, 0.5])]
SIZES += [Monarch(2), Monarch(4), Started(), [Started(), Monarch(2)]]


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


CHANGES = {
    "a cache": ({}, lambda self, f: self.kept.setdefault(f.outputs, 1)),
    "a counter": (0, lambda self, f: setattr(self, "kept", self.kept + 1)),
    "the last size": (None, lambda self, f: setattr(self, "kept", f.inputs)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_form_that_changes_as_it_is_used_is_refused(change, nothing_registered):
    kept, how = CHANGES[change]
    form = spoiled(weight=lambda self, c, f: how(self, f) and None or c[0] @ c[1])
    form.kept = kept
    with pytest.raises(InputError, match="^decomp='changing': it changes its `kept` as it is used"):
        lowrank.register("changing", form)


def test_the_rule_of_2019_is_for_formats_that_have_one(nothing_registered):
    looks = type("Looks", (Started,), {"uses_dims": True})()
    lowrank.register("looks", looks)
    line = "^rank_rule='original': looks has no ranks of 2019; allowed: auto, useful, root, uniform$"
    with pytest.raises(InputError, match=line):
        lowrank.decompose(nn.Linear(12, 8), decomp="looks", dims=3, rank_scale=0.5, rank_rule="original")
    with pytest.raises(InputError, match=line):
        lowrank.build(Config(decomp="looks", rank_scale=0.5, rank_rule="original", width=3), 10)


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


def test_a_format_of_the_same_name_is_counted_anew(nothing_registered):
    asked = {"decomp": "monarch", "budget": 0.5, "width": 4}
    lowrank.register("monarch", Monarch(2))
    assert count_form(Config.of(asked))["parameters"]
    lowrank.register("monarch", Monarch(12))
    with pytest.raises(InputError, match="blocks=12 does not divide"):
        count_form(Config.of(asked))
