"""What a network consists of: a table with a row for each layer and each other weight, and its totals."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from ..errors import InputError
from ..layers import Decomposed, decomposed_type, describe_layer, kernel_size
from .parts import CONVOLUTION, LAYERS, LAZY, Part, copy_module, run_example, survey

COUNTED = (*LAYERS, nn.MultiheadAttention)
HEADINGS = (
    "decomp", "shape", "modes", "ranks", "weights", "parameters", "share", "contraction", "multiply_adds", "error",
    "left",
)  # fmt: skip


def summary(module: nn.Module, image: tuple[int, ...] | None = None, example: Any = None) -> pd.DataFrame:
    """A row for each layer, decomposed or left, and for each other weight: format, shape, modes, ranks, parameters.

    `weights` are those of the dense layer, `share` is parameters / weights (biases are not counted), `error` the
    relative error of the approximation that it started as, `left` why a weight is not decomposed. Weights that a
    row above has already are not counted again. `multiply_adds` are those of one position (a pixel, a token) or, with
    the shape of an input as `image`, such as (3, 32, 32), of a forward pass of one input; with inputs as `example` (a
    tensor, a tuple, or a dict of arguments by name), of a pass of these. Only Linear and convolutions are counted so.

    Raises InputError if the network does not take the input.

    >>> from torch import nn
    >>> net = lowrank.decompose(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 10)), decomp="tt", budget=0.25, skip="1")
    >>> lowrank.summary(net)[["decomp", "ranks", "parameters", "left"]].to_dict("list")
    {'decomp': ['tt', 'dense'], 'ranks': ['7, 8', ''], 'parameters': [960, 640], 'left': ['', 'skipped']}
    """
    counts = None if image is None and example is None else positions(module, image, example)
    rows, counted = {}, {}
    for part in survey(module):
        row = row_of(part, counts)
        first = counted.setdefault(key_of(part), part.name)
        if first != part.name:
            row |= {"weights": 0, "parameters": 0, "share": 1.0, "left": row["left"] or f"tied to {first}"}
        rows[part.name] = row
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(HEADINGS)).rename_axis("layer")
    return table.fillna({"modes": "", "ranks": "", "contraction": "", "error": 0.0})


def key_of(part: Part) -> tuple[int, ...]:
    """Equal for parts that hold the same weights."""
    return tuple(map(id, part.module.cores if isinstance(part.module, Decomposed) else part.weights))


def row_of(part: Part, counts: dict[int, tuple[int, int]] | None) -> dict[str, Any]:
    """A row of the table; `counts` is the positions at which each module takes and gives numbers."""
    module, size = part.module, 0
    if part.reason != LAZY:
        size = sum(weight.numel() for weight in part.weights)
    taken, given = (1, 1) if counts is None else counts.get(id(module), (0, 0))
    row = {"decomp": "dense", "shape": shape_of(part), "weights": size, "parameters": size, "share": 1.0}
    row |= {"multiply_adds": 0, "left": part.reason or vars(module).get("left_dense", "")}
    if isinstance(module, LAYERS) or decomposed_type(module):
        row["multiply_adds"] = size * (taken if getattr(module, "transposed", False) else given)
    if getattr(module, "groups", 1) > 1:
        row["decomp"] = "grouped"
    if isinstance(module, Decomposed):
        row |= describe_layer(module) | {"left": "", "multiply_adds": work(module, taken, given)}
    return row


def shape_of(part: Part) -> str:
    """Outputs x inputs of a layer, and the sides of a kernel of more than one pixel; all sides of other weights."""
    module = part.module
    if isinstance(module, Decomposed):
        shape = [module.layout.folding.outputs, module.layout.folding.inputs // kernel_size(module)]
    elif part.reason == LAZY or not part.weights:
        return ""
    elif isinstance(module, CONVOLUTION):
        shape = [module.out_channels, module.in_channels // module.groups]
    else:
        return " x ".join(map(str, part.weights[0].shape))
    kernel = ["x".join(map(str, module.kernel_size))] if kernel_size(module) > 1 else []
    return " x ".join(map(str, shape + kernel))


def work(layer: Decomposed, taken: int, given: int) -> int:
    """Multiply-adds at so many positions taken and given: a transposed convolution works where it takes its input."""
    layout, first = layer.layout, taken if getattr(layer, "transposed", False) else given
    if layer.contraction != "factors":  # by W, or by the format's own multiplication
        return layout.multiply_adds(layer.contraction) * first
    return layout.inner * (layout.folding.inputs * first + layout.folding.outputs * given)


# --- one forward pass


def positions(module: nn.Module, image: tuple[int, ...] | None, example: Any) -> dict[int, tuple[int, int]]:
    """The positions at which each module, by its id, takes and gives numbers in one forward pass.

    With `image` a copy without numbers does it, so that it costs no arithmetic.
    """
    runner, same, said = module, [(each, each) for each in module.modules()], "example"
    if example is None:
        runner = copy_module(module).to("meta")
        dtype = next((each.dtype for each in runner.parameters() if each.is_floating_point()), None)
        example, said = make_image(image, dtype), f"image={image!r}, without example="
        same = list(zip(module.modules(), runner.modules(), strict=True))
    counts: dict[int, tuple[int, int]] = {}
    handles = [count_calls(counts, *pair) for pair in same if isinstance(pair[1], COUNTED) or decomposed_type(pair[1])]
    try:
        with torch.no_grad():
            run_example(runner, example, said)
    finally:
        for handle in handles:
            handle.remove()
    return counts


def make_image(image: tuple[int, ...], dtype: torch.dtype | None) -> Tensor:
    """One input of this shape, without numbers. Raises InputError if it is none."""
    try:
        return torch.empty(1, *image, device="meta", dtype=dtype)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"image={image!r}; allowed: the shape of an input, such as (3, 32, 32)") from None


def count_calls(counts: dict[int, tuple[int, int]], layer: nn.Module, runner: nn.Module) -> RemovableHandle:
    """Let each call of the runner add its positions to those of the layer."""
    attention = isinstance(layer, nn.MultiheadAttention)  # it takes the weight of its out_proj and never calls it
    key = id(layer.out_proj if attention else layer)

    def count(_: nn.Module, inputs: tuple, named: dict[str, Any], output: Any) -> None:
        taken, given = tree_leaves((inputs, named))[0], tree_leaves(output)[0]
        before = counts.get(key, (0, 0))
        convolution = isinstance(layer, CONVOLUTION)
        counts[key] = (
            before[0] + taken.numel() // (layer.in_channels if convolution else taken.shape[-1]),
            before[1] + given.numel() // (layer.out_channels if convolution else given.shape[-1]),
        )

    return runner.register_forward_hook(count, with_kwargs=True)
