"""Whether what a format of your own says is what it does: checked on weights of several sizes."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, prod
from typing import Any

import torch
from torch import Tensor

from ..ambient import plain_torch
from ..errors import InputError
from .budget import RANK_RULES
from .folding import Folding, fold
from .format import Format

# outputs, inputs, dims and kernel of the weights on which a format is checked
CHECKED = [
    *[(12, 8, 4, 1), (8, 12, 3, 1), (7, 5, 2, 1), (6, 4, 3, 9), (9, 9, 2, 1)],
    *[(32, 64, 4, 1), (48, 32, 5, 1), (128, 128, 3, 1), (60, 120, 3, 1)],
]
CLOSE = 1e-3  # what float32 may lose, relative to the largest entry
TIMES = 10  # times the parameters of the weight: more ranks than that are of no use


@torch.random.fork_rng(devices=[])  # what comes after draws as if nothing had been checked
@plain_torch()
def check_form(decomp: str, form: Format) -> None:
    """Raises InputError if what a format says is not what it does, or it can hold none of the weights tried."""
    if not any([check_format(decomp, form, fold(*size)) for size in CHECKED]):
        sizes = ", ".join(f"{outputs} x {inputs * kernel}" for outputs, inputs, _, kernel in CHECKED)
        raise InputError(f"decomp={decomp!r}: its `refusal` allows none of the weights that it is checked on: {sizes}")


@torch.random.fork_rng(devices=[])
@plain_torch()
def check_copy(decomp: str, form: Format) -> None:
    """Raises InputError if a copy of a format that was checked fails on the first weight that it can hold."""
    for size in CHECKED:
        if check_format(decomp, form, fold(*size)):
            return


def check_format(decomp: str, form: Format, folding: Folding) -> bool:
    """Whether the format can hold such a weight; raises InputError, one line, if what it says is not what it does."""
    try:
        refusal = form.refusal(folding)
        if refusal and isinstance(refusal, str):
            return False
        problem, cause = f"refusal is {refusal!r}, not a text" if refusal != "" else "", None
        problem = problem or next(problems(form, folding), "")
    except Exception as error:
        problem, cause = f"{type(error).__name__}: {error}", error
    if problem:
        size = f"{folding.outputs} x {folding.inputs}, folded into {folding}"
        raise InputError(f"decomp={decomp!r}, for a weight of {size}: {problem}") from cause
    return True


def problems(form: Format, folding: Folding) -> Iterator[str]:
    """What is wrong with a format, one line each, at ranks of 1, half way and at the largest."""
    if form.rank_rule not in RANK_RULES[1:]:
        yield f"rank_rule is {form.rank_rule!r}; allowed: {', '.join(RANK_RULES[1:])}"
    for name in ("largest", "original"):
        if not are_counts(ranks := getattr(form, name)(folding)):
            yield f"{name} is {ranks!r}, not positive integers"
    largest, original, pace = form.largest(folding), form.original(folding), form.pace(folding)
    for name, numbers in (("original", original), ("pace", pace)):
        if len(numbers) != len(largest):
            yield f"{name} has {len(numbers)} numbers for {len(largest)} ranks"
    if not all(0 < number < inf for number in pace):
        yield f"pace is {pace!r}, not positive numbers"
    for rows, bounds in form.cuts(folding):
        if not (are_some(rows, len(folding.modes)) and len(rows) < len(folding.modes)):
            yield f"cuts has {rows!r} for rows; allowed: some of {len(folding.modes)} modes, by number, not all"
        if not are_some(bounds, len(largest)):
            yield f"cuts has {bounds!r} for ranks; allowed: some of {len(largest)} ranks, by number"
    if not form.uses_dims:
        yield from modes_problems(form, folding)
    for share in (0, 0.5, 1):
        ranks = tuple(1 + int(share * (rank - 1)) for rank in largest)
        yield from count_problems(form, folding, ranks)
        yield from contraction_problems(form, folding, ranks)
        yield from core_problems(form, folding, ranks)


def modes_problems(form: Format, folding: Folding) -> Iterator[str]:
    """What shows that a format does look at the modes, although it says that it does not."""
    other = fold(folding.outputs, folding.inputs, len(folding.modes) + 1)
    ranks, found = form.largest(folding), []
    for each in (folding, other):
        cores = [torch.ones(shape).cumsum(-1) for shape in form.shapes(each, ranks)]
        shapes = [tuple(core.shape) for core in cores]
        found.append((form.largest(each), shapes, form.weight(cores, each).tolist()))
    if found[0] != found[1]:
        yield f"uses_dims is False, but with {len(other.modes)} modes it is another"


def are_counts(sizes: Any) -> bool:
    return isinstance(sizes, tuple | list) and all(type(size) is int and size > 0 for size in sizes)


def are_some(chosen: Any, count: int) -> bool:
    """Whether these are one or more of the numbers below `count`, none of them twice."""
    chosen = list(chosen)
    return 0 < len(chosen) == len(set(chosen)) and set(chosen) <= set(range(count))


def count_problems(form: Format, folding: Folding, ranks: tuple[int, ...]) -> Iterator[str]:
    shapes = form.shapes(folding, ranks)
    if not isinstance(shapes, tuple | list) or not shapes or not all(map(are_counts, shapes)):
        yield f"shapes at ranks {ranks} are {shapes!r}, not a list of positive integers for each core"
    size, most = sum(map(prod, shapes)), TIMES * folding.outputs * folding.inputs
    if size > most:
        yield f"at ranks {ranks} it has {size:,} parameters; none are of use over {most:,}, {TIMES} times the weight's"
    for name in ("inner", "factors_work", "weight_work", "multiply_work"):
        count = getattr(form, name)(folding, ranks)
        if not (type(count) is int and count >= 0 or count is None and name in ("inner", "multiply_work")):
            yield f"{name} at ranks {ranks} is {count!r}, not an integer >= 0"
    splits = form.splits(folding, ranks)
    fits = [type(split) is int and 0 <= split <= len(shape) for split, shape in zip(splits, shapes, strict=False)]
    if len(splits) != len(shapes) or not all(fits):
        yield f"splits are {splits!r} for cores of {shapes!r}"
    for k, limit in enumerate(form.largest(folding)):
        raised = form.shapes(folding, (*ranks[:k], ranks[k] + 1, *ranks[k + 1 :])) if ranks[k] < limit else None
        if raised and sum(map(prod, raised)) <= size:
            yield f"raising rank {k} of {ranks} by one adds no parameters"


def contraction_problems(form: Format, folding: Folding, ranks: tuple[int, ...]) -> Iterator[str]:
    cores = [torch.randn(shape, requires_grad=True) for shape in form.shapes(folding, ranks)]
    weight, inner = form.weight(cores, folding), form.inner(folding, ranks)
    if not isinstance(weight, Tensor) or tuple(weight.shape) != (folding.outputs, folding.inputs):
        yield f"its cores make a weight of {tuple(weight.shape) if isinstance(weight, Tensor) else type(weight)}"
    if not 0 < weight.norm() < inf:
        yield f"random cores make a weight of norm {weight.norm():g}"
    if inner is not None:
        left, right = form.factors(cores, folding)
        if tuple(left.shape) != (folding.outputs, inner) or tuple(right.shape) != (inner, folding.inputs):
            yield f"inner is {inner}, but its factors are {tuple(left.shape)} and {tuple(right.shape)}"
        if not agree(left @ right, weight):
            yield "the product of its factors is not its weight"
        if not same_gradients(left @ right, weight, cores):
            yield "the gradients by its factors are not those by its weight"
    if form.multiply_work(folding, ranks) is not None:
        yield from multiply_problems(form, folding, cores, weight)
    yield from linearity_problems(form, folding, cores, weight)
    yield from bound_problems(form, folding, ranks, weight.detach())


def multiply_problems(form: Format, folding: Folding, cores: list[Tensor], weight: Tensor) -> Iterator[str]:
    """What is wrong with its own multiplication of vectors, sequences and, as they come in a network, images."""
    images = torch.randn(2, folding.inputs, 3, 4).movedim(1, -1)
    for x in (torch.randn(5, folding.inputs), torch.randn(3, 2, folding.inputs), images):
        x.requires_grad_()
        given = x * 1
        y, expected = form.multiply(given, cores, folding), x @ weight.T
        if not torch.equal(given, x):
            yield "multiply writes to what it multiplies"
        if y.shape != expected.shape or not agree(y, expected):
            yield f"multiply of {tuple(x.shape)} does not multiply by its weight"
        if not same_gradients(y, expected, [x, *cores]):
            yield "the gradients by multiply are not those by its weight"


def same_gradients(one: Tensor, other: Tensor, inputs: list[Tensor]) -> bool:
    """Whether two tensors that are equal have the same gradients by all the inputs."""
    direction = torch.randn_like(other)
    pairs = [
        torch.autograd.grad(each, inputs, direction, retain_graph=True, allow_unused=True, materialize_grads=True)
        if each.requires_grad
        else [torch.zeros_like(x) for x in inputs]
        for each in (one, other)
    ]
    return all(map(agree, *pairs))


def linearity_problems(form: Format, folding: Folding, cores: list[Tensor], weight: Tensor) -> Iterator[str]:
    """What keeps a core from being trained: no gradient, another one, or one that says little of a step."""
    square, found = weight.square().sum(), [None] * len(cores)
    if weight.requires_grad:
        found = torch.autograd.grad(square / 2, cores, allow_unused=True)
    for k, core in enumerate(cores):
        if found[k] is None:
            yield f"no gradient of its weight reaches core {k}"
        other = torch.randn_like(core)
        one, both = (form.weight([*cores[:k], each, *cores[k + 1 :]], folding) for each in (other, core + other))
        if not agree(both, weight + one):
            yield f"its weight is not linear in core {k}: a sum of two cores does not make the sum of their weights"
        if not agree((found[k] * core).sum(), square):  # Euler: what is linear in a core is its gradient times the core
            yield f"only a part of its weight's gradient reaches core {k}"


def bound_problems(form: Format, folding: Folding, ranks: tuple[int, ...], weight: Tensor) -> Iterator[str]:
    """The cuts whose ranks do not bound what they say: a budget would put its parameters in wrong places."""
    for rows, bounds in form.cuts(folding):
        columns = [mode for mode in range(len(folding.modes)) if mode not in rows]
        unfolded = weight.reshape(folding.modes).permute(*rows, *columns).flatten(0, len(rows) - 1).flatten(1)
        rank, bound = int(torch.linalg.matrix_rank(unfolded, rtol=CLOSE)), prod(ranks[k] for k in bounds)
        if rank > bound:
            yield f"cuts says that ranks {bounds!r} of {ranks} bound the rank over modes {rows!r}: it is {rank}"


def core_problems(form: Format, folding: Folding, ranks: tuple[int, ...]) -> Iterator[str]:
    """What is wrong with the cores that it starts with and those that it fits, if it does either."""
    weight = torch.randn(folding.outputs, folding.inputs)
    given = weight.clone()
    found = {"start": form.start(folding, ranks), "fit": form.fit(given, folding, ranks)}
    if not torch.equal(given, weight):
        yield "fit writes to the weight that it is given"
    for name, cores in found.items():
        if cores is None:
            continue
        shapes, expected = [tuple(core.shape) for core in cores], form.shapes(folding, ranks)
        if shapes != [tuple(shape) for shape in expected]:
            yield f"{name} makes cores of {shapes}, not of {expected}"
        made = form.weight(cores, folding)
        if not 0 < made.norm() < inf:
            yield f"{name} makes a weight of norm {made.norm():g}"
        if name == "fit" and (made - weight).norm() > (1 - CLOSE) * weight.norm():
            yield "fit makes a weight that is no nearer to the one given than zeros are"


def agree(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= CLOSE * other.abs().max())
