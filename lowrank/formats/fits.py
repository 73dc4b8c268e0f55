"""The cores that come nearest to a weight, by thin SVDs: bottleneck, tensor train, Tucker. CP and ring: `als`.

Every `fit` takes the weight as a tensor of its modes (a matrix, for a bottleneck) and the ranks, and returns cores of
exactly the shapes that the format has at those ranks, in the precision of the tensor. Ranks above what the weight
needs are filled up with random numbers from torch's global generator: W stays, and gradients reach every parameter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

HOOI_SWEEPS = 2  # over all modes; more lower a Tucker error by less than 0.1%


def widen(weight: Tensor) -> Tensor:
    """A weight as it is fitted: on the CPU, in float64 if that is what it has, otherwise in float32."""
    return weight.detach().to("cpu", torch.float64 if weight.dtype == torch.float64 else torch.float32)


def leading(matrix: Tensor, rank: int) -> Tensor:
    """The leading left singular vectors of a matrix [a, b], orthonormal: [a, min(rank, a, b)].

    From the eigenvectors of the smaller Gram matrix, in float64: thin, and as good as an SVD in float32.
    """
    rows, columns = matrix.shape
    small = (matrix if rows <= columns else matrix.T).double()
    vectors = torch.linalg.eigh(small @ small.T).eigenvectors.flip(1)[:, :rank].to(matrix.dtype)
    return vectors if rows <= columns else torch.linalg.qr(matrix @ vectors).Q


def pad(cores: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Cores of smaller ranks, filled up so that W stays and gradients reach what is new.

    What is new along the last axis of a core is noise, which the zeros of its neighbour meet.
    """
    full = []
    for core, shape in zip(cores, shapes, strict=True):
        larger = core.new_zeros(shape)
        if core.shape[-1] < shape[-1]:
            noise = torch.randn_like(larger[..., core.shape[-1] :])
            larger[..., core.shape[-1] :] = noise * core.square().mean().sqrt()
        larger[tuple(map(slice, core.shape))] = core
        full.append(larger)
    return full


def fit_bottleneck(matrix: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    """The best matrix of rank r (Eckart & Young 1936), the singular values shared: [O, r] and [r, I]."""
    left = leading(matrix, ranks[0])  # [O, r]
    right = left.T @ matrix  # [r, I]
    roots = right.norm(dim=1).sqrt()
    right = right / roots.clamp_min(torch.finfo(roots.dtype).tiny)[:, None]
    return pad([left * roots, right], [(len(matrix), ranks[0]), (ranks[0], matrix.shape[1])])


def fit_tt(tensor: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    """TT-SVD (Oseledets 2011): cores [r[k-1], n[k], r[k]], split off at both ends, always where it takes less work."""
    modes, bonds = tensor.shape, [1, *ranks, 1]
    cores: list[Tensor] = [tensor] * len(modes)
    first, last, before, after = 0, len(modes) - 1, 1, 1  # the modes that are left, the ranks at their two ends
    while first < last:
        if before * modes[first] <= modes[last] * after:
            matrix = tensor.reshape(before * modes[first], -1)
            basis = leading(matrix, bonds[first + 1])
            cores[first] = basis.reshape(before, modes[first], -1)
            tensor, first, before = basis.T @ matrix, first + 1, basis.shape[1]
        else:
            matrix = tensor.reshape(-1, modes[last] * after)
            basis = leading(matrix.T, bonds[last])
            cores[last] = basis.T.reshape(-1, modes[last], after)
            tensor, last, after = matrix @ basis, last - 1, basis.shape[1]
    cores[first] = tensor.reshape(before, modes[first], after)
    return pad(cores, list(zip(bonds, modes, bonds[1:], strict=False)))


def unfold(tensor: Tensor, axis: int) -> Tensor:
    """One mode as rows, all others as columns."""
    return tensor.movedim(axis, 0).flatten(1)


def project(tensor: Tensor, factors: Sequence[Tensor | None]) -> Tensor:
    """Mode products with the transposes of [n[k], t[k]]; None leaves a mode."""
    for axis, factor in enumerate(factors):
        if factor is not None:
            tensor = torch.tensordot(tensor, factor, ([axis], [0])).movedim(-1, axis)
    return tensor


def fit_subspaces(tensor: Tensor, ranks: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """A core and orthonormal factors [n[k], <= t[k]]: sequential HOSVD (Vannieuwenhoven 2012), then HOOI sweeps."""
    factors, core = [], tensor
    for axis, rank in enumerate(ranks):
        factors.append(leading(unfold(core, axis), rank))
        core = project(core, [None] * axis + factors[axis:])
    for _ in range(HOOI_SWEEPS):  # De Lathauwer, De Moor & Vandewalle 2000
        for axis, rank in enumerate(ranks):
            others = project(tensor, [factor if k != axis else None for k, factor in enumerate(factors)])
            factors[axis] = leading(unfold(others, axis), rank)
    return project(tensor, factors), factors


def fit_tucker(tensor: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    """A core t[1] x ... x t[d], then a factor [n[k], t[k]] for every mode."""
    core, factors = fit_subspaces(tensor, ranks)
    larger = core.new_zeros(tuple(ranks))  # what is new of it meets noise in every factor
    larger[tuple(map(slice, core.shape))] = core
    return [larger, *pad(factors, list(zip(tensor.shape, ranks, strict=True)))]


def fit_tucker_tt(tensor: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    """Factors [n[k], t[k]], then the core as a tensor train [r[k-1], t[k], r[k]]."""
    dims = tensor.dim()
    bonds = (1, *ranks[dims:], 1)
    core, factors = fit_subspaces(tensor, ranks[:dims])
    shapes = [*zip(tensor.shape, ranks, strict=False), *zip(bonds, ranks[:dims], bonds[1:], strict=False)]
    return pad([*factors, *fit_tt(core, ranks[dims:])], shapes)
