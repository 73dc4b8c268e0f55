"""Alternating least squares, for the two formats that no SVD gives: CP (a sum of rank-one tensors) and tensor rings.

The modes are parted in two sides. As W [N, M] = L [N, q] @ R [M, q].T, one product of W with R serves all cores of the
left side, and one with L all those of the right: two large products a sweep, however many modes there are. Each core
is then the solution of its normal equations (Kolda & Bader 2009 for CP, Zhao et al. 2016 for rings). A sweep starts
from a point that goes on in the direction of the last one, or again from the best cores, if that was too far (Mitchell,
Ye & De Sterck 2020, "Nesterov acceleration of alternating least squares"): 20 such sweeps are worth 60 plain ones.

Shapes below: N the elements of a side, n those of the mode that is solved for, p and q those before and after it in its
side; t and e the ranks at the start and at the end of that side, r and s those of the core.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt, prod

import torch
from torch import Tensor

from .fits import leading, unfold

WORK = 7_500  # multiply-adds a weight that the sweeps of a layer may take: about 0.6 s of one core a million weights
FREE = 4.5e9  # multiply-adds that they may take however small the layer: 0.4 s
FULL_SWEEPS = 12  # sweeps of the whole weight; if fewer are allowed, some of a short one come first
SHORT = 2 / 3  # of the multiply-adds, for those
SWEEPS = 2, 200  # at least and at most, whatever they take
KEPT = 0.9  # of the energy, in the part of the longest mode that the first sweeps see; at most half of its length
SETTLED = 1e-5  # relative change of the squared error in a sweep that ends them
EXACT = 1e-10  # squared error, relative to the weight, that ends them
PUSH = 0.3  # by which a sweep goes further in the direction of the last than the one before it did, up to 1
MANY = 9  # cores of a ring: the squares of longer ones take float64, and a start of norm 1
IMPOSSIBLE = -1e-3  # squared error, relative to the weight, that rounding alone does not make
PROXIMAL = 1e-6  # of the normal equations' mean diagonal: keeps them solvable, and a core if nothing pulls at it


def khatri_rao(factors: Sequence[Tensor]) -> Tensor:
    """Columns of [n[k], R] multiplied as Kronecker products: [n1 ... n[k], R]."""
    product = factors[0]  # [n1, R]
    for factor in factors[1:]:
        product = (product[:, None] * factor).flatten(0, 1)  # [n1 ... n[k], R]
    return product


class Columns:
    """What a sweep needs to know of CP, whose cores are [n, R]."""

    CUBIC = 1 / 3  # multiply-adds of one core's equations, times the third power of their number: their solution

    join = staticmethod(khatri_rao)  # the matrix of a side, [N, R]

    def square(self, cores: Sequence[Tensor]) -> Tensor:
        """The products of a side's columns with each other, [R, R]."""
        return torch.stack([core.T @ core for core in cores]).prod(0)

    def target(self, product: Tensor, before: Sequence[Tensor], core: Tensor, after: Sequence[Tensor]) -> Tensor:
        """W times all cores but one, [n, R], from W times the other side, [N, R]."""
        if before:
            left = self.join(before)  # [p, R]
            product = (product.unflatten(0, (len(left), -1)) * left[:, None]).sum(0)  # [n q, R]
        if after:
            right = self.join(after)  # [q, R]
            product = (product.unflatten(0, (-1, len(right))) * right).sum(1)  # [n, R]
        return product

    def normal(self, other: Tensor, before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
        """The square of all cores but one, [R, R], from the other side's."""
        return other * self.square([*before, *after]) if before or after else other


class Links:
    """What a sweep needs to know of a ring, whose cores are held as [n, r, s]."""

    CUBIC = 2  # multiply-adds of one core's equations, times the third power of their number: to set them up, above all

    def chain(self, cores: Sequence[Tensor]) -> Tensor:
        """Neighbours contracted: [N, t, e]."""
        product = cores[0]
        for core in cores[1:]:
            elements, start, link = product.shape
            product = product.reshape(-1, link) @ core.transpose(0, 1).flatten(1)  # [N t, n s]
            product = product.reshape(elements, start, len(core), -1).transpose(1, 2).flatten(0, 1)  # [N n, t, s]
        return product

    def join(self, cores: Sequence[Tensor]) -> Tensor:
        """The matrix of a side, [N, t e]."""
        return self.chain(cores).flatten(1)

    def square(self, cores: Sequence[Tensor]) -> Tensor:
        """The products of a side's columns with each other, [t t', e e']."""
        squares = []
        for core in cores:
            flat = core.flatten(1)  # [n, r s]
            links = (flat.T @ flat).reshape(2 * core.shape[1:]).transpose(1, 2)  # [r, r', s, s']
            squares.append(links.flatten(2).flatten(0, 1))  # [r r', s s']
        return torch.linalg.multi_dot(squares) if len(squares) > 1 else squares[0]

    def target(self, product: Tensor, before: Sequence[Tensor], core: Tensor, after: Sequence[Tensor]) -> Tensor:
        """W times all cores but one, [n, r, s], from W times the other side, [N, e t]."""
        start = before[0].shape[1] if before else core.shape[1]
        product = product.unflatten(1, (-1, start))  # [N, e, t]
        if before:
            left = self.chain(before)  # [p, t, r]
            product = product.unflatten(0, (len(left), -1)).permute(1, 2, 0, 3).flatten(2)  # [n q, e, p t]
            product = product @ left.flatten(0, 1)  # [n q, e, r]
        if after:
            right = self.chain(after)  # [q, s, e]
            product = product.unflatten(0, (-1, len(right))).transpose(1, 3).flatten(2)  # [n, r, e q]
            return product @ right.permute(2, 0, 1).flatten(0, 1)  # [n, r, s]
        return product.transpose(1, 2)  # [n, r, s = e]

    def normal(self, other: Tensor, before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
        """The square of all cores but one, [r s, r' s'], from the other side's, [e e', t t']."""
        ring = self.square(after) @ other if after else other  # [s s', t t']
        ring = ring @ self.square(before) if before else ring  # [s s', r r']
        s, r = map(isqrt, ring.shape)
        return ring.reshape(s, s, r, r).permute(2, 0, 3, 1).reshape(r * s, r * s)


def solve_core(target: Tensor, normal: Tensor, core: Tensor) -> Tensor:
    """The core nearest to the weight, all others given; in directions where they say nothing it stays as it is."""
    pull = (PROXIMAL * normal.diagonal().mean()).clamp_min(torch.finfo(core.dtype).tiny)
    failed = True
    while failed and pull.isfinite():  # rounding can make nearly singular equations indefinite: pull harder
        factor, failed = torch.linalg.cholesky_ex(normal + pull * torch.eye(len(normal), dtype=normal.dtype))
        pulled = target.flatten(1) + pull * core.flatten(1)
        pull = 10 * pull
    return torch.cholesky_solve(pulled.T, factor).T.reshape(core.shape)


def sweep_cores(matrix: Tensor, cores: list[Tensor], rows: int, kind: Columns | Links) -> float:
    """Solve for every core once, in place; returns the squared error relative to a weight [N, M] of norm 1."""
    for side, weight in ((range(rows), matrix), (range(rows, len(cores)), matrix.T)):
        others = cores[rows:] if side.start == 0 else cores[:rows]
        product, square = weight @ kind.join(others), kind.square(others)  # [N, columns], columns x columns
        for k in side:
            before, after = cores[side.start : k], cores[k + 1 : side.stop]
            target, normal = kind.target(product, before, cores[k], after), kind.normal(square, before, after)
            cores[k] = solve_core(target, normal, cores[k])
    last = cores[-1].flatten(1)
    return (1 - 2 * (target.flatten(1) * last).sum() + ((last @ normal) * last).sum()).item()


def alternate(matrix: Tensor, cores: list[Tensor], rows: int, kind: Columns | Links, sweeps: int) -> list[Tensor]:
    """The best cores of at most so many sweeps from these; `matrix` has norm 1."""
    best, error, push = list(cores), float("inf"), 0.0
    for _ in range(sweeps):
        found = sweep_cores(matrix, cores, rows, kind)
        if not IMPOSSIBLE < found <= error:
            cores, push = list(best), 0.0
            continue
        if error - found < SETTLED * found or found < EXACT:
            return cores
        previous, best, error = best, list(cores), found
        cores = [core + push * (core - old) for core, old in zip(best, previous, strict=True)]
        push = min(1.0, push + PUSH)
    return best


def afford_sweeps(tensor: Tensor, cores: Sequence[Tensor], kind: Columns | Links, work: float) -> int:
    """How many sweeps that much work allows."""
    columns = [core[0].numel() for core in cores]
    sweep = 2 * tensor.numel() * kind.join([core[:1] for core in cores[: part_modes(tensor.shape)]]).shape[1]
    sweep += sum(kind.CUBIC * count**3 + 2 * count**2 * len(core) for count, core in zip(columns, cores, strict=True))
    least, most = SWEEPS
    return min(most, max(least, int(work / sweep)))


def part_modes(modes: Sequence[int]) -> int:
    """How many leading modes make the left of two sides of nearly equal size."""
    return min(range(1, len(modes)), key=lambda k: max(prod(modes[:k]), prod(modes[k:])))


def shorten_mode(tensor: Tensor) -> tuple[int, Tensor]:
    """The longest mode, and an orthonormal basis [n, t] of the part that holds most of the energy."""
    axis = max(range(tensor.dim()), key=lambda k: tensor.shape[k])
    basis = leading(unfold(tensor, axis), tensor.shape[axis] // 2 or 1)
    energies = torch.tensordot(tensor, basis, ([axis], [0])).flatten(0, -2).square().sum(0)  # [t], falling
    return axis, basis[:, : 1 + int((energies.cumsum(0) < KEPT * tensor.square().sum()).sum())]


def settle_cores(tensor: Tensor, cores: list[Tensor], kind: Columns | Links, sweeps: int) -> list[Tensor]:
    """The cores [n, ...] after so many sweeps, or fewer if they settle; the tensor has norm 1."""
    rows = part_modes(tensor.shape)
    return alternate(tensor.reshape(prod(tensor.shape[:rows]), -1), cores, rows, kind, sweeps)


def settle_short(tensor: Tensor, cores: list[Tensor], kind: Columns | Links, work: float) -> list[Tensor]:
    """The cores after sweeps with the longest mode shortened, which cost far less."""
    axis, basis = shorten_mode(tensor)
    short = torch.tensordot(tensor, basis, ([axis], [0])).movedim(-1, axis)
    norm, cores = short.norm(), list(cores)
    cores[axis] = torch.tensordot(basis, cores[axis], ([0], [0]))
    cores = settle_cores(short / norm, cores, kind, afford_sweeps(short, cores, kind, work))
    cores[axis] = torch.tensordot(basis * norm, cores[axis], ([1], [0]))
    return cores


def fit_alternating(tensor: Tensor, start: Sequence[Tensor], kind: Columns | Links) -> list[Tensor]:
    """The cores [n, ...] that come nearest, from these."""
    norm, cores = tensor.norm(), list(start)
    if not norm:
        return [*cores[:-1], torch.zeros_like(cores[-1])]
    tensor = tensor / norm
    work = max(FREE, WORK * tensor.numel())
    sweeps = afford_sweeps(tensor, cores, kind, work)
    if sweeps < FULL_SWEEPS:
        cores = settle_short(tensor, cores, kind, SHORT * work)
        sweeps = afford_sweeps(tensor, cores, kind, work - SHORT * work)
    cores = settle_cores(tensor, cores, kind, sweeps)
    return [cores[0] * norm, *cores[1:]]


def draw_starts(shapes: Sequence[tuple[int, ...]], tensor: Tensor) -> list[Tensor]:
    """Random numbers, the same every time: a weight and its ranks decide how near a fit comes, and nothing else."""
    generator = torch.Generator(tensor.device).manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=tensor.dtype, device=tensor.device) for shape in shapes]


def fit_cp(tensor: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    """Factors [n[k], R], from the leading singular vectors of each mode and, above its size, random columns."""
    start = draw_starts([(mode, ranks[0]) for mode in tensor.shape], tensor)
    for axis, factor in enumerate(start):
        known = leading(unfold(tensor, axis), ranks[0])  # [n, min(R, n)]
        factor /= len(factor) ** 0.5
        factor[:, : known.shape[1]] = known
    return fit_alternating(tensor, start, Columns())


def fit_ring(tensor: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    """Cores [r[k], n[k], r[k+1]], from random ones: after ten sweeps starts by SVDs are no better."""
    long = len(ranks) > MANY
    tensor = tensor.double() if long else tensor
    start = draw_starts(list(zip(tensor.shape, ranks, (*ranks[1:], ranks[0]), strict=True)), tensor)
    if long:
        start = [core / core[:, :, 0].numel() ** 0.5 for core in start]
    return [core.transpose(0, 1).contiguous() for core in fit_alternating(tensor, start, Links())]
