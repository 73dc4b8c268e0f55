"""Any network with its layers decomposed, and made plain again.

A copy of the network is changed in place: a layer becomes another one and stays the same object, so that whatever
holds it (a list, a wrapper, a second name, its hooks) holds the decomposed one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.utils._pytree import tree_map_only

from ..ambient import plain_defaults, without_autocast
from ..errors import InputError, whole_number
from ..formats import CONTRACTIONS, FORMATS, MOST_DIMS, OR_YOUR_OWN, RANK_RULES, Folding, Layout, fold
from ..initial import approximate, draw, draw_zeros
from ..layers import Decomposed, decomposed_type, kernel_size
from ..original import decompose_draw
from .allocation import list_foldings
from .following import refuse_unfollowed
from .parts import Part, Selectors, all_names, check_module, choose, copy_module, group_tied, survey
from .sizes import Sizes, is_share

ALLOCATIONS = ("", "error", "even")
INITS = ("weights", "random", "decompose", "decompose_rescaled")


# --- to cores


@torch.inference_mode(False)  # in which no gradient would reach the cores
@without_autocast()
def decompose(
    module: nn.Module,
    *,
    decomp: str = "tt",
    dims: int = 3,
    budget: float = 0.0,
    rank_scale: float = 0.0,
    error: float = 0.0,
    allocation: str = "",
    rank_rule: str = "auto",
    init: str = "weights",
    skip: Selectors = (),
    only: Selectors = (),
    budgets: Mapping[str, float] | None = None,
    ranks: int | Sequence[int] | Mapping[str, int | Sequence[int]] | None = None,
    contraction: str = "auto",
    example: Any = None,
) -> nn.Module:
    """A copy of the module with its linear layers and convolutions held in a tensor format.

    What cannot be decomposed is left, with a warning; `lowrank.summary` lists it with the reason.

    The format:
        decomp       "tt" (tensor train), "tucker", "tucker_tt" (Tucker whose core is a tensor train), "cp", "ring"
                     (tensor ring), "bottleneck" (two thin matrices), or one of your own, see `lowrank.register`
        dims         modes that a weight [outputs, inputs] is folded into, 2 to 32; a bottleneck has none
        contraction  how a layer computes: "factors" (two thin products through the cut), "weight" (makes the weight,
                     then one product), "cores" (the format's own multiplication), "auto" (the cheapest)
    How small, one of three:
        budget       share of the replaced layers' weights that the decomposed ones may use, all together
        error        relative error that no layer may exceed; one that is not smaller within it stays dense
        rank_scale   share of the way from ranks of 1 to the largest useful ones
    or by hand; a layer follows the first pattern that names it, and stays dense if nothing does:
        ranks        for all layers, or by name, {"fc": (8, 8), "layer4.*": 16}; one number stands for all of a layer,
                     each cut at the largest that is of use
        budgets      a share for the layers of each pattern together, {"layer3.*": 0.1}
    Where a budget goes:
        allocation   "error": to the layers and ranks where the error of the approximation falls most; "even": by the
                     `rank_rule`. "" is "error" if the cores start at the module's weights
        rank_rule    how ranks grow together: "useful" (in proportion to the largest that the format can use), "root"
                     (to their square roots), "uniform" (all equal), "original" (as in 2019), "auto" (the format's own)
    The start:
        init         "weights" (the best approximation of the module's), "random" (orthogonal cores of the same
                     spread), "decompose" (of a fresh dense draw), "decompose_rescaled" (that, with the spread restored)
    The layers:
        skip, only   those to leave, those to take: shell patterns, types, or functions of a name and a layer
        example      an input (a tensor, a tuple, a dict of arguments by name): one forward pass before and one after
                     find the layers whose cores the output does not follow

    Raises InputError, one line that names the argument or the layer, if something of this cannot be.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    >>> small = lowrank.decompose(net, decomp="tt", dims=3, budget=0.25, skip="2")
    >>> [tuple(core.shape) for core in small[0].cores]
    [(1, 64, 7), (7, 8, 8), (8, 8, 1)]
    """
    check(module, decomp, dims, rank_rule, init, allocation, contraction)
    allocation = allocation or choose_allocation(module, init, rank_rule, rank_scale)
    sizes = Sizes(decomp, rank_rule, budget, rank_scale, error, allocation, budgets, ranks)
    net = copy_module(module)
    with one_line():
        hold_groups(group_tied(choose(net, only, skip)), sizes, int(dims), init, contraction)
    if example is not None:
        refuse_unfollowed(module, net, tree_map_only(Tensor, torch.clone, example))
    return net


def choose_allocation(module: nn.Module, init: str, rank_rule: str, rank_scale: float) -> str:
    """By the error if the cores start at weights and nothing is asked for that only the even path has."""
    fitted = init == "weights" and rank_rule == "auto" and not any(each.is_meta for each in module.parameters())
    return "error" if fitted and not (is_share(rank_scale) and rank_scale) else "even"


def hold_groups(groups: Sequence[Sequence[Part]], sizes: Sizes, dims: int, init: str, contraction: str) -> None:
    """Hold every group of layers, which share a weight, in the layout that `sizes` gives it, or note why not."""
    if sizes.needs_weights and any(group[0].module.weight.is_meta for group in groups):
        raise InputError("module: its weights are on the meta device; allowed there: allocation='even', and no error")
    foldings = [foldings_of(group, sizes, dims) for group in groups]
    # No name for the weights: each is to be freed as soon as its layer has cores.
    layouts = sizes.layouts([all_names(group) for group in groups], [*map(weight_matrix, groups)], foldings)
    for group, layout in zip(groups, layouts, strict=True):
        for part in group:
            vars(part.module).pop("left_dense", None)  # of an earlier time
        if isinstance(layout, Layout):
            hold_tied(group, layout, init, contraction)
        else:
            for part in group:
                part.module.left_dense = layout  # which `lowrank.summary` shows


@contextmanager
def one_line() -> Iterator[None]:
    """Makes the ValueError of formats and layers the InputError that a notebook shows in one line."""
    try:
        yield
    except ValueError as error:
        raise InputError(str(error)) from None


def check(
    module: nn.Module, decomp: str, dims: int, rank_rule: str, init: str, allocation: str, contraction: str
) -> None:
    check_module(module)
    for name, value, allowed in (
        ("decomp", decomp, FORMATS),
        ("rank_rule", rank_rule, RANK_RULES),
        ("init", init, INITS),
        ("allocation", allocation, ALLOCATIONS),
        ("contraction", contraction, ("auto", *CONTRACTIONS)),
    ):
        if not isinstance(value, str) or value not in allowed:
            more = OR_YOUR_OWN if name == "decomp" else ""
            raise InputError(f"{name}={value!r}; allowed: {', '.join(filter(None, allowed))}{more}")
    whole_number("dims", dims, 2, MOST_DIMS)


def weight_matrix(group: Sequence[Part]) -> Tensor:
    """The weight of these layers, [O, I]."""
    layer = group[0].module
    return decomposed_type(layer).to_matrix(layer, layer.weight.detach())


def foldings_of(group: Sequence[Part], sizes: Sizes, dims: int) -> list[Folding]:
    """How the weight of these layers may be folded."""
    kernel, (outputs, inputs) = kernel_size(group[0].module), weight_matrix(group).shape
    if sizes.allocation == "error":
        return list_foldings(sizes.decomp, outputs, inputs // kernel, dims, kernel)
    return [fold(outputs, inputs // kernel, dims, kernel, sizes.rank_rule)]


@torch.no_grad()
def hold_tied(parts: Sequence[Part], layout: Layout, init: str, contraction: str) -> None:
    """Hold the layers of one weight in this layout, and on the same cores."""
    cores = {}
    for part in parts:
        layer = part.module
        # nn.MultiheadAttention takes the weight of such a layer and never calls it
        way = "weight" if isinstance(layer, NonDynamicallyQuantizableLinear) else contraction
        decomposed = decomposed_type(layer)(layer, layout, way)
        if not cores:
            start_cores(decomposed, layer.weight, init)
            cores, error = {f"core_{k}": core for k, core in enumerate(decomposed.cores)}, decomposed.error
        decomposed._parameters |= cores
        decomposed.error = error
        become(layer, decomposed)
        part.weights.clear()  # which frees the weight


def become(layer: nn.Module, other: nn.Module) -> None:
    """Make a layer what the other is and let it stay the same object."""
    layer.__class__, layer.__dict__ = type(other), vars(other)


def start_cores(layer: Decomposed, weight: Tensor, init: str) -> None:
    """Start the cores from a dense weight as `init` says; on the meta device there is nothing to start."""
    if weight.is_meta:
        return
    with plain_defaults(torch.promote_types(weight.dtype, torch.float32)):
        std = weight.to(torch.get_default_dtype()).square().mean().sqrt().item()
        if std == 0:
            draw_zeros(layer)
            layer.error = 0.0
        elif init == "random":
            draw(layer, std)
        elif init == "weights":
            layer.error = approximate(layer, layer.to_matrix(layer, weight))
        else:
            dense = layer.to_matrix(layer, std * torch.randn(weight.shape))
            layer.error = approximate(layer, dense, std if init == "decompose_rescaled" else None, decompose_draw)


@torch.inference_mode(False)
@torch.no_grad()
@without_autocast()
def assign(layer: Decomposed, weight: Tensor) -> None:
    """Fit the cores of a decomposed layer, in place, to a weight of the dense layer's shape; sets `layer.error`.

    Layers that share their cores with it follow, but for the `error` that each was told.

    Raises InputError if the layer is not a decomposed one or cannot have this weight.

    >>> import torch
    >>> layer = lowrank.decompose(torch.nn.Linear(64, 64), decomp="tt", budget=0.25)
    >>> lowrank.assign(layer, torch.ones(64, 64))
    >>> torch.allclose(layer.weight, torch.ones(64, 64), atol=1e-4)
    True
    """
    if not isinstance(layer, Decomposed):
        raise InputError(f"layer={type(layer).__name__}; allowed: a layer that lowrank.decompose made")
    refuse_remade(layer, "layer")
    shape = tuple(layer.made_weight().shape)
    if not isinstance(weight, Tensor) or tuple(weight.shape) != shape or not can_be_made(weight, layer.core_0.dtype):
        given = f"{weight.dtype} {tuple(weight.shape)}" if isinstance(weight, Tensor) else type(weight).__name__
        allowed = f"a tensor of {shape} without NaN, infinite or far too large numbers"
        raise InputError(f"weight of {given}; allowed: {allowed}")
    start_cores(layer, weight.detach(), "weights")


def can_be_made(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether cores of that dtype can make it: it has real numbers, whose norm is finite where they are contracted."""
    plain = weight.layout is torch.strided and not (weight.is_meta or weight.is_complex() or weight.is_quantized)
    return plain and bool(weight.to(torch.promote_types(dtype, torch.float32)).norm().isfinite())


# --- back


@torch.inference_mode(False)
@torch.no_grad()
@without_autocast()
def densify(module: nn.Module) -> nn.Module:
    """A copy of the module with every decomposed layer made a plain one again, with the weight that its cores make.

    >>> from torch import nn
    >>> lowrank.densify(lowrank.decompose(nn.Linear(64, 64), decomp="ring", budget=0.25))
    Linear(in_features=64, out_features=64, bias=True)
    """
    net = copy_module(module)
    weights: dict[tuple[int, ...], nn.Parameter] = {}
    for part in survey(net):
        if isinstance(part.module, Decomposed):
            refuse_remade(part.module, part.name or "module")
            plain, cores = part.module.dense(), tuple(map(id, part.module.cores))
            plain._parameters["weight"] = weights.setdefault(cores, plain.weight)  # tied layers stay tied
            become(part.module, plain)
    return net


def refuse_remade(layer: Decomposed, name: str) -> None:
    """Raises InputError at cores that a hook makes anew at each call, or a bias that something else makes."""
    own, makers = layer._parameters, layer._modules.get("parametrizations", ())
    cores = {f"core_{k}" for k in range(len(layer.layout.shapes))}
    if remade := sorted(cores.difference(own, makers) | set(makers).difference(cores)):
        raise InputError(f"{name}: {', '.join(remade)} is made anew at each call, by pruning for one; make it plain")
