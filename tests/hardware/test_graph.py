"""Steps recorded as a CUDA graph: what a network learns stays, whether a step can be recorded or not."""

import warnings
from dataclasses import replace

import pytest
import torch

import lowrank
from lowrank.config import Config
from lowrank.data import load
from lowrank.hardware import graph
from lowrank.hardware.graph import LAUNCHED, Recorded
from lowrank.train import Loop

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def loop(**parameters):
    config = Config(dataset="digits", width=8, batch_size=64, epochs=2, precision="float32", **parameters).fitted(1500)
    data = load("digits", DEVICE)
    few = replace(data, train_images=data.train_images[:320], train_labels=data.train_labels[:320])
    return Loop(config, lowrank.build(config, 10), few, lambda: None)


def trained(loop, take):
    """The weights after two epochs with `take` for a step, in one vector."""
    loop.take = take
    for epoch in range(2):
        loop.train(epoch)
    return torch.cat([parameter.detach().flatten() for parameter in loop.network.parameters()])


def pretended(step, images, labels):
    """A recording as a CPU can have it: takes no step when it is made, and reads from its own two tensors."""

    def replay(new_images, new_labels):
        images.copy_(new_images)
        labels.copy_(new_labels)
        return step(images, labels)

    return replay


@pytest.mark.parametrize("decomp", ["dense", "tt"])
def test_a_recorded_step_is_taken_once_for_every_batch(decomp, monkeypatch):
    monkeypatch.setattr(graph, "record_graph", pretended)
    plain, recorded = loop(decomp=decomp), loop(decomp=decomp)
    take = Recorded(recorded.step)
    torch.testing.assert_close(trained(recorded, take), trained(plain, plain.step))
    assert take.taken == 2 * plain.steps > LAUNCHED


def test_a_step_that_cannot_be_recorded_is_launched_every_time_and_says_so(monkeypatch):
    def refused(*_):
        raise RuntimeError("operation not permitted when stream is capturing\nand a long trace")

    monkeypatch.setattr(graph, "record_graph", refused)
    plain, unrecorded = loop(decomp="tt"), loop(decomp="tt")
    with pytest.warns(UserWarning, match=r"not recorded .* slower: operation not permitted .* capturing$"):
        weights = trained(unrecorded, Recorded(unrecorded.step))
    torch.testing.assert_close(weights, trained(plain, plain.step))


def test_a_batch_of_another_size_is_not_replayed(monkeypatch):
    monkeypatch.setattr(graph, "record_graph", lambda step, images, labels: lambda *_: "replayed")
    take = Recorded(lambda images, labels: len(images))
    images, labels = torch.zeros(8, 3, 32, 32), torch.zeros(8)
    assert [take(images, labels) for _ in range(LAUNCHED + 2)] == [8] * LAUNCHED + ["replayed"] * 2
    assert take(images[:5], labels[:5]) == 5


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.parametrize("decomp", ["dense", "separable", "tt", "tucker", "tucker_tt", "cp", "ring", "bottleneck"])
def test_on_a_gpu_recorded_and_launched_steps_learn_the_same(decomp):
    recorded, launched = loop(decomp=decomp), loop(decomp=decomp)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights = trained(recorded, recorded.take)
    torch.testing.assert_close(weights, trained(launched, launched.step), rtol=1e-2, atol=1e-3)
