"""Fits come as near to a weight as the theory and others' code say they can, in every format, shape and precision."""

from itertools import product

import pytest
import tensorly
import torch
from small import fall, kinds
from tensorly.decomposition import parafac, tensor_ring, tensor_train, tucker

from lowrank.formats import FORMATS, Folding, Layout, fold, path, walk_path
from lowrank.formats.fits import leading, widen

pytestmark = pytest.mark.usefixtures("seeded")
SHAPES = [(1, 13, 1), (13, 1, 1), (1, 1, 1), (7, 11, 1), (6, 4, 9)]


def fit_matrix(weight: torch.Tensor, decomp: str, folding: Folding, ranks) -> list[torch.Tensor]:
    return FORMATS[decomp].fit(weight, folding, ranks)


def measure_error(weight: torch.Tensor, decomp: str, folding: Folding, ranks) -> float:
    cores = fit_matrix(weight, decomp, folding, ranks)
    return ((Layout(decomp, folding, tuple(ranks)).weight(cores) - weight).norm() / weight.norm()).item()


def repeat_products(dtype=torch.float32) -> torch.Tensor:
    """A sum of three Kronecker products: [48, 40]."""
    pairs = [(torch.randn(6, 5, dtype=dtype), torch.randn(8, 8, dtype=dtype)) for _ in range(3)]
    return sum(torch.kron(left, right) for left, right in pairs)


def list_ranks(decomp: str, folding: Folding) -> list[tuple[int, ...]]:
    """From the smallest to the largest, and one step beyond."""
    steps = path(decomp, (folding,)).steps
    ranks = [walk_path(decomp, (folding,), steps[: round(share * len(steps))])[0] for share in (0, 0.3, 1)]
    return [*map(tuple, ranks), tuple(rank + 1 for rank in ranks[-1])]


@kinds
@pytest.mark.parametrize("dims", [2, 3, 4, 5, 6])
def test_every_shape_and_rank_gives_the_formats_cores(decomp, dims):
    for outputs, inputs, kernel in SHAPES:
        folding = fold(outputs, inputs, dims, kernel)
        weight = fall(outputs, inputs * kernel)
        for ranks in list_ranks(decomp, folding):
            layout = Layout(decomp, folding, ranks)
            cores = fit_matrix(weight, decomp, folding, ranks)
            assert [tuple(core.shape) for core in cores] == list(map(tuple, layout.shapes))
            assert all(core.isfinite().all() for core in cores)
            error = (layout.weight(cores) - weight).norm() / weight.norm()
            assert error < 1 + 1e-5  # nearer than zeros


