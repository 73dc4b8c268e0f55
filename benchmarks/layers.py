"""What a decomposed layer costs beside the separable layer that it replaces, and beside the layers of others.

A pointwise convolution of C channels after a depthwise 3x3, forward and backward, batch 128, float32, channels_last,
two CPU threads, memory handled as in training. All layers are timed in one process, in turn, each right after the
separable layer: a figure is the median over the rounds of the ratio to it, so that most of what else the machine
does falls out. Peers hold as many parameters as ours: tntorch rebuilds the pointwise weight at every step;
tensorly-torch folds it into as many modes as ours (`folded`, the like of our layers), or factorizes a whole 3x3
convolution, unfolded (`3x3`: two thin products through few channels, as in a bottleneck, without the depthwise one).

A second table shows where two thin products through m channels stop being cheaper than building W: the ratio of the
two ways over m / C, and the m / C at which it crosses 1: what the choice in formats.Layout.contraction rests on. Two
threads wait for each other: where `load` in the files is well above 2, others worked on the machine, and the figures
are to be taken again.

    make bench    prints both, and writes benchmarks/results/layers-<machine>.csv and contraction-<machine>.csv
"""

from __future__ import annotations

import argparse
import time
import warnings
from itertools import product

import numpy as np
import pandas as pd
import tntorch
import torch
import torch.nn.functional as F
from machine import machine, store
from torch import Tensor, nn

import lowrank
from lowrank.formats import Layout, fold, solve
from lowrank.hardware.process import tune_process
from lowrank.layers import DecomposedConv2d, dense, separable

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what the import itself finds deprecated
    import tltorch

IMAGES = {128: 16, 256: 8, 512: 4}  # C: height and width
BATCH, THREADS, ROUNDS, WARM_UP = 128, 2, 15, 2
BUDGETS = (0.1, 0.5)
OURS = {"tt": 4, "bottleneck": 2, "tucker": 3, "tucker_tt": 3, "cp": 3, "ring": 3}  # decomposition: modes
WHOLE = ("tt", "tucker", "cp")  # what tensorly-torch factorizes a 3x3 convolution into
SHARES = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6)  # m / C
REFERENCE = "separable"

Key = tuple[str, float]  # the name of a layer and its budget


# --- the layers


class Rebuilt(nn.Module):
    """A pointwise convolution whose weight tntorch rebuilds at every step: [B, C, H, W] -> [B, C, H, W]."""

    def __init__(self, channels: int, layout: Layout) -> None:
        super().__init__()
        ranks = {"tt": "ranks_tt", "tucker": "ranks_tucker"}[layout.decomp]
        tensor = tntorch.Tensor(torch.randn(layout.folding.modes), **{ranks: list(layout.ranks)})
        self.shape = (channels, channels, 1, 1)
        self.cores = nn.ParameterList(tensor.cores)
        self.factors = nn.ParameterList(factor for factor in tensor.Us if factor is not None)

    def forward(self, x: Tensor) -> Tensor:
        weight = tntorch.Tensor(list(self.cores), Us=list(self.factors) or None).torch().reshape(self.shape)
        return F.conv2d(x, weight)


def ours(channels: int, decomp: str, dims: int, budget: float) -> nn.Module:
    layer = separable(channels, channels)
    return lowrank.decompose(layer, decomp=decomp, dims=dims, budget=budget, init="random", skip="depthwise")


def rebuilt(channels: int, decomp: str, budget: float) -> nn.Module:
    [layout] = solve(decomp, [fold(channels, channels, 4)], budget=budget)
    layer = separable(channels, channels)
    layer.pointwise = Rebuilt(channels, layout)
    return layer


