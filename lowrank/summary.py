"""What a network consists of: a table with a row for each layer, and its totals."""

from __future__ import annotations

import copy

import pandas as pd
import torch
from torch import Tensor, nn

from .layers import described, named_layers


def positions(module: nn.Module, image: tuple[int, ...]) -> dict[str, int]:
    """How often each layer is applied to one input of shape `image`, by a forward pass without arithmetic."""
    counts: dict[str, int] = {}
    ghost = copy.deepcopy(module).to("meta").eval()

    def counter(name: str):
        def count(layer: nn.Module, _: tuple[Tensor], output: Tensor | tuple[Tensor]) -> None:
            output = output[0] if isinstance(output, tuple) else output
            channels = output.shape[1] if isinstance(layer, nn.Conv2d) else output.shape[-1]
            counts[name] = counts.get(name, 0) + output.numel() // channels

        return count

    for name, layer in named_layers(ghost):
        layer.register_forward_hook(counter(name))
    for name, layer in ghost.named_modules():
        if isinstance(layer, nn.MultiheadAttention):  # it takes the weight of its out_proj and never calls it
            layer.register_forward_hook(counter(f"{name}.out_proj"))
    with torch.no_grad():
        ghost(torch.empty(1, *image, device="meta"))
    return counts


COLUMNS = (
    "decomp", "shape", "modes", "ranks", "weights", "parameters", "share", "contraction", "multiply_adds", "error"
)  # fmt: skip


def summary(module: nn.Module, image: tuple[int, ...] | None = None) -> pd.DataFrame:
    """A row for each Conv2d and Linear, decomposed or left: format, shape, modes, ranks, parameters.

    `weights` are those of the dense layer, `share` is parameters / weights (biases are not counted), `error` the
    relative error of the approximation that it started as. `multiply_adds` are those of one position (a pixel, a
    token) or, with the shape of an input as `image`, such as (3, 32, 32), of a forward pass of one input.
    """
    rows = {name: described(layer) for name, layer in named_layers(module)}
    if image is not None:
        counts = positions(module, image)
        for name, row in rows.items():
            row["multiply_adds"] *= counts.get(name, 0)
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(COLUMNS))
    return table.rename_axis("layer").fillna({"modes": "", "ranks": "", "contraction": "", "error": 0.0})