@pytest.mark.parametrize("dims", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("dtype, close", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_full_ranks_recover_the_weight_to_its_precision(dims, dtype, close):
    for outputs, inputs, kernel in SHAPES:
        weight, folding = fall(outputs, inputs * kernel, dtype=dtype), fold(outputs, inputs, dims, kernel)
        for decomp in ("tt", "tucker", "tucker_tt"):
            assert measure_error(weight, decomp, folding, FORMATS[decomp].largest(folding)) < close
        assert measure_error(weight, "bottleneck", folding, (min(outputs, inputs * kernel),)) < close


@pytest.mark.parametrize("decomp, close", [("bottleneck", 1e-9), ("tt", 1e-9), ("tucker", 1e-9), ("ring", 1e-2)])
def test_a_weight_of_the_format_is_found_again(decomp, close):
    """Rings by alternating least squares, which creeps at the end; here from a weight that a ring of ranks 3 made."""
    folding = fold(48, 40, 4)
    ranks = {"bottleneck": (3,), "tt": (2, 3, 4), "tucker": (3, 2, 4, 3), "ring": (2, 2, 2, 2)}[decomp]
    layout = Layout(decomp, folding, ranks)
    weight = layout.weight([torch.randn(shape, dtype=torch.float64) for shape in layout.shapes])
    assert measure_error(weight, decomp, folding, ranks) < close


@kinds
def test_float64_stays_float64_and_all_else_is_fitted_in_float32(decomp):
    folding = fold(24, 20, 3)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        weight = widen(torch.randn(24, 20).to(dtype))
        cores = fit_matrix(weight, decomp, folding, list_ranks(decomp, folding)[2])
        assert {core.dtype for core in cores} == {torch.float64 if dtype == torch.float64 else torch.float32}


@kinds
def test_a_fit_is_the_same_every_time(decomp):
    weight, folding = fall(24, 20), fold(24, 20, 4)
    ranks = list_ranks(decomp, folding)[1]
    first, second = (fit_matrix(weight, decomp, folding, ranks) for _ in range(2))
    assert all(map(torch.equal, first, second))


@kinds
@pytest.mark.parametrize("weight", ["falling", "rank one", "constant"])
def test_every_parameter_moves_within_a_few_steps(decomp, weight):
    """Also those of ranks that the weight does not need."""
    known = {"falling": fall(24, 20), "rank one": torch.outer(torch.randn(24), torch.randn(20))}
    weight, folding = known.get(weight, torch.ones(24, 20)).double(), fold(24, 20, 4)
    for ranks in list_ranks(decomp, folding):
        start = fit_matrix(weight, decomp, folding, ranks)
        cores = [core.clone().requires_grad_() for core in start]
        for _ in range(3):
            made = Layout(decomp, folding, ranks).weight(cores)
            gradients = torch.autograd.grad((made * torch.randn(24, 20)).sum(), cores)
            cores = [(core - 1e-3 * own).detach().requires_grad_() for core, own in zip(cores, gradients, strict=True)]
        assert all((core != own).all() for core, own in zip(cores, start, strict=True))


@kinds
def test_zeros_are_fitted_by_finite_cores(decomp):
    folding = fold(24, 20, 3)
    for ranks in list_ranks(decomp, folding):
        cores = fit_matrix(torch.zeros(24, 20), decomp, folding, ranks)
        assert all(core.isfinite().all() for core in cores)
        assert Layout(decomp, folding, ranks).weight(cores).abs().max() < 1e-6


def test_the_bottleneck_is_the_best_matrix_of_its_rank():
    for outputs, inputs, rank in product((1, 7, 40), (1, 11, 60), (1, 3, 30)):
        weight = fall(outputs, inputs)
        left_out = (torch.linalg.svdvals(weight)[rank:].norm() / weight.norm()).item()
        error = measure_error(weight, "bottleneck", fold(outputs, inputs, 2), (rank,))
        assert error == pytest.approx(left_out, abs=1e-5)


@pytest.mark.parametrize("rows, columns", [(5, 40), (40, 5), (1, 9), (9, 1), (30, 30)])
def test_leading_vectors_are_those_of_an_svd(rows, columns):
    made = fall(rows, columns)
    rank = max(1, min(rows, columns) // 2)
    basis = leading(made, rank)
    torch.testing.assert_close(basis.T @ basis, torch.eye(rank), atol=1e-5, rtol=0)
    assert (basis.T @ made).norm() == pytest.approx(torch.linalg.svdvals(made)[:rank].norm().item(), rel=1e-5)


@pytest.mark.parametrize("dims", [3, 4, 5])
@pytest.mark.parametrize("share", [0.15, 0.4])
@pytest.mark.parametrize("make", [lambda: fall(48, 40), repeat_products, lambda: torch.randn(48, 40)])
def test_errors_are_no_larger_than_tensorlys(dims, share, make):
    """At the same ranks; CP after as many sweeps as tensorly makes by default, rings by the ranks that it can have."""
    tensorly.set_backend("pytorch")
    weight, folding = make(), fold(48, 40, dims)
    tensor = weight.reshape(folding.modes)
    peers = {
        "tt": lambda ranks: tensor_train(tensor, [1, *ranks, 1]),
        "tucker": lambda ranks: tucker(tensor, list(ranks)),
        "cp": lambda ranks: parafac(tensor, ranks[0], init="random", random_state=0),
        "ring": lambda ranks: tensor_ring(tensor, [*ranks, ranks[0]]),
    }
    for decomp, peer in peers.items():
        steps = path(decomp, (folding,)).steps
        ranks = tuple(walk_path(decomp, (folding,), steps[: round(share * len(steps))])[0])
        if decomp == "ring":
            ranks = (2, min(3, folding.modes[0] // 2), *ranks[2:])
        theirs = ((peer(ranks).to_tensor() - tensor).norm() / tensor.norm()).item()
        assert measure_error(weight, decomp, folding, ranks) < 1.02 * theirs + 1e-3, decomp
