"""What a network consists of: every weight that might be decomposed, why some cannot be, and which a user names.

A weight is a parameter of two axes or more. Scales, biases and the like have one and are not worth a decomposition.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize, prune
from torch.utils._pytree import tree_leaves

from ..errors import InputError, takes
from ..formats.fits import widen
from ..layers import Decomposed, decomposed_type

Selector = str | type | Callable[[str, nn.Module], bool]  # a shell pattern of names, a type of layer, a test of both
Selectors = Selector | Iterable[Selector]

CONVOLUTION = nn.modules.conv._ConvNd
LAYERS = (nn.Linear, CONVOLUTION, Decomposed)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LAZY = "lazy"
NAMED = 3  # names of layers that are left for one reason, before the rest are only counted


@dataclass(eq=False)
class Part:
    """A module with weights of its own, under all its names; `reason` says why it cannot be decomposed, if so."""

    module: nn.Module
    weights: list[nn.Parameter]
    names: list[str] = field(default_factory=list)
    reason: str = ""

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def weight(self) -> nn.Parameter:
        """The one weight of a layer that can be decomposed."""
        return self.module._parameters["weight"]


def check_module(module: Any, name: str = "module") -> None:
    if not isinstance(module, nn.Module):
        raise InputError(f"{name}={type(module).__name__}; allowed: a torch.nn.Module")


def survey(module: nn.Module) -> list[Part]:
    """Everything in the module that holds weights: a part for each layer, one for each weight of other modules."""
    check_module(module)
    parts: dict[tuple[int, str], Part] = {}
    inside = parametrizations(module)
    for path, each in module.named_modules(remove_duplicate=False):
        if id(each) not in inside:
            for name, weights in own_weights(each):
                part = parts.setdefault((id(each), name), Part(each, weights, reason=why_left(each)))
                part.names.append(".".join(filter(None, (path, name))))
    mark_tied(list(parts.values()))
    return list(parts.values())


def parametrizations(module: nn.Module) -> set[int]:
    """The ids of the modules that make parametrized weights: what they hold counts for the layer that they serve."""
    served = [each.parametrizations for each in module.modules() if parametrize.is_parametrized(each)]
    return {id(inner) for each in served for inner in each.modules()}


def own_weights(module: nn.Module) -> Iterator[tuple[str, list[nn.Parameter]]]:
    """The weights that a module itself holds: all under one name "" for a layer, else each under its name."""
    own = {name: each for name, each in module._parameters.items() if each is not None and is_weight(each)}
    if parametrize.is_parametrized(module):
        own |= {name: each for name, each in module.parametrizations.named_parameters() if is_weight(each)}
        yield "", list(own.values())
    elif isinstance(module, LAYERS) or decomposed_type(module):
        yield "", list(own.values())
    else:
        for name, each in own.items():
            yield "" if name == "weight" else name, [each]


def is_weight(parameter: nn.Parameter) -> bool:
    return isinstance(parameter, UninitializedParameter) or parameter.dim() > 1


def why_left(module: nn.Module) -> str:
    """Why a module cannot be decomposed; empty if it can."""
    kind = type(module)
    if isinstance(module, Decomposed):
        return "decomposed already"
    if parametrize.is_parametrized(module):
        makers = [type(inner).__name__.strip("_") for each in module.parametrizations.values() for inner in each]
        return f"parametrized by {', '.join(makers)}: torch.nn.utils.parametrize.remove_parametrizations makes it plain"
    if any(isinstance(each, UninitializedParameter) for each in module._parameters.values()):
        return LAZY
    if decomposed_type(module) is None:
        if isinstance(module, LAYERS):
            known = f"lowrank.layers.support({kind.__name__}, ...) says what it is like"
            return f"{kind.__module__}.{kind.__qualname__}, which has methods or attributes of its own: {known}"
        return kind.__name__
    if module._parameters.get("weight") is None:
        hooks = module._forward_pre_hooks.values()
        pruned = any(isinstance(hook, prune.BasePruningMethod) for hook in hooks)
        makers = ["pruning"] if pruned else [type(hook).__name__ for hook in hooks]
        return f"its weight is made anew at each call by {' and '.join(makers) or 'something else'}"
    if "forward" in vars(module):
        return "its forward was replaced"
    if getattr(module, "groups", 1) > 1:
        return "grouped"
    if module.weight.dtype not in DTYPES:
        return f"of {module.weight.dtype}"
    return "" if module.weight.numel() else "of size 0"


def mark_tied(parts: list[Part]) -> None:
    """Say of a layer whose weight another part holds as well, and cannot let go, that it has to stay."""
    holders: dict[int, list[Part]] = {}
    for part in parts:
        for weight in part.weights:
            holders.setdefault(id(weight), []).append(part)
    for together in holders.values():
        kinds = {decomposed_type(part.module) for part in together}
        fixed = next((part for part in together if part.reason), together[0] if len(kinds) > 1 else None)
        for part in together if fixed else ():
            if not part.reason:
                other = fixed if fixed is not part else together[-1]
                part.reason = f"tied to {other.name} ({type(other.module).__name__})"


# --- which of them


def choose(module: nn.Module, only: Selectors, skip: Selectors) -> list[Part]:
    """The layers to decompose; warns of what was asked for and has to be left."""
    parts = survey(module)
    taking, skipping = list_selectors(only), list_selectors(skip)
    skipped = select(parts, "skip", skipping)
    asked = [part for part in (select(parts, "only", taking) if taking else parts) if part not in skipped]
    for part in parts:
        if not part.reason and part not in asked:
            part.reason = part.module.left_dense = "skipped"
    mark_tied(parts)
    kept = [part for part in parts if not part.reason]
    left = [part for part in asked if part.reason and not isinstance(part.module, Decomposed)]
    if not kept:
        given = [f"{name}={value!r}" for name, value in (("only", only), ("skip", skip)) if list_selectors(value)]
        why = f"with {', '.join(given)}" if parts else "in a module without weights"
        raise InputError(f"there is nothing to decompose{f'; left: {name_parts(left)}' if left else f' {why}'}")
    for part in (*kept, *left):
        refuse_unready(part)
    if left:
        warnings.warn(f"left as they are: {name_parts(left)}", stacklevel=5)
    return kept


def refuse_unready(part: Part) -> None:
    name = part.name or type(part.module).__name__
    if part.reason == LAZY:
        raise InputError(f"{name} is lazy: let the network see an input first, or skip it")
    if not part.reason and not part.weight.is_meta and not widen(part.weight).norm().isfinite():
        raise InputError(f"{name}: its weight holds NaN, infinite or far too large numbers; mend it first, or skip it")


def list_selectors(selectors: Selectors | None) -> list[Selector]:
    if selectors is None:
        return []
    several = isinstance(selectors, Iterable) and not isinstance(selectors, str | type | nn.Module | Tensor)
    return list(selectors) if several else [selectors]


def select(parts: Sequence[Part], argument: str, selectors: Iterable[Selector]) -> list[Part]:
    """The parts that one of the selectors names; raises InputError at one that is none or that names no part."""
    found = []
    for each in selectors:
        if not isinstance(each, str | type) and (not takes(each, 2) or isinstance(each, nn.Module)):
            raise InputError(f"{argument}={each!r}; allowed: patterns of names, types, functions of a name and a layer")
        selected = [part for part in parts if is_selected(part, each)]
        if not selected:
            raise InputError(f"{argument}={each!r} names no layer; there are {', '.join(all_names(parts))}")
        found += selected
    return found


def is_selected(part: Part, selector: Selector) -> bool:
    if isinstance(selector, str):
        return is_named(part.names, selector)
    if isinstance(selector, type):
        return isinstance(part.module, selector)
    return any(selector(name, part.module) for name in part.names)


def is_named(names: Iterable[str], pattern: str) -> bool:
    return any(fnmatch(name, pattern) or fnmatch(name, f"{pattern}.*") for name in names)


def all_names(parts: Iterable[Part]) -> list[str]:
    return [name for part in parts for name in part.names]


def name_parts(parts: Sequence[Part]) -> str:
    """The names of parts with the reason of each, those of one reason together and shortened."""
    reasons: dict[str, list[str]] = {}
    for part in parts:
        reasons.setdefault(part.reason, []).append(part.name or type(part.module).__name__)
    return "; ".join(
        f"{', '.join(names[:NAMED])}{f' and {len(names) - NAMED} more' if len(names) > NAMED else ''} ({reason})"
        for reason, names in reasons.items()
    )


def group_tied(parts: Iterable[Part]) -> list[list[Part]]:
    """The parts, those of one weight together."""
    groups: dict[int, list[Part]] = {}
    for part in parts:
        groups.setdefault(id(part.weight), []).append(part)
    return list(groups.values())


# --- a module as a whole


def run_example(module: nn.Module, example: Any, said: str = "example") -> Any:
    """What the module, in evaluation, makes of a tensor, of a tuple of arguments or of a dict of arguments by name.

    Raises InputError, which calls the example as `said`, if the module does not take it.
    """
    arguments = example if isinstance(example, tuple | list) else () if isinstance(example, Mapping) else (example,)
    try:
        with evaluating(module):
            return module(*arguments, **(example if isinstance(example, Mapping) else {}))
    except Exception as error:
        line = str(error).strip().partition("\n")[0]
        raise InputError(f"{said}: the network does not take it ({type(error).__name__}: {line})") from error


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module into evaluation, and each of its modules back into training that was there."""
    training = [each for each in module.modules() if each.training]
    module.eval()
    try:
        yield
    finally:
        for each in training:
            each.training = True


def copy_module(module: nn.Module) -> nn.Module:
    """A deep copy; what modules keep of a forward pass, as pruning keeps its weight, is copied without its history.

    As torch copies no hooks of tensors, it warns of those that parameters have.
    Raises InputError if something in it cannot be copied, such as a lock.
    """
    check_module(module)
    parameters = module.named_parameters()
    if hooked := [name for name, each in parameters if each._backward_hooks or each._post_accumulate_grad_hooks]:
        warnings.warn(f"hooks of parameters stay with the module, its copy has none: {', '.join(hooked)}", stacklevel=5)
    kept = [each for one in module.modules() for each in tree_leaves(list(vars(one).values()))]
    memo = {id(each): each.detach().clone() for each in kept if isinstance(each, Tensor) and not each.is_leaf}
    try:
        net = copy.deepcopy(module, memo)
    except Exception as error:  # of the module's own, too
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"module={type(module).__name__}: it cannot be copied ({reason})") from error
    for parameter, copied in zip(module.parameters(), net.parameters(), strict=True):
        vars(copied).update(vars(parameter))  # attributes, which torch does not copy
    return net
