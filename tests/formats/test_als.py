"""Alternating least squares: sweeps report the error that they leave, and find what an SVD does where there is one."""

import pytest
import torch
from small import fall

from lowrank.formats import Layout, fold
from lowrank.formats.als import Columns, Links, sweep_cores

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
