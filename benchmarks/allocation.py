"""Does it pay to spend a budget where the error falls? Accuracy of trained networks, decomposed both ways.

Three networks trained on the built-in digits (1,297 images; 500 to test): a convolutional one, a perceptron and a small
transformer; each decomposed at three budgets with allocation "even" and "error", then tested as it is and after 20
and 150 steps of fine-tuning. Two seeds; accuracies in percent.

    python benchmarks/allocation.py     (about seven minutes of one core)

writes benchmarks/results/allocation-<machine>.csv, a row a network, format, budget, allocation and seed.
"""

from __future__ import annotations

from functools import lru_cache

import pandas as pd
import torch
from machine import store
from sklearn.datasets import load_digits
from torch import Tensor, nn

import lowrank

FORMATS = ["bottleneck", "tt", "tucker"]
BUDGETS, ALLOCATIONS, SEEDS = [0.1, 0.25, 0.5], ["even", "error"], 2
TRAINING, BATCH, RATE = 600, 64, 1e-3
TESTED = [0, 20, 150]  # steps of fine-tuning


@lru_cache
def load() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images [N, 64] in [0, 1] and labels, to train and to test."""
    images, labels = map(torch.as_tensor, load_digits(return_X_y=True))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order].float() / 16, labels[order]
    return images[:-500], labels[:-500], images[-500:], labels[-500:]


def build_convolutional() -> nn.Sequential:
    """[B, 64] -> [B, 10]; convolutions of 32, 64, 128 and 128 channels."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
    for inputs, outputs in [(1, 32), (32, 64), (64, 128), (128, 128)]:
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def build_perceptron() -> nn.Sequential:
    """[B, 64] -> [B, 10]"""
    hidden = [layer for _ in range(3) for layer in (nn.LazyLinear(256), nn.ReLU())]
    network = nn.Sequential(*hidden, nn.LazyLinear(10))
    network(torch.zeros(2, 64))
    return network


def build_transformer() -> nn.Sequential:
    """[B, 64] -> [B, 10]; the rows of an image are its eight tokens."""
    layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    return nn.Sequential(nn.Unflatten(1, (8, 8)), nn.Linear(8, 64), encoder, nn.Flatten(), nn.Linear(512, 10))


NETWORKS = {
    "convolutional": build_convolutional,
    "perceptron": build_perceptron,
    "transformer": build_transformer,
}


def train(network: nn.Module, steps: int, seed: int) -> None:
    """By Adam, in place."""
    images, labels, _, _ = load()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    network.train()
    for _ in range(steps):
        batch = torch.randint(len(images), (BATCH,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
        optimizer.step()


@torch.no_grad()
def test(network: nn.Module) -> float:
    """Accuracy in percent."""
    _, _, images, labels = load()
    return 100 * (network.eval()(images).argmax(1) == labels).float().mean().item()


def train_parent(seed: int, name: str = "convolutional") -> nn.Sequential:
    torch.manual_seed(seed)
    network = NETWORKS[name]()
    train(network, TRAINING, seed)
    return network


def measure(parent: nn.Module, decomp: str, budget: float, allocation: str, seed: int) -> dict[str, float]:
    """Accuracy before and after fine-tuning."""
    torch.manual_seed(seed)
    network = lowrank.decompose(parent, decomp=decomp, dims=3, budget=budget, allocation=allocation)
    accuracies, done = {}, 0
    for steps in TESTED:
        train(network, steps - done, seed + 1 + done)
        accuracies[f"after_{steps}"], done = test(network), steps
    return accuracies


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for name in NETWORKS:
        for seed in range(SEEDS):
            parent = train_parent(seed, name)
            for decomp in FORMATS:
                for budget in BUDGETS:
                    for allocation in ALLOCATIONS:
                        row = {"network": name, "decomp": decomp, "dims": 3, "budget": budget, "allocation": allocation}
                        row |= {"seed": seed, "parent": test(parent)}
                        rows.append(row | measure(parent, decomp, budget, allocation, seed))
    table = pd.DataFrame(rows)
    columns = [f"after_{steps}" for steps in TESTED]
    means = table.pivot_table(columns, ["network", "parent", "decomp", "budget"], "allocation")
    print(means[columns].groupby(["network", "decomp", "budget"], sort=False).mean().round(1).to_string())
    store(table, "allocation", ("torch", "scikit-learn"), training=TRAINING, batch=BATCH, rate=RATE)


if __name__ == "__main__":
    main()
