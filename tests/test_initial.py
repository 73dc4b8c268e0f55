"""Initial weights: drawn ones spread like the dense layer's, fitted ones are as near as their format allows."""

from math import prod, sqrt

import pytest
import tensorly
import torch
from small import fall, kinds
from tensorly.decomposition import parafac, tensor_train, tucker
from torch import nn

from lowrank import InputError, assign, decompose
from lowrank.formats import FORMATS, MOST_DIMS, Layout, fold, solve
from lowrank.initial import approximate, balance, draw
from lowrank.layers import Decomposed, DecomposedConv2d

pytestmark = pytest.mark.usefixtures("seeded")
SCALES = [1e-9, 0.05, 0.1, 0.25, 0.5, 0.75, 1]
SHAPES = [(128, 128, 1), (64, 48, 1), (24, 16, 9)]


def empty(decomp, outputs, inputs, kernel=1, dims=3, scale=0.5) -> Decomposed:
    conv = nn.Conv2d(inputs, outputs, int(sqrt(kernel)), bias=False)
    return DecomposedConv2d(conv, solve(decomp, [fold(outputs, inputs, dims, kernel)], rank_scale=scale)[0])


def largest_singular_value(weight: torch.Tensor) -> float:
    return torch.linalg.matrix_norm(weight, 2).item()


def random_matrix(outputs: int, inputs: int, rank: int) -> torch.Tensor:
    """A Gaussian matrix of spread 1, cut to its largest singular values and brought back to its norm."""
    weight = torch.randn(outputs, inputs)
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    cut = left[:, :rank] * values[:rank] @ right[:rank]
    return cut * weight.norm() / cut.norm()


# --- at random


@kinds
@pytest.mark.parametrize("dims", [9, 16, MOST_DIMS])
def test_weights_of_many_modes_spread_like_the_dense_layers(decomp, dims):
    """The entries that a product of so many orthogonal cores makes are no numbers of float32 any more."""
    layer = empty(decomp, 256, 256, dims=dims, scale=1)
    draw(layer, 0.05)
    assert layer.matrix().std().item() == pytest.approx(0.05, rel=0.02)


@pytest.mark.timeout(120)
@kinds
@pytest.mark.parametrize("dims", [14, 20])
def test_weights_of_many_modes_are_fitted(decomp, dims):
    """The squares of a ring of so many cores are no numbers of float32: its fit did not end, or was off by 1e9."""
    dense = nn.Linear(64, 64)
    layer = decompose(dense, decomp=decomp, dims=dims, budget=0.9, allocation="even")
    error = (layer.weight - dense.weight).norm() / dense.weight.norm()
    assert error.item() == pytest.approx(layer.error, rel=0.01) and error < 0.8


@kinds
@pytest.mark.parametrize("dims", [2, 3, 4, 6])
def test_drawn_weights_spread_like_the_dense_layers(decomp, dims):
    for outputs, inputs, kernel in SHAPES:
        for scale in SCALES:
            layer = empty(decomp, outputs, inputs, kernel, dims, scale)
            draw(layer, 0.05)
            weight = layer.matrix().detach()
            rank = FORMATS[decomp].inner(layer.layout.folding, layer.layout.ranks)
            reference = 0.05 * largest_singular_value(random_matrix(*weight.shape, rank))
            assert weight.std().item() == pytest.approx(0.05, rel=0.02)
            assert 0.5 < largest_singular_value(weight) / reference < 1.6


@kinds
@pytest.mark.parametrize("dims", [2, 3, 4, 6])
def test_gradients_reach_every_core_at_a_comparable_scale(decomp, dims):
    for scale in SCALES:
        layer = empty(decomp, 64, 48, 1, dims, scale)
        draw(layer, 0.05)
        squares = torch.zeros(len(layer.cores))
        for upstream in torch.randn(16, 64, 48):  # many, as a core of one entry sees a single sum
            gradients = torch.autograd.grad((layer.matrix() * upstream).sum(), layer.cores)
            squares += torch.stack([gradient.square().mean() for gradient in gradients])
        assert squares.max() < 10**2 * squares.min()


