"""What a layer has learned, in one picture."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import nn

from ..layers import Decomposed
from . import plots


@torch.no_grad()
def draw_anatomy(layer: nn.Module) -> Figure:
    """The weight [O, I] of a layer, its singular values beside those of a random dense one, the norms of its cores."""
    held = isinstance(layer, Decomposed)
    weight = layer.matrix() if held else layer.weight.flatten(1)
    parts = layer.cores if held else [weight]
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.1, 1, 1])
    limit = weight.abs().max().item()
    figure.colorbar(left.imshow(weight.numpy(), "RdBu_r", vmin=-limit, vmax=limit), ax=left, shrink=0.8)
    left.set(title=f"weight {' x '.join(map(str, weight.shape))}", xlabel="inputs", ylabel="outputs")
    left.grid(False)
    dense = torch.linalg.svdvals(noise * weight.norm() / noise.norm()).numpy()
    middle.semilogy(dense, "--", color=plots.COLOURS["dense"], label="random dense")
    middle.semilogy(torch.linalg.svdvals(weight).numpy(), color=plots.COLOURS["tt"], label="trained")
    middle.set(title="singular values, equal norms", xlabel="index", ylim=(0.01 * dense.max(), None))
    middle.legend()
    right.bar(range(len(parts)), [part.norm().item() for part in parts], color=plots.COLOURS["tt"])
    labels = [f"{k}\n{'x'.join(map(str, part.shape))}" for k, part in enumerate(parts)]
    right.set_xticks(range(len(parts)), labels, fontsize=8)
    right.set(title="norm of each core" if held else "norm of the weight", xlabel="core")
    return figure
