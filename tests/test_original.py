"""Cores as the experiments of 2019 started them: the decomposition of a dense draw."""

from math import sqrt

import numpy as np
import pytest
import torch
from torch import nn

from lowrank import decompose
from lowrank.formats import FORMATS, Layout, fold
from lowrank.original import decompose_draw

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("decomp", ["bottleneck", "tt", "tucker", "tucker_tt"])
def test_a_decomposed_draw_loses_spread_that_rescaling_restores(decomp):
    plain = nn.Linear(64, 64)
    target = plain.weight.square().mean().sqrt().item()
    for init, rescaled in (("decompose", False), ("decompose_rescaled", True)):
        layer = decompose(plain, decomp=decomp, budget=0.2, init=init)
        kept = layer.weight.square().mean().sqrt().item() / target
        assert kept == pytest.approx(1 if rescaled else sqrt(1 - layer.error**2), rel=0.1 if not rescaled else 1e-4)


@pytest.mark.parametrize("decomp", ["tt", "tucker", "tucker_tt"])
def test_a_draw_at_full_ranks_is_that_draw(decomp):
    weight, folding = torch.randn(24, 20), fold(24, 20, 3)
    layout = Layout(decomp, folding, FORMATS[decomp].largest(folding))
    torch.testing.assert_close(layout.weight(decompose_draw(weight, layout)), weight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("decomp", ["bottleneck", "tt"])
@pytest.mark.parametrize("rank", [1, 5, 12])
def test_one_cut_is_the_best_matrix_of_its_rank(decomp, rank):
    weight, layout = torch.randn(24, 20), Layout(decomp, fold(24, 20, 2), (rank,))
    error = torch.linalg.norm(layout.weight(decompose_draw(weight, layout)) - weight).item()
    assert error == pytest.approx(np.linalg.norm(np.linalg.svd(weight.numpy(), compute_uv=False)[rank:]), rel=1e-4)


@pytest.mark.parametrize(
    ("decomp", "ranks"), [("tt", (8, 20)), ("tucker", (2, 2, 9)), ("tucker_tt", (2, 2, 9, 3, 4)), ("cp", (4,))]
)
def test_ranks_that_the_draw_does_not_need_change_nothing_and_learn(decomp, ranks):
    """tntorch cuts them; what is filled up changes no weight and has gradients."""
    layout = Layout(decomp, fold(24, 20, 3), ranks)
    weight = torch.einsum("a,b,c->abc", *map(torch.randn, layout.folding.modes)).reshape(24, 20)
    cores = [core.requires_grad_() for core in decompose_draw(weight, layout)]
    assert [tuple(core.shape) for core in cores] == layout.shapes
    made = layout.weight(cores)
    torch.testing.assert_close(made, weight, rtol=1e-3, atol=1e-3)
    gradients = torch.autograd.grad((made * torch.randn(24, 20)).sum(), cores)
    assert all(((core != 0) | (own != 0)).all() for core, own in zip(cores, gradients, strict=True))


def test_a_ring_which_2019_could_not_draw_so_is_left_to_another_fit():
    assert decompose_draw(torch.randn(24, 20), Layout("ring", fold(24, 20, 3), (2, 2, 2))) is None