@kinds
def test_draws_follow_the_seed(decomp):
    first, second, third = (empty(decomp, 16, 12) for _ in range(3))
    for layer, number in ((first, 1), (second, 1), (third, 2)):
        torch.manual_seed(number)
        draw(layer, 0.05)
    assert torch.equal(first.weight, second.weight)
    assert not torch.allclose(first.weight, third.weight)


@kinds
def test_a_layer_of_zeros_starts_at_zeros_and_still_learns(decomp):
    plain = nn.Linear(12, 10)
    nn.init.zeros_(plain.weight)
    for init in ("weights", "random", "decompose", "decompose_rescaled"):
        layer = decompose(plain, decomp=decomp, rank_scale=0.5, init=init)
        assert torch.count_nonzero(layer.weight) == 0 and layer.error == 0
        layer(torch.randn(8, 12)).sum().backward()
        assert any(core.grad.abs().sum() > 0 for core in layer.cores)


# --- from a weight


def tails(weight: torch.Tensor, axes: list[tuple[int, ...]], ranks) -> torch.Tensor:
    """For each rank, the squared norm that the best matrix of that rank leaves out, the axes of a tensor as rows."""
    left_out = []
    for rows, rank in zip(axes, ranks, strict=True):
        columns = [axis for axis in range(weight.dim()) if axis not in rows]
        matrix = weight.permute(*rows, *columns).reshape(prod(weight.shape[axis] for axis in rows), -1)
        left_out.append(torch.linalg.svdvals(matrix)[rank:].square().sum())
    return torch.stack(left_out) / weight.square().sum()


@pytest.mark.parametrize("decomp", ["bottleneck", "tt", "tucker", "tucker_tt"])
@pytest.mark.parametrize("dims", [2, 3, 4, 6])
@pytest.mark.parametrize("scale", [1e-9, 0.1, 0.5, 1])
def test_the_error_is_within_the_bounds_of_the_theory(decomp, dims, scale):
    """Above the largest part that any one rank leaves out, below all of them together (Oseledets, De Lathauwer)."""
    weight, layer = fall(48, 40), empty(decomp, 48, 40, 1, dims, scale)
    error = approximate(layer, weight)
    assert error == pytest.approx(((layer.matrix() - weight).norm() / weight.norm()).item(), abs=1e-5)
    tensor, ranks = weight.reshape(layer.layout.folding.modes), layer.layout.ranks
    sides, modes = [tuple(range(k)) for k in range(1, dims)], [(k,) for k in range(dims)]
    axes = {"tt": sides, "tucker": modes, "tucker_tt": modes + sides}
    left_out = tails(weight, [(0,)], ranks) if decomp == "bottleneck" else tails(tensor, axes[decomp], ranks)
    assert sqrt(left_out.max()) - 1e-3 < error < sqrt(left_out.sum()) + 1e-3


def test_one_cut_is_the_best_matrix_of_its_rank():
    weight = fall(48, 40)
    for decomp, close in (("tt", 1e-5), ("bottleneck", 1e-5), ("cp", 1e-2), ("ring", 1e-2)):
        layer = empty(decomp, 48, 40, 1, 2, 0.3)
        best = sqrt(tails(weight, [(0,)], [layer.layout.inner])[0])
        assert approximate(layer, weight) == pytest.approx(best, abs=close)


@pytest.mark.parametrize("dims", [3, 4, 6])
@pytest.mark.parametrize("scale", [0.1, 0.5])
def test_the_error_is_tensorlys_or_nearly(dims, scale):
    tensorly.set_backend("pytorch")
    weight = fall(48, 40)
    peers = {
        "tt": lambda tensor, ranks: tensor_train(tensor, [1, *ranks, 1]),
        "tucker": lambda tensor, ranks: tucker(tensor, list(ranks)),
        "cp": lambda tensor, ranks: parafac(tensor, ranks[0], init="random", n_iter_max=10, random_state=0),
    }
    for decomp, peer in peers.items():
        layer = empty(decomp, 48, 40, 1, dims, scale)
        tensor = weight.reshape(layer.layout.folding.modes)
        theirs = (peer(tensor, layer.layout.ranks).to_tensor() - tensor).norm() / tensor.norm()
        assert approximate(layer, weight) < 1.06 * theirs


