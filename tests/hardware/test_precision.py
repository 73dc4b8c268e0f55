"""The precision of products: what "auto" stands for on a device, and that torch computes in it."""

import pytest
import torch

from lowrank.errors import InputError
from lowrank.hardware import precision
from lowrank.hardware.precision import autocast, resolved_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def asked_anew():
    """Whatever was chosen before."""
    precision.choose_precision.cache_clear()
    yield
    precision.choose_precision.cache_clear()


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_products_are_computed_in_the_precision_that_is_named(name):
    x = torch.randn(4, 4)
    with autocast(name, CPU):
        assert (x @ x).dtype == getattr(torch, name) and x.dtype == torch.float32
    assert (x @ x).dtype == torch.float32


@pytest.mark.parametrize(("seconds", "chosen"), [((2.0, 1.0), "bfloat16"), ((1.0, 2.0), "float32")])
def test_auto_is_the_faster_one_on_a_cpu(monkeypatch, asked_anew, seconds, chosen):
    monkeypatch.setattr(precision, "time_convolution", dict(zip(("float32", "bfloat16"), seconds, strict=True)).get)
    assert resolved_precision("auto", CPU) == chosen


@pytest.mark.parametrize(("known", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_bfloat16_on_a_gpu_that_does_not_emulate_it(monkeypatch, asked_anew, known, chosen):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: known or including_emulation)
    assert resolved_precision("auto", GPU) == chosen


def test_float16_is_taken_on_a_gpu_and_refused_on_a_cpu():
    assert resolved_precision("float16", GPU) == "float16"
    with pytest.raises(InputError, match="^precision='float16' is .* allowed here: float32, bfloat16, auto$"):
        resolved_precision("float16", CPU)
