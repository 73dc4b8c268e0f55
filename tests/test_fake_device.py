"""The training loop on the tensors of a GPU that is not there.

In torch's FakeTensorMode a tensor has a shape, a type and a device, but no content. The loop and all that it calls run
as they would on a GPU, and an operation whose tensors are on two devices raises. What this cannot see:

- content: every number that is asked for is 1, and what depends on content (masks, divergence) is not followed;
- CUDA graphs: so few steps are launched, and one that waits for the GPU, which keeps it from being recorded, may;
- random generators: one of a GPU cannot be made without it, so that one of the CPU stands in;
- autograd's engine, which asks the driver for streams: the gradients of the operations are called here, one by one;
- kernels: whether there is one for a type and a layout. The optimiser's has no fake form (the devices of what it is
  given are compared), nor has the one that counts the levels of an image (the result has its shape);
- tensors of a single number: a GPU takes those from the CPU, too;
- what comes before the loop: `load` and `hold_out` on a GPU.

`python benchmarks/whole_runs.py` shows the rest where there is a GPU.
"""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._pytree import tree_leaves

import lowrank
from lowrank import optimiser
from lowrank.checkpoints import resume, save_checkpoint
from lowrank.config import DECOMPS, Config
from lowrank.data.dataset import assemble_data, hold_out
from lowrank.train import Loop, State

aten, GPU = torch.ops.aten, torch.device("cuda", 0)


# --- a machine with a GPU


class FakeGPU(FakeTensorMode):
    """Tensors without content, on any device, and what the loop asks of them that has no fake form."""

    def __init__(self):
        super().__init__(allow_non_fake_inputs=True)  # networks and data are made outside

    def dispatch(self, function, types, args=(), kwargs=None):
        if function is aten._local_scalar_dense.default:  # .item() and .tolist()
            return 1.0 if args[0].is_floating_point() else 1
        if function is aten.bincount.default:
            return args[0].new_empty(256)
        if function is aten._fused_sgd_.tensor_lr:
            return check_devices([*args, kwargs])
        result = super().dispatch(function, types, args, kwargs or {})
        self.fake_tensor_converter.meta_converter.tensor_memo.clear()  # nn.Module.to moves no tensor that is noted
        return result


def check_devices(tensors):
    devices = {leaf.device for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor)}
    if len(devices) > 1:
        raise RuntimeError(f"one step of the optimiser, but tensors on each device of {devices}")


class FakeGenerator(torch.Generator):
    """One of the CPU that says it is of the GPU; nobody draws from it."""

    def __new__(cls, device="cpu"):
        generator = super().__new__(cls)
        generator.place = torch.device(device)
        return generator

    @property
    def device(self):
        return self.place


def run_backward(loss):
    """What `loss.backward()` does, without autograd's engine if it is on a GPU."""
    if loss.device.type == "cpu":
        return torch.autograd.backward(loss)
    with torch.no_grad():
        return pass_gradients(loss)


def pass_gradients(loss):
    """Calls the gradient of every operation, once it has all that it is made of."""
    gradients = defaultdict(dict, {loss.grad_fn: {0: torch.ones_like(loss)}})
    for node in order_nodes(loss.grad_fn):
        outputs = gradients.pop(node)
        inputs = node(*(outputs.get(k) for k in range(max(outputs) + 1)))
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        for gradient, (before, k) in zip(inputs, node.next_functions, strict=False):
            if before is not None and gradient is not None:
                of, wanted = gradients[before], before._input_metadata[k]
                gradient = gradient.sum_to_size(wanted.shape).to(wanted.dtype)
                of[k] = of[k] + gradient if k in of else gradient


def order_nodes(root):
    """Those that a gradient passes, each behind all that hand it one."""
    seen, order = set(), []

    def visit(node):
        if node not in seen:
            seen.add(node)
            for before, _ in node.next_functions:
                if before is not None:
                    visit(before)
            order.append(node)

    visit(root)
    return reversed(order)