class Folded(nn.Module):
    """A pointwise convolution that tensorly-torch folds into four modes: [B, C, H, W] -> [B, C, H, W]."""

    def __init__(self, channels: int, decomp: str, budget: float, implementation: str) -> None:
        super().__init__()
        folding = fold(channels, channels, 4)
        rows, columns = folding.modes[:2], folding.modes[2:]
        if decomp == "blocktt":  # two cores [r[k-1], row mode, column mode, r[k]]
            rank = round(budget * channels**2 / sum(i * j for i, j in zip(rows, columns, strict=True)))
        else:
            [layout] = solve(decomp, [folding], budget=budget)
            rank = layout.ranks if decomp == "tucker" else layout.ranks[0]
        self.linear = tltorch.FactorizedLinear(
            columns, rows, bias=False, factorization=decomp, rank=rank, implementation=implementation
        )
        self.linear.weight.normal_(0, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def folded(channels: int, decomp: str, budget: float, implementation: str) -> nn.Module:
    layer = separable(channels, channels)
    layer.pointwise = Folded(channels, decomp, budget, implementation)
    return layer


def whole(channels: int, decomp: str, budget: float, implementation: str) -> nn.Module:
    parameters = 9 * channels + budget * channels**2
    layer = tltorch.FactorizedConv(
        channels, channels, 3, order=2, padding=1,
        factorization=decomp, rank=parameters / (9 * channels**2), implementation=implementation,
    )  # fmt: skip
    layer.weight.normal_(0, 0.02)
    return layer


def contestants(channels: int) -> dict[Key, nn.Module]:
    layers: dict[Key, nn.Module] = {
        (REFERENCE, 1.0): separable(channels, channels),
        ("depthwise alone", 0.0): separable(channels, channels).depthwise,
        ("dense 3x3", 9.0): dense(channels, channels),
    }
    for budget in BUDGETS:
        for decomp, dims in OURS.items():
            layers[f"lowrank {decomp}", budget] = ours(channels, decomp, dims, budget)
        for decomp in WHOLE:
            layers[f"lowrank {decomp} unfolded", budget] = ours(channels, decomp, 2, budget)
        for decomp in ("tt", "tucker"):
            layers[f"tntorch {decomp}", budget] = rebuilt(channels, decomp, budget)
        for decomp, implementation in product(("blocktt", "tucker", "cp"), ("factorized", "reconstructed")):
            name = f"tensorly-torch {decomp} folded, {implementation}"
            layers[name, budget] = folded(channels, decomp, budget, implementation)
        for decomp in WHOLE:
            layers[f"tensorly-torch {decomp} 3x3, factorized", budget] = whole(channels, decomp, budget, "factorized")
    for decomp in WHOLE:  # built into a dense kernel, which costs the same at every budget
        layers[f"tensorly-torch {decomp} 3x3, reconstructed", 0.5] = whole(channels, decomp, 0.5, "reconstructed")
    return layers


# --- the clock


def step(layer: nn.Module, x: Tensor) -> float:
    """Seconds of a forward and a backward pass. The output stands in for its gradient: it has its memory format."""
    layer.zero_grad()
    x.grad = None
    start = time.perf_counter()
    y = layer(x)
    y.backward(y.detach())
    return time.perf_counter() - start


def timed(layers: dict, reference: nn.Module, x: Tensor, rounds: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Seconds, and ratios to the reference right before: a row a round, a column a layer."""
    before, seconds = [], []
    for _ in range(WARM_UP + rounds):
        pairs = [(step(reference, x), step(layer, x)) for layer in layers.values()]
        before.append([other for other, _ in pairs])
        seconds.append([own for _, own in pairs])
    before, seconds = (pd.DataFrame(rows[WARM_UP:], columns=pd.Index(list(layers))) for rows in (before, seconds))
    return seconds, seconds / before


def summary(ratios: pd.DataFrame) -> pd.DataFrame:
    """Median and quartiles of each column."""
    return ratios.quantile([0.5, 0.25, 0.75]).T.set_axis(["ratio", "lower_quartile", "upper_quartile"], axis=1)


def input_of(channels: int) -> Tensor:
    image = IMAGES[channels]
    x = torch.randn(BATCH, channels, image, image).to(memory_format=torch.channels_last)
    return x.requires_grad_()


# --- the tables


def layer_table(channels: int, rounds: int) -> pd.DataFrame:
    layers = {key: layer.to(memory_format=torch.channels_last) for key, layer in contestants(channels).items()}
    seconds, ratios = timed(layers, layers[REFERENCE, 1.0], input_of(channels), rounds)
    table = summary(ratios).rename_axis(["layer", "budget"])
    table["milliseconds"] = 1e3 * seconds.median()
    table["parameters"] = [sum(p.numel() for p in layer.parameters()) for layer in layers.values()]
    return table.reset_index().assign(channels=channels)


def thin(channels: int, inner: int, contraction: str) -> DecomposedConv2d:
    """A bottleneck of rank `inner`: W = L @ R and nothing else to build."""
    layout = Layout("bottleneck", fold(channels, channels, 2), (inner,))
    layer = DecomposedConv2d(nn.Conv2d(channels, channels, 1, bias=False), layout, contraction)
    for core in layer.cores:
        nn.init.normal_(core, std=channels**-0.5)
    return layer.to(memory_format=torch.channels_last)


def contraction_table(channels: int, rounds: int) -> pd.DataFrame:
    rows = []
    for share in SHARES:
        inner = round(share * channels)
        layers = {"factors": thin(channels, inner, "factors")}
        _, ratios = timed(layers, thin(channels, inner, "weight"), input_of(channels), rounds)
        rows.append(summary(ratios).assign(share=inner / channels))
    return pd.concat(rows).assign(channels=channels)


def crossing(shares: pd.Series, ratios: pd.Series) -> float:
    """Where the straight line through the ratios crosses 1."""
    slope, start = np.polyfit(shares, ratios, 1)
    return (1 - start) / slope


def keep(table: pd.DataFrame, name: str, rounds: int) -> None:
    fixed = {"batch_size": BATCH, "threads": THREADS, "precision": "float32", "rounds": rounds}
    store(table, name, ("torch", "tntorch", "tensorly-torch"), **fixed)


def main(rounds: int) -> None:
    torch.set_num_threads(THREADS)
    tune_process()
    print(f"{machine()}, {THREADS} threads, medians of {rounds} rounds, ratio to the separable layer\n")
    layers = pd.concat(layer_table(channels, rounds) for channels in IMAGES)
    print(layers.pivot_table("ratio", ["layer", "budget"], "channels", sort=False).round(2).to_string())
    keep(layers, "layers", rounds)
    print("Two thin products through m channels over one with W built, by m / C")
    thin = pd.concat(contraction_table(channels, rounds) for channels in IMAGES)
    print(thin.pivot_table("ratio", "share", "channels").round(2).to_string())
    for channels, rows in thin.groupby("channels"):
        print(f"C = {channels}: they break even at m = {crossing(rows.share, rows.ratio):.2f} C")
    keep(thin, "contraction", rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of all layers ({ROUNDS})")
    main(parser.parse_args().rounds)
