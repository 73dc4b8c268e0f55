"""How the cores of a decomposed layer start: drawn at random, or as the best approximation of a weight.

Either way ends with `balance`: one norm for all cores, so that gradients reach every core at the same scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from .als import fit_cp, fit_ring
from .fits import fit_bottleneck, fit_tt, fit_tucker, fit_tucker_tt, widen
from .formats import Layout
from .layers import Decomposed, matrix

FLAT_STEPS = 10  # of L-BFGS: brings the largest singular value of every format to 0.5 to 1.3 of a random matrix's
NOISE = 0.05  # relative; keeps a layer of full rank from starting as an exact isometry


@torch.no_grad()
def put(layer: Decomposed, cores: Sequence[Tensor], std: float | None = None) -> None:
    """Balance the cores and make them the layer's; with `std` the weight gets exactly that spread about 0."""
    for parameter, core in zip(layer.cores, balance(cores, layer.layout, std), strict=True):
        parameter.copy_(core)


def balance(cores: Sequence[Tensor], layout: Layout, std: float | None = None) -> list[Tensor]:
    """Give every core the same largest singular value; the weight stays, or gets the spread `std` about 0."""
    norms = [
        torch.linalg.matrix_norm(core.reshape(prod(core.shape[:split]), -1), 2)
        for core, split in zip(cores, splits(layout), strict=True)
    ]
    gain = 1.0 if std is None else std * layout.size**0.5 / matrix(cores, layout).norm()
    norm = (torch.stack(norms).log().mean() + torch.as_tensor(gain).log() / len(norms)).exp()
    return [core * (norm / own) for core, own in zip(cores, norms, strict=True)]


def splits(layout: Layout) -> list[int]:
    """How many leading axes of each core are the rows of the matrix that starts orthogonal."""
    dims, rows = len(layout.folding.modes), layout.folding.rows
    train = [2] * rows + [1] * (dims - rows)  # orthonormal towards the cut, from both ends
    tucker = {"tt": train, "ring": train, "tucker": [rows] + [1] * dims, "tucker_tt": [1] * dims + train}
    return tucker.get(layout.decomp, [1] * len(layout.shapes))


# --- at random


def draw(layer: Decomposed, std: float) -> None:
    """Random cores whose weight has exactly the spread `std` about 0, from torch's global generator.

    Orthogonal cores about the cut keep the singular values of W together at any rank. Where the format does
    not let orthogonal cores make such a W (CP, rings), a few steps of L-BFGS flatten the singular values.
    """
    cores = []
    for shape, split in zip(layer.layout.shapes, splits(layer.layout), strict=True):
        core = torch.nn.init.orthogonal_(torch.empty(prod(shape[:split]), prod(shape[split:])))
        cores.append(core.reshape(shape))
    descend(cores, lambda: spread(matrix(cores, layer.layout)), FLAT_STEPS)
    noisy = [core + NOISE * core.square().mean().sqrt() * torch.randn_like(core) for core in cores]
    put(layer, noisy, std)


@torch.no_grad()
def silence(layer: Decomposed) -> None:
    """Cores that make a weight of zeros: random ones, but for the last, which gradients reach through the others."""
    draw(layer, layer.layout.folding.inputs**-0.5)
    layer.cores[-1].zero_()


def spread(weight: Tensor) -> Tensor:
    """Sum of the singular values to the fourth over the square of their squares' sum: least where all are equal."""
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


def approximate(layer: Decomposed, weight: Tensor, std: float | None = None) -> float:
    """Start at the best approximation of `weight` [O, I]; returns the relative error in the Frobenius norm.

    By lowrank.fits and lowrank.als; any other format by L-BFGS from a random start.
    """
    layout = layer.layout
    weight = widen(weight).reshape(layout.folding.outputs, -1)
    if layout.decomp in FITS:
        modes = weight.shape if layout.decomp == "bottleneck" else layout.folding.modes
        cores = FITS[layout.decomp](weight.reshape(modes), layout.ranks)
    else:
        cores = fit(weight, layer)
    error = (matrix(cores, layout) - weight).norm() / weight.norm()
    put(layer, cores, std)
    return error.item()


def fit(weight: Tensor, layer: Decomposed, steps: int = 200) -> list[Tensor]:
    draw(layer, weight.square().mean().sqrt().item())
    cores = [core.detach().float().cpu().clone() for core in layer.cores]
    descend(cores, lambda: (matrix(cores, layer.layout) - weight).square().sum() / weight.square().sum(), steps)
    return cores


FITS = {
    "bottleneck": fit_bottleneck,
    "tt": fit_tt,
    "tucker": fit_tucker,
    "tucker_tt": fit_tucker_tt,
    "cp": fit_cp,
    "ring": fit_ring,
}
