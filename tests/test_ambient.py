"""What a user has set torch to changes no result, and is as it was afterwards."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from small import run
from torch import nn

import lowrank
from lowrank.data import load


@contextmanager
def set_to(change, value, before):
    change(value)
    try:
        yield
    finally:
        change(before)


SURROUNDINGS = {
    "float64": lambda: set_to(torch.set_default_dtype, torch.float64, torch.float32),
    "float16": lambda: set_to(torch.set_default_dtype, torch.float16, torch.float32),
    "a default device": lambda: set_to(torch.set_default_device, "meta", None),
    "a device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
}


def settings():
    device = torch.get_default_device()
    return torch.get_default_dtype(), device, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("surrounding", SURROUNDINGS.values(), ids=SURROUNDINGS)
def test_a_run_and_its_predictions_are_those_of_its_parameters(tmp_path, surrounding):
    images, found = load("digits").test_images[:5], []
    for name, around in (("plain", nullcontext), ("set", surrounding)):
        with around():
            before = settings()
            record = run(tmp_path / name, decomp="ring", budget=0.5, save_weights=True)
            logits = lowrank.predict(record, images, runs=tmp_path / name)
            assert settings() == before
        found.append((record["train_loss"], record["test_loss"], logits.tolist()))
    assert found[0] == found[1]


SET = {
    "float64": lambda: torch.set_default_dtype(torch.float64),
    "a default device": lambda: torch.set_default_device("meta"),
    "no gradients": lambda: torch.set_grad_enabled(False),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
}


@pytest.mark.parametrize("set_torch", SET.values(), ids=SET)
def test_what_watch_sets_torch_to_changes_no_result(tmp_path, set_torch):
    before = settings()
    records = [
        run(tmp_path / name, decomp="ring", budget=0.5, epochs=2, watch=watch)
        for name, watch in (("plain", None), ("set", lambda history: set_torch()))
    ]
    assert settings() == before
    assert records[0]["test_loss"] == records[1]["test_loss"]


@pytest.mark.parametrize("decomp", ["tt", "cp"])
def test_weights_are_decomposed_assigned_and_made_dense_under_autocast(decomp):
    layer, weight = nn.Linear(32, 32), torch.randn(32, 32)
    found = []
    for around in (nullcontext(), torch.autocast("cpu", dtype=torch.bfloat16)):
        with around:
            small = lowrank.decompose(layer, decomp=decomp, budget=0.5)
            cores = [core.clone() for core in small.cores]
            lowrank.assign(small, weight)
            found.append([*cores, *small.cores, lowrank.densify(small).weight])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
