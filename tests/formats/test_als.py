"""Alternating least squares: sweeps report the error that they leave, and find what an SVD does where there is one."""

from itertools import pairwise

import pytest
import torch
from small import fall

from lowrank.formats import Layout, fold
from lowrank.formats.als import Columns, Links, alternate, fit_cp, sweep_cores

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("kind, decomp, ranks", [(Columns(), "cp", (9,)), (Links(), "ring", (2, 3, 4, 2))])
def test_a_sweep_reports_the_error_of_the_cores_that_it_leaves(kind, decomp, ranks):
    layout = Layout(decomp, fold(48, 40, 4), ranks)
    weight = fall(48, 40, dtype=torch.float64)
    weight /= weight.norm()
    cores = [torch.randn(shape, dtype=torch.float64) for shape in layout.shapes]
    if decomp == "ring":  # held with their modes first
        cores = [core.transpose(0, 1) for core in cores]
    for _ in range(3):
        told = sweep_cores(weight, cores, 2, kind)
    made = layout.weight([core.transpose(0, 1) for core in cores] if decomp == "ring" else cores)
    assert told == pytest.approx((made - weight).square().sum().item(), abs=1e-9)


@pytest.mark.parametrize("kind, decomp, ranks", [(Columns(), "cp", (9,)), (Links(), "ring", (2, 3, 4, 2))])
def test_the_last_core_of_a_sweep_is_the_best_that_the_others_allow(kind, decomp, ranks):
    """By the gradient of the squared error, which vanishes there."""
    layout, weight = Layout(decomp, fold(48, 40, 4), ranks), fall(48, 40, dtype=torch.float64)
    cores = [torch.randn(shape, dtype=torch.float64) for shape in layout.shapes]
    held = [core.transpose(0, 1) for core in cores] if decomp == "ring" else cores
    sweep_cores(weight, held, 2, kind)
    last = held[-1].clone().requires_grad_()
    ends = [*held[:-1], last]
    made = layout.weight([core.transpose(0, 1) for core in ends] if decomp == "ring" else ends)
    (gradient,) = torch.autograd.grad((made - weight).square().sum(), [last])
    assert gradient.abs().max() < 1e-4 * weight.square().sum()


@pytest.mark.parametrize("kind, decomp, ranks", [(Columns(), "cp", (9,)), (Links(), "ring", (2, 3, 4, 2))])
def test_more_sweeps_come_no_less_near(kind, decomp, ranks):
    """Though each starts beyond where the last one ended."""
    layout, weight = Layout(decomp, fold(48, 40, 4), ranks), fall(48, 40)
    weight /= weight.norm()
    start = [torch.randn(shape) for shape in layout.shapes]
    start = [core.transpose(0, 1) for core in start] if decomp == "ring" else start
    errors = []
    for sweeps in (1, 2, 5, 10, 20, 40):
        cores = alternate(weight, list(start), 2, kind, sweeps)
        made = layout.weight([core.transpose(0, 1) for core in cores] if decomp == "ring" else cores)
        errors.append((made - weight).norm().item())
    assert all(after <= before + 1e-5 for before, after in pairwise(errors)) and errors[-1] < errors[0] - 0.01


def test_a_tensor_of_three_terms_is_found_again():
    factors = [torch.randn(mode, 3, dtype=torch.float64) for mode in (8, 9, 10)]
    tensor = torch.einsum("ar,br,cr->abc", *factors)
    found = torch.einsum("ar,br,cr->abc", *fit_cp(tensor, (3,)))
    assert (found - tensor).norm() < 1e-4 * tensor.norm()
