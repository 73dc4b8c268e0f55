"""How the cores of a decomposed layer start: drawn at random, or as the best approximation of a weight.

Either way ends with `balance`: one norm for all cores, so that gradients reach every core at the same scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from .formats import Layout
from .formats.fits import widen
from .layers import Decomposed

Fit = Callable[[Tensor, Layout], list[Tensor] | None]  # of a weight [O, I]

FLAT_STEPS = 10  # of L-BFGS: brings the largest singular value of every format to 0.5 to 1.3 of a random matrix's
TINY = 1e-10  # entries of a weight whose fourth powers, which `spread` takes, are zero in float32
NOISE = 0.05  # relative; keeps a layer of full rank from starting as an exact isometry


@torch.no_grad()
def set_cores(layer: Decomposed, cores: Sequence[Tensor], std: float | None = None) -> None:
    """Balance the cores and make them the layer's; with `std` the weight gets exactly that spread about 0."""
    for parameter, core in zip(layer.cores, balance(cores, layer.layout, std), strict=True):
        parameter.copy_(core)


def balance(cores: Sequence[Tensor], layout: Layout, std: float | None = None) -> list[Tensor]:
    """Cores of the same shapes that all have the same largest singular value, each as the matrix that the format splits
    it into; the weight [O, I] stays, or gets the spread `std` about 0."""
    norms = [
        torch.linalg.matrix_norm(core.reshape(prod(core.shape[:split]), -1), 2)
        for core, split in zip(cores, layout.form.splits(layout.folding, layout.ranks), strict=True)
    ]
    gain = 1.0 if std is None else std * layout.size**0.5 / layout.weight(cores).norm()
    norm = (torch.stack(norms).log().mean() + torch.as_tensor(gain).log() / len(norms)).exp()
    return [core * (norm / own) for core, own in zip(cores, norms, strict=True)]


# --- at random


def draw(layer: Decomposed, std: float) -> None:
    """Random cores whose weight has exactly the spread `std` about 0, from torch's global generator.

    They are the format's own, if it has such a start, and else orthogonal.
    """
    layout = layer.layout
    set_cores(layer, layout.form.start(layout.folding, layout.ranks) or orthogonal_cores(layout), std)


def orthogonal_cores(layout: Layout) -> list[Tensor]:
    """Orthogonal cores about the cut, with a little noise: they keep the singular values of W together at any rank.

    If the format does not let orthogonal cores make such a W (CP, rings), a few steps of L-BFGS flatten the singular
    values.
    """
    cores = []
    for shape, split in zip(layout.shapes, layout.form.splits(layout.folding, layout.ranks), strict=True):
        core = torch.nn.init.orthogonal_(torch.empty(prod(shape[:split]), prod(shape[split:])))
        cores.append(core.reshape(shape))
    if layout.weight(cores).abs().max() < TINY:  # the product of many cores with many rows, as CP's are
        cores = [core / core.square().mean().sqrt() for core in cores]
    descend(cores, lambda: spread(layout.weight(cores)), FLAT_STEPS)
    return [core + NOISE * core.square().mean().sqrt() * torch.randn_like(core) for core in cores]


@torch.no_grad()
def draw_zeros(layer: Decomposed) -> None:
    """Cores that make a weight of zeros: random ones, but for the last, which gradients reach through the others."""
    draw(layer, layer.layout.folding.inputs**-0.5)
    layer.cores[-1].zero_()


def spread(weight: Tensor) -> Tensor:
    """Of a weight [O, I]: the sum of its singular values to the fourth, over the square of their squares' sum.

    Least where all are equal.
    """
    weight = weight if weight.shape[0] <= weight.shape[1] else weight.T
    gram = weight @ weight.T
    return gram.square().sum() / gram.trace().square()


@torch.enable_grad()
def descend(cores: Sequence[Tensor], loss, steps: int) -> None:
    """Minimise loss() over the cores, in place."""
    for core in cores:
        core.requires_grad_()
    optimizer = torch.optim.LBFGS(cores, max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    for core in cores:
        core.requires_grad_(False)


# --- from a weight


def fit_format(weight: Tensor, layout: Layout) -> list[Tensor] | None:
    return layout.form.fit(weight, layout.folding, layout.ranks)


def measure_fit(weight: Tensor, layout: Layout) -> float:
    """The relative error of the format's fit of a weight [O, I]; raises ValueError if the format has none."""
    dtype, weight = weight.dtype, widen(weight)
    cores = fit_format(weight, layout)
    if cores is None:
        said = f"error with decomp={layout.decomp!r}: it has no fit of its own"
        raise ValueError(f"{said}; allowed: budget, rank_scale or ranks")
    return measure_error(weight, layout, cores, dtype) if weight.any() else 0.0  # zeros are held at any rank


def measure_error(weight: Tensor, layout: Layout, cores: Sequence[Tensor], dtype: torch.dtype) -> float:
    """The relative error in the Frobenius norm, once the cores and the weight that they make are rounded to `dtype`."""
    rounded = [core.to(dtype).to(core.dtype) for core in balance(cores, layout)]
    made = layout.weight(rounded).to(dtype)  # [O, I]
    return ((made.to(weight.dtype) - weight).norm() / weight.norm()).item()


def approximate(layer: Decomposed, weight: Tensor, std: float | None = None, fit: Fit = fit_format) -> float:
    """Start at a fit of `weight` [O, I], the format's own; returns its relative error.

    What `fit` does not know (it returns None) is fitted by L-BFGS from a random start.
    """
    layout, weight = layer.layout, widen(weight).reshape(layer.layout.folding.outputs, -1)
    cores = fit(weight, layout) or fit_by_descent(weight, layer)
    set_cores(layer, cores, std)
    return measure_error(weight, layout, cores, layer.core_0.dtype)


def fit_by_descent(weight: Tensor, layer: Decomposed, steps: int = 200) -> list[Tensor]:
    draw(layer, weight.square().mean().sqrt().item())
    cores = [core.detach().float().cpu().clone() for core in layer.cores]
    descend(cores, lambda: (layer.layout.weight(cores) - weight).square().sum() / weight.square().sum(), steps)
    return cores
