"""How near a fit comes to a weight, and what it takes: errors beside tensorly's and an SVD's, seconds and memory.

Three weights of 128 x 128 x 3 x 3: the last convolution of a small network trained on the built-in digits (a real
one cannot be downloaded), a sum of Kronecker products whose sizes fall, with noise, and pure noise. Each method gets
ranks of the same number of parameters. Then networks of torchvision, each in a process of its own on one thread: their
weights are the random ones that they start with, but with singular values that fall to a tenth.

    python benchmarks/fits.py     (ten minutes of one core)

writes benchmarks/results/fits-<machine>.csv and fits-networks-<machine>.csv.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import tensorly
import torch
from allocation import train_parent
from machine import store
from tensorly.decomposition import parafac, tensor_ring, tensor_train, tucker
from torchvision import models

import lowrank
from lowrank.formats import FORMATS, fold, solve
from lowrank.initial import approximate
from lowrank.layers import Decomposed, DecomposedLinear

NETWORKS = ["resnet18", "resnet50", "vit_b_16"]
SETTINGS = [(3, 0.1), (3, 0.25), (3, 0.5), (4, 0.1)]  # dims, budget
OUTPUTS, INPUTS, KERNEL = 128, 128, 9
ITERATIONS = 100  # tensorly's default


def list_weights() -> dict[str, torch.Tensor]:
    """Matrices of 128 x 1152."""
    torch.manual_seed(0)
    noise = torch.randn(OUTPUTS, INPUTS * KERNEL)
    products = [0.7**k * torch.kron(torch.randn(16, 32), torch.randn(8, 36)) for k in range(8)]
    structured = sum(products) / sum(products).std() + 0.3 * noise
    trained = train_parent(0)[10].weight.detach().reshape(OUTPUTS, -1)
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
    """Its matrices with rows of falling norms, in random order: singular values fall to a tenth, as trained ones do."""
    for parameter in network.parameters():
        if parameter.dim() > 1:
            falling = torch.logspace(0, -1, len(parameter))[torch.randperm(len(parameter))]
            parameter.data *= falling.reshape(-1, *[1] * (parameter.dim() - 1))
    return network


def read_memory(field: str) -> int:
    """Memory of this process in MB: "VmRSS" now, "VmHWM" the most since it was last reset (Linux only)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(field))


def time_network(name: str, decomp: str) -> None:
    """Decomposes a network of torchvision and prints seconds of one core, MB at most above it, mean error."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = structure(getattr(models, name)(weights=None))
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before, start = read_memory("VmRSS"), time.process_time()
    small = lowrank.decompose(network, decomp=decomp, dims=3, budget=0.25)
    seconds = time.process_time() - start
    errors = [layer.error for layer in small.modules() if isinstance(layer, Decomposed)]
    taken = read_memory("VmHWM") - before
    print(f"{seconds:.2f},{taken},{sum(errors) / len(errors):.4f}")


def measure_network(name: str, decomp: str) -> dict[str, object]:
    """The figures of a process of its own, as memory only grows."""
    command = [sys.executable, __file__, "--network", name, "--decomp", decomp]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(",")
    figures = dict(zip(["seconds", "megabytes", "mean_error"], map(float, printed), strict=True))
    return {"network": name, "decomp": decomp, "dims": 3, "budget": 0.25} | figures


def compare_layers() -> None:
    """Stores the first table."""
    torch.set_num_threads(1)
    tensorly.set_backend("pytorch")
    rows = [
        compare(name, weight, decomp, dims, budget)
        for name, weight in list_weights().items()
        for decomp in FORMATS
        for dims, budget in SETTINGS[: 3 if decomp == "bottleneck" else None]
    ]
    table = pd.DataFrame(rows)
    print(table.round(4).to_string(index=False))
    store(table, "fits", ("torch", "tensorly"), iterations=ITERATIONS, threads=1)


def measure_networks() -> None:
    """Stores the second table."""
    rows = []
    for name in NETWORKS:
        for decomp in FORMATS:
            rows.append(measure_network(name, decomp))
            print(rows[-1], flush=True)
    store(pd.DataFrame(rows), "fits-networks", ("torch", "torchvision"), threads=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", choices=NETWORKS, help="one network in this process, not all of them")
    parser.add_argument("--decomp", choices=FORMATS)
    asked = parser.parse_args()
    if asked.network:
        time_network(asked.network, asked.decomp)
    else:
        compare_layers()
        measure_networks()