@pytest.fixture
def gpu(monkeypatch):
    """A machine whose GPU is fake; it is entered with `with gpu:`."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch, "Generator", FakeGenerator)
    monkeypatch.setattr(Tensor, "backward", run_backward)
    monkeypatch.setattr(optimiser, "SAMPLES", 1)  # of what has no content
    return FakeGPU()


# --- the loop on it


@pytest.fixture(scope="module")
def images():
    draws = np.random.default_rng(0)
    train, test = (draws.integers(0, 256, (count, 3, 32, 32)) for count in (16, 6))
    return hold_out(assemble_data(train, np.arange(16) % 2, test, np.arange(6) % 2, "ab"), 0.25)


def moved(data):
    return replace(data, **{name: each.to(GPU) for name, each in vars(data).items() if isinstance(each, Tensor)})


def loop_of(data, **parameters):
    """One whose epoch is a step; to be called on the machine with the GPU."""
    config = Config(dataset="digits", width=4, batch_size=12, augment=True, **parameters).fitted(16)
    with unset_fake_temporarily():
        network = lowrank.build(config, 2)
    return Loop(config, network, moved(data), lambda: None)


def tensors_of(state):
    return [leaf for leaf in tree_leaves(state.tensors) if isinstance(leaf, Tensor)]


DECAYS, RECIPES = ["plain", "compression", "frobenius", "none"], ["2018", "fast"]
EVERY_PAIR = [(form, DECAYS[k], RECIPES[(n + k) % 2]) for n, form in enumerate(DECOMPS) for k in range(len(DECAYS))]


@pytest.mark.parametrize(("decomp", "decay", "recipe"), EVERY_PAIR)
def test_a_step_and_every_evaluation_keep_to_the_gpu(gpu, images, decomp, decay, recipe):
    with gpu:
        loop = loop_of(images, decomp=decomp, decay=decay, recipe=recipe, precision="bfloat16", epochs=1)
        state = loop.after(State())
    (row,) = state.history
    assert {"train_loss", "validation_loss", "test_loss", "fit_loss"} <= row.keys()
    assert all(parameter.grad is not None for parameter in loop.network.parameters())
    assert {tensor.device for tensor in tensors_of(state)} == {GPU} and state.correct.device.type == "cpu"


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_checkpoint_brings_everything_back_to_the_gpu(gpu, images, tmp_path, precision):
    path, lines = tmp_path / "checkpoint.pt", []
    with gpu:
        first = loop_of(images, epochs=2, precision=precision).after(State())
        with torch.serialization.skip_data(materialize_fake_tensors=True):  # there is no content to write
            save_checkpoint(path, "id", first)
        loop = loop_of(images, epochs=2, precision=precision)
        state = resume(path, "id", loop.config, loop.network, GPU, lines.append)
        assert {tensor.device for tensor in tensors_of(state)} == {GPU}
        loop.restore(state)
        second = loop.after(state)
    assert lines == ["going on after epoch 1"] and second.epochs == 2
    assert {tensor.device for tensor in tensors_of(second)} == {GPU}
    assert [tensor.shape for tensor in tensors_of(first)] == [tensor.shape for tensor in tensors_of(second)]
    assert bool(second.tensors["scaler"]) == (precision == "float16")


# --- what it finds

MISPLACED = {
    "a weight": lambda loop: setattr(loop.network.head.linear, "weight", nn.Parameter(torch.zeros(2, 32))),
    "statistics": lambda loop: setattr(loop.network.first.norm, "running_mean", torch.zeros(4)),
    "a learning rate": lambda loop: loop.rates.__setitem__(0, (1.0, torch.zeros(()))),
    "momentum": lambda loop: loop.optimiser.state.update(
        {parameter: {"momentum_buffer": torch.zeros(parameter.shape)} for parameter in loop.network.parameters()}
    ),
    "moments": lambda loop: vars(loop.data).update(moments=(torch.zeros(1, 3, 1, 1), torch.zeros(1, 3, 1, 1))),
    "labels": lambda loop: vars(loop.data).update(train_labels=torch.zeros(12, dtype=torch.int64)),
    "test labels": lambda loop: vars(loop.data).update(test_labels=torch.zeros(6, dtype=torch.int64)),
}


@pytest.mark.parametrize("what", MISPLACED)
def test_one_tensor_on_the_cpu_is_found(gpu, images, what):
    with gpu:
        loop = loop_of(images, epochs=1, precision="float32")
        MISPLACED[what](loop)
        with pytest.raises(RuntimeError, match=r"device.*cpu"):
            loop.after(State())
