"""Cores as the experiments of 2019 started them: tntorch's decomposition of a random dense weight (init="decompose").

Truncated SVD, TT-SVD (Oseledets 2011), HOSVD (De Lathauwer 2000), CP by ten steps of alternating least squares. What
trained weights are fitted by is in formats/fits.py and formats/als.py. A tensor is the folded weight [n1, ..., n[d]].
"""

from __future__ import annotations

from collections.abc import Sequence

import tntorch
import torch
from torch import Tensor

from .formats import Layout

ALS_STEPS = 10


def decompose_draw(weight: Tensor, layout: Layout) -> list[Tensor] | None:
    """Cores of a random weight [O, I]; None for rings and formats of one's own, which tntorch does not know."""
    tensor, ranks, shapes = weight.reshape(layout.folding.modes), layout.ranks, layout.shapes
    if layout.decomp == "bottleneck":
        return start_bottleneck(weight, ranks[0])
    if layout.decomp == "cp":
        return start_cp(tensor, ranks[0])
    fits = {"tt": start_tt, "tucker": start_tucker, "tucker_tt": start_tucker_tt}
    return fits[layout.decomp](tensor, ranks, shapes) if layout.decomp in fits else None


def start_bottleneck(weight: Tensor, rank: int) -> list[Tensor]:
    """L [O, r] and R [r, I], the best of their rank."""
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    return [left[:, :rank] * values[:rank].sqrt(), values[:rank, None].sqrt() * right[:rank]]


def start_tt(tensor: Tensor, ranks: Sequence[int], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    return padded(tntorch.Tensor(tensor, ranks_tt=list(ranks)).cores, shapes)


def start_tucker(tensor: Tensor, ranks: Sequence[int], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    tucker = tntorch.Tensor(tensor, ranks_tucker=list(ranks))
    core = torch.zeros(shapes[0])
    core[tuple(slice(size) for size in tucker.tucker_core().shape)] = tucker.tucker_core()
    return [core, *padded(tucker.Us, shapes[1:])]


def start_tucker_tt(tensor: Tensor, ranks: Sequence[int], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    dims = tensor.dim()
    fitted = tntorch.Tensor(tensor, ranks_tucker=list(ranks[:dims]), ranks_tt=list(ranks[dims:]))
    return padded([*fitted.Us, *fitted.cores], shapes)


def start_cp(tensor: Tensor, rank: int) -> list[Tensor]:
    cores = [core.contiguous() for core in tntorch.Tensor(tensor, ranks_cp=rank, max_iter=ALS_STEPS).cores]
    unused = torch.stack([core.norm(dim=0) for core in cores]).amin(0) == 0  # columns that the weight does not need
    for core in cores[:-1]:  # as in `padded`: noise, which the zeros of the last core meet
        core[:, unused] = core.square().mean().sqrt() * torch.randn(core.shape)[:, unused]
    cores[-1][:, unused] = 0
    return cores


def padded(cores: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Cores that came back with smaller ranks, filled up so that W stays and gradients reach what is new.

    Along its last axis a core is filled with noise, which the zeros of its neighbour meet.
    """
    full = []
    for core, shape in zip(cores, shapes, strict=True):
        own = tuple(slice(size) for size in core.shape)
        larger = torch.zeros(shape)
        larger[own[:-1]] = torch.randn(shape)[own[:-1]] * core.square().mean().sqrt()
        larger[own] = core
        full.append(larger)
    return full
