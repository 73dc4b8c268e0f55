"""The named studies, as plain data: lists of parameters, at three scales.

`smoke` is a rehearsal (small networks learn the built-in digits beyond 90%, seconds a run), `cpu` gives a first answer
on a laptop (a network of width 16, two epochs in small batches, half an hour to an hour on 2 cores), `gpu` is the
study itself. A study of your own is a list:

    from lowrank import grid, sweep
    mine = grid(decomp=["tt", "ring"], dims=[3, 4], budget=[0.1, 0.3], dataset=["digits"], epochs=[4])
    sweep(mine, seeds=3)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

from .config import InputError

SCALES: dict[str, dict[str, Any]] = {
    "smoke": {
        "dataset": "digits",
        "width": 8,
        "epochs": 4,
        "batch_size": 32,
        "learning_rate": 0.1,
        "augment": False,  # a mirrored digit is another sign
        "precision": "float32",
    },
    "cpu": {"dataset": "cifar10", "width": 16, "epochs": 2, "batch_size": 128, "learning_rate": 0.2},
    "gpu": {"dataset": "cifar10", "width": 64, "epochs": 24, "precision": "bfloat16"},
}
SEEDS = {"smoke": 2, "cpu": 3, "gpu": 5}
DIMS = {"smoke": [2, 3], "cpu": [2, 3, 4, 6], "gpu": [2, 3, 4, 5, 6, 7, 8, 9]}
BUDGETS = {"smoke": [0.1, 0.5], "cpu": [0.05, 0.1, 0.25], "gpu": [0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0]}
PRECISIONS = {"smoke": ["float32"], "cpu": ["float32", "bfloat16"], "gpu": ["float32", "bfloat16", "float16"]}
FORMS = ["bottleneck", "tt", "tucker", "tucker_tt", "cp", "ring"]

# A bottleneck of rank channels // k holds 2 / k of the weights of a square layer: that is the budget of k.
FRACTIONS = {"smoke": [2, 31], "cpu": [2, 31], "gpu": [2, 3, 4, 6, 8, 10, 13, 16, 20, 25, 31]}
COSINE = {"schedule": "cosine", "learning_rate": 0.2}  # with 128 epochs where there is time for them
SUMMED_LOSS = 512  # the 2018 decay met a loss summed over 512 images: in today's units that many times weaker
FAULTS: dict[str, dict[str, Any]] = {
    "schedule": {"schedule": "constant"},  # the group of the decomposed weights followed none
    "decay": {"weight_decay": 5e-4 / SUMMED_LOSS},
    "rank rule": {"rank_rule": "original"},
    "initialisation": {"init": "decompose"},
}


def grid(**lists: Iterable[Any]) -> list[dict[str, Any]]:
    """Every combination of the listed values, one dictionary a run: `grid(decomp=["tt", "cp"], dims=[3, 4])`."""
    for name, values in lists.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise InputError(f"{name}={values!r}: a grid takes a list of values, {name}=[{values!r}]")
    return [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]


def long(scale: str) -> dict[str, Any]:
    """The cosine recipe, at the length that the scale has time for."""
    return COSINE | ({"epochs": 128} if scale == "gpu" else {})


def each(runs: Iterable[Mapping[str, Any]], *variants: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every run in every variant."""
    return [{**run, **variant} for run in runs for variant in variants]


def fold(scale: str, *decomps: str) -> list[dict[str, Any]]:
    """The given decompositions over mode counts and budgets."""
    return grid(decomp=decomps, dims=DIMS[scale], budget=BUDGETS[scale])


def baselines(scale: str) -> list[dict[str, Any]]:
    """The plain networks under both recipes, in each precision (bfloat16 crawls where a processor does not know it)."""
    forms = grid(decomp=["dense", "separable"]) + grid(decomp=["bottleneck"], budget=[1.0, 0.2])
    return each(each(forms, *grid(precision=PRECISIONS[scale])), {}, long(scale))


def weight_decay(scale: str) -> list[dict[str, Any]]:
    """Bottlenecks of rank channels / 2 to channels / 31 under every kind and strength of weight decay."""
    ranks = grid(decomp=["bottleneck"], budget=[round(2 / k, 4) for k in FRACTIONS[scale]])
    plain = grid(decay=["plain"], weight_decay=[5e-4, 8.8e-6, 5e-4 / SUMMED_LOSS])
    others = grid(decay=["compression", "frobenius"], weight_decay=[5e-4]) + grid(decay=["none"], weight_decay=[0.0])
    return each(each(ranks, *plain, *others), long(scale))


def overfitting(scale: str) -> list[dict[str, Any]]:
    """How far each form can fit the training set without augmentation or decay."""
    forms = grid(decomp=["dense", "separable"]) + grid(decomp=FORMS, budget=BUDGETS[scale][1:])
    return each(forms, {"augment": False, "decay": "none", "weight_decay": 0.0})


def shoot_out(scale: str) -> list[dict[str, Any]]:
    """All decompositions at equal budgets, with the plain networks as the ends of the scale."""
    return grid(decomp=["dense", "separable"]) + grid(decomp=FORMS, budget=BUDGETS[scale])


def original_2019(scale: str) -> list[dict[str, Any]]:
    """The 2019 experiments as they were: their rank rule, cores from a dense draw, float32, hardly any decay."""
    scales = {"smoke": [0.5], "cpu": [0.05, 0.95], "gpu": [round(0.05 + 0.1 * k, 2) for k in range(10)]}
    forms = grid(decomp=["tt", "tucker_tt"], dims=DIMS[scale], rank_scale=scales[scale])
    settings = {"rank_rule": "original", "init": "decompose", "precision": "float32"}
    return each(forms, settings | {"weight_decay": 5e-4 / SUMMED_LOSS})


def then_and_now(scale: str) -> list[dict[str, Any]]:
    """One network as it is trained today, with each fault of 2019 alone, and with all of them."""
    together = {name: value for fault in FAULTS.values() for name, value in fault.items()}
    return each(grid(decomp=["tt"], dims=[4], budget=[0.1]), {}, *FAULTS.values(), together)


STUDIES: dict[str, dict[str, list[dict[str, Any]]]] = {
    "baselines": {scale: baselines(scale) for scale in SCALES},
    "weight-decay": {scale: weight_decay(scale) for scale in SCALES},
    "overfitting": {scale: overfitting(scale) for scale in SCALES},
    "tensor-train": {scale: fold(scale, "tt") for scale in SCALES},
    "tucker": {scale: fold(scale, "tucker", "tucker_tt") for scale in SCALES},
    "cp": {scale: fold(scale, "cp") for scale in SCALES},
    "ring": {scale: fold(scale, "ring") for scale in SCALES},
    "shoot-out": {scale: shoot_out(scale) for scale in SCALES},
    "then-and-now": {scale: then_and_now(scale) for scale in SCALES},
    "original-2019": {scale: original_2019(scale) for scale in SCALES},
}
