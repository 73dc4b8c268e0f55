"""The loop: what it learns, predicts, pulls at and measures."""

import math

import pytest
import torch
from small import networks, run

import lowrank
from lowrank import train
from lowrank.config import Config
from lowrank.data import load
from lowrank.data.augmentation import FULL, LIGHT
from lowrank.layers import Decomposed


def test_training_learns(tmp_path):
    record = run(tmp_path, decomp="tt", width=8, epochs=6, batch_size=64, augment=False)
    assert record["test_accuracy"] > 0.8


def test_the_fast_recipe_predicts_from_both_views_and_leaves_out_what_it_is_told():
    data = load("digits")
    images = data.normalise(data.test_images[:8])

    def predicted(**recipe):
        config, network = networks(**recipe)
        train.Loop(config, network, data, lambda: None)  # with its kernels
        network.eval()
        with torch.no_grad():
            said = train.compute_logits(network, images, config.precision, config.uses("flip at test"))
            return said, (network(images) + network(images.flip(3))) / 2

    both, mean = predicted(recipe="fast")
    torch.testing.assert_close(both, mean)
    one, mean = predicted(recipe="fast", without="flip at test")
    assert not torch.allclose(one, mean)
    torch.testing.assert_close(one, predicted()[0])


def test_the_fast_recipe_augments_less():
    def used(**parameters):
        return train.chosen_augmentation(Config(**parameters).fitted(50_000))

    assert used() == used(recipe="fast", without="light augmentation") == FULL
    assert used(recipe="fast") == used(recipe="fast", without="flip at test") == LIGHT
    assert used(augment=False) is used(recipe="fast", augment=False) is None


def test_frobenius_decay_pulls_at_the_weight_that_the_cores_make():
    _, network = networks(decomp="tucker", dims=4)
    train.frobenius(network).backward()
    for layer in network.modules():
        if isinstance(layer, Decomposed):
            got = [core.grad.clone() for core in layer.cores]
            weight = layer.weight
            wanted = torch.autograd.grad(weight, layer.cores, grad_outputs=weight.detach())
            for one, other in zip(got, wanted, strict=True):
                torch.testing.assert_close(one, other)


def test_a_divergence_ends_the_run_at_once_and_is_recorded(tmp_path):
    record = run(tmp_path, decomp="dense", learning_rate=1e30, epochs=50, augment=False)
    assert record["status"] == "diverged"
    assert len(lowrank.history(tmp_path, record["run"])) < 50
    assert lowrank.results(tmp_path).status.tolist() == ["diverged"]


def test_fit_accuracy_is_that_of_the_training_images_as_they_are(tmp_path):
    record = run(tmp_path, decomp="separable", width=8, epochs=3, batch_size=64, save_weights=True)
    data = load("digits")
    with torch.no_grad():
        logits = lowrank.load(record["run"], runs=str(tmp_path))(data.normalise(data.train_images))
    assert (logits.argmax(1) == data.train_labels).float().mean().item() == pytest.approx(record["fit_accuracy"])
    assert record["fit_accuracy"] > record["train_accuracy"]  # which is that of augmented images on the way


@pytest.mark.parametrize("decomp", ["tucker", "tucker_tt", "tt", "cp", "ring"])
@pytest.mark.parametrize("dims", range(2, 10))
def test_every_number_of_modes_takes_a_step(decomp, dims):
    """Cores have 1 to 9 axes, of which only those of plain convolutions may be channels_last."""
    config, network = networks(decomp=decomp, dims=dims, budget=0.5)
    loop = train.Loop(config, network, load("digits"), lambda: None)
    images, labels = next(loop.data.training_batches(32, 0, 0, None))
    loop.set_rates(0.5)
    assert math.isfinite(loop.step(images, labels)[0])
    held = [layer for layer in network.modules() if isinstance(layer, Decomposed)]
    assert all(core.is_contiguous() for layer in held for core in layer.cores)
