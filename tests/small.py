"""Runs, records, networks and weights that are small enough for a test."""

from dataclasses import asdict

import pytest
import torch
from hypothesis import strategies as st

import lowrank
from lowrank.config import Config
from lowrank.data import Data
from lowrank.formats import FORMATS, fold

SMALL = {"dataset": "digits", "width": 4, "batch_size": 256, "precision": "float32", "augment": True}
EPOCHS = [{"epoch": 1, "test_accuracy": 0.5}, {"epoch": 2, "test_accuracy": 0.75}]
kinds = pytest.mark.parametrize("decomp", FORMATS)
foldings = st.builds(
    fold,
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(2, 7),
    st.sampled_from([1, 9, 49]),
    st.sampled_from(["useful", "original"]),
)


def quiet(_: str) -> None:
    pass


def run(runs, log=quiet, **parameters):
    return lowrank.run(log=log, runs=str(runs), **{**SMALL, "epochs": 1, **parameters})


def networks(**parameters):
    config = Config(**{**SMALL, **parameters}).fitted(1500)
    return config, lowrank.build(config, classes=10)


def fall(outputs: int, inputs: int, share: float = 1.0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A random matrix with the falling singular values of trained weights, a share of which is left."""
    left, values, right = torch.linalg.svd(torch.randn(outputs, inputs, dtype=dtype), full_matrices=False)
    kept = torch.arange(len(values)) < max(1, round(share * len(values)))
    return left * values * torch.logspace(0, -2, len(values), dtype=dtype) * kept @ right


def row(run: str, **values) -> dict:
    """The record of a run."""
    asked = asdict(Config().fitted(50_000))
    return asked | {"run": run, "status": "done", "parameters": 100, "test_accuracy": 0.75} | values


def epoch(data: Data, *arguments) -> list[torch.Tensor]:
    """All images and all labels of an epoch, in its order."""
    return [torch.cat(batches) for batches in zip(*data.training_batches(*arguments), strict=True)]
