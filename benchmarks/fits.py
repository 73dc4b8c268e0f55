"""How near a fit comes to a weight, and what it takes: errors beside tensorly's and an SVD's, seconds and memory.

Three weights of 128 x 128 x 3 x 3: the second convolution of a small network trained on the built-in digits (a real
one cannot be downloaded), a sum of Kronecker products whose sizes fall, with noise, and pure noise. Each method gets
ranks of the same number of parameters. Three networks of torchvision, whose weights are noise (the slowest to fit:
nothing settles early) over a spectrum that falls to a tenth; one process for each, on one thread.

    python benchmarks/fits.py     (twenty minutes of one core)

writes benchmarks/results/fits-<machine>.csv and fits-networks-<machine>.csv.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import pandas as pd
import tensorly
import torch
from allocation import train_parent
from machine import store
from tensorly.decomposition import parafac, tensor_ring, tensor_train, tucker
from torchvision import models

import lowrank
from lowrank.formats import FORMATS, Layout, fold, solve
from lowrank.initial import approximate
from lowrank.layers import Decomposed, DecomposedLinear

NETWORKS = ["resnet18", "resnet50", "vit_b_16"]
BUDGETS = [0.1, 0.25, 0.5]
OUTPUTS, INPUTS, KERNEL = 128, 128, 9
ITERATIONS = 100  # tensorly's default


def list_weights() -> dict[str, torch.Tensor]:
    """Matrices of 128 x 1152."""
    torch.manual_seed(0)
    noise = torch.randn(OUTPUTS, INPUTS * KERNEL)
    products = [0.7**k * torch.kron(torch.randn(16, 32), torch.randn(8, 36)) for k in range(8)]
    structured = sum(products) / sum(products).std() + 0.3 * noise
    trained = train_parent(0)[9].weight.detach().reshape(OUTPUTS, -1)
    return {"trained": trained, "structured": structured, "random": noise}


def fit_peer(decomp: str, tensor: torch.Tensor, ranks: tuple[int, ...]) -> torch.Tensor | None:
    """What tensorly makes of the tensor with these ranks; None if it has no such format or refuses them."""
    if decomp == "tt":
        return tensor_train(tensor, [1, *ranks, 1]).to_tensor()
    if decomp == "tucker":
        return tucker(tensor, list(ranks), n_iter_max=ITERATIONS).to_tensor()
    if decomp == "cp":
        return parafac(tensor, ranks[0], init="random", n_iter_max=ITERATIONS, random_state=0).to_tensor()
    if decomp == "ring":
        try:
            return tensor_ring(tensor, [*ranks, ranks[0]]).to_tensor()
        except ValueError:  # its first two ranks are those of one SVD
            return None
    left, values, right = torch.linalg.svd(tensor.reshape(OUTPUTS, -1), full_matrices=False)
    return (left[:, : ranks[0]] * values[: ranks[0]] @ right[: ranks[0]]).reshape(tensor.shape)


def compare(name: str, weight: torch.Tensor, decomp: str, dims: int, budget: float) -> dict[str, object]:
    """A row: our error and seconds, and theirs, at the same ranks."""
    layout = solve(decomp, [fold(OUTPUTS, INPUTS, dims, KERNEL)], budget=budget)[0]
    layer = DecomposedLinear(torch.nn.Linear(INPUTS * KERNEL, OUTPUTS), layout)
    tensor = weight.reshape(layout.folding.modes)
    start = time.process_time()
    error = approximate(layer, weight)
    middle = time.process_time()
    theirs = None if decomp == "tucker_tt" else fit_peer(decomp, tensor, layout.ranks)
    end = time.process_time()
    row = {"weight": name, "decomp": decomp, "dims": dims, "budget": budget, "error": error, "seconds": middle - start}
    if theirs is not None:
        row |= {"peer_error": ((theirs - tensor).norm() / tensor.norm()).item(), "peer_seconds": end - middle}
    return row


def structure(network: torch.nn.Module) -> torch.nn.Module:
    """Its matrices with singular values that fall evenly to a tenth, as those of trained networks roughly do."""
    for parameter in network.parameters():
        if parameter.dim() > 1:
            left, values, right = torch.linalg.svd(parameter.detach().flatten(1), full_matrices=False)
            falling = values * torch.logspace(0, -1, len(values))
            parameter.data = (left * falling @ right).reshape(parameter.shape)
    return network


def read_peak() -> int:
    """The most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def time_network(name: str, decomp: str, allocation: str) -> None:
    """Decomposes a network of torchvision and prints seconds of one core, MB above the two networks, mean error."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = structure(getattr(models, name)(weights=None))
    before, start = read_peak(), time.process_time()
    small = lowrank.decompose(network, decomp=decomp, dims=3, budget=0.25, allocation=allocation)
    seconds = time.process_time() - start
    errors = [layer.error for layer in small.modules() if isinstance(layer, Decomposed)]
    print(f"{seconds:.2f},{read_peak() - before},{sum(errors) / len(errors):.4f}")


def measure_network(name: str, decomp: str, allocation: str) -> dict[str, object]:
    """The figures of a process of its own, as memory only grows."""
    command = [sys.executable, __file__, "--network", name, "--decomp", decomp, "--allocation", allocation]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(",")
    figures = dict(zip(["seconds", "megabytes", "mean_error"], map(float, printed), strict=True))
    return {"network": name, "decomp": decomp, "dims": 3, "budget": 0.25, "allocation": allocation} | figures


def main() -> None:
    torch.set_num_threads(1)
    tensorly.set_backend("pytorch")
    rows = [
        compare(name, weight, decomp, dims, budget)
        for name, weight in list_weights().items()
        for decomp in FORMATS
        for dims in ([2] if decomp == "bottleneck" else [3, 4])
        for budget in BUDGETS
    ]
    table = pd.DataFrame(rows)
    print(table.round(4).to_string(index=False))
    store(table, "fits", ("torch", "tensorly"), iterations=ITERATIONS, threads=1)
    rows = []
    for name in NETWORKS:
        for decomp in FORMATS:
            for allocation in ["even", "error"]:
                rows.append(measure_network(name, decomp, allocation))
                print(rows[-1], flush=True)
    store(pd.DataFrame(rows), "fits-networks", ("torch", "torchvision"), threads=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", choices=NETWORKS, help="one network in this process, not all of them")
    parser.add_argument("--decomp", choices=FORMATS)
    parser.add_argument("--allocation", choices=["even", "error"], default="error")
    asked = parser.parse_args()
    if asked.network:
        time_network(asked.network, asked.decomp, asked.allocation)
    else:
        main()