@pytest.mark.parametrize("dims", [2, 3, 4, 6])
def test_full_ranks_reproduce_the_weight(dims):
    weight = fall(24, 16 * 9)
    for decomp in ("tt", "tucker", "tucker_tt"):
        layer = empty(decomp, 24, 16, 9, dims, 1)
        assert approximate(layer, weight) < 1e-5
        torch.testing.assert_close(layer.matrix(), weight, rtol=1e-3, atol=1e-4)


@kinds
def test_larger_ranks_approximate_better(decomp):
    weight = fall(24, 20)
    errors = [approximate(empty(decomp, 24, 20, 1, 3, scale), weight) for scale in (1e-9, 0.3, 0.6, 1)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.5 * errors[0]


def alive(layer: Decomposed) -> int:
    """How many parameters are not 0 or have a gradient."""
    weight = layer.matrix()
    gradients = torch.autograd.grad((weight * torch.randn(weight.shape)).sum(), layer.cores)
    return sum(
        ((core != 0) | (gradient != 0)).sum().item() for core, gradient in zip(layer.cores, gradients, strict=True)
    )


@kinds
def test_a_weight_of_rank_one_leaves_no_parameter_dead(decomp):
    weight, layer = torch.outer(torch.randn(24), torch.randn(20)), empty(decomp, 24, 20, 1, 3, 0.6)
    error = approximate(layer, weight)
    assert error < approximate(empty(decomp, 24, 20, 1, 3, 1e-9), weight) + 0.01
    assert alive(layer) == layer.layout.parameters


@pytest.mark.parametrize("decomp, ranks", [("tt", (8, 20)), ("tucker", (2, 2, 9)), ("tucker_tt", (2, 2, 9, 3, 4))])
def test_ranks_above_the_useful_ones_leave_no_parameter_dead(decomp, ranks):
    """tntorch cuts them; what is filled up changes no weight and has gradients."""
    weight, layer = fall(24, 20), DecomposedConv2d(nn.Conv2d(20, 24, 1), Layout(decomp, fold(24, 20, 3), ranks))
    error = approximate(layer, weight)
    assert error == pytest.approx(((layer.matrix() - weight).norm() / weight.norm()).item(), abs=1e-5)
    assert alive(layer) == layer.layout.parameters


@kinds
def test_balance_keeps_the_weight_and_evens_the_cores(decomp):
    layer = empty(decomp, 24, 20, 1, 4, 0.4)
    cores = [10.0**k * torch.randn(core.shape) for k, core in enumerate(layer.cores)]
    before, after = (layer.layout.weight(each) for each in (cores, balance(cores, layer.layout)))
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4 * before.abs().max().item())
    spreads = [core.square().mean().sqrt() for core in balance(cores, layer.layout)]
    assert max(spreads) < 30 * min(spreads)


NOTHING_FOR_CORES = {
    "float8": lambda: torch.full((6, 8), float("nan")).to(torch.float8_e4m3fn),
    "beyond float32": lambda: torch.full((6, 8), 1e300, dtype=torch.float64),
    "at the end of float32": lambda: torch.full((6, 8), 3e38),
    "whose square is infinite": lambda: torch.full((6, 8), 1e25),
    "complex": lambda: torch.ones(6, 8, dtype=torch.complex64),
}


@pytest.mark.parametrize("make", NOTHING_FOR_CORES.values(), ids=NOTHING_FOR_CORES)
def test_a_weight_that_no_cores_can_make_is_refused_and_changes_nothing(make):
    layer = decompose(nn.Linear(8, 6), decomp="bottleneck", rank_scale=0.5)
    error, cores = layer.error, [core.detach().clone() for core in layer.cores]
    with pytest.raises(InputError, match=r"^weight of .*; allowed: a tensor of \(6, 8\) without NaN, infinite or far"):
        assign(layer, make())
    assert layer.error == error and all(map(torch.equal, layer.cores, cores))
