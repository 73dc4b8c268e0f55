"""What all decomposed layers share: cores as plain parameters, and a Layout that says how they fit together.

Shapes below: O outputs, I inputs (in_channels * the size of the kernel), m the inner width.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from ..display import html_table
from ..errors import InputError
from ..formats import CONTRACTIONS, Layout
from .guard import WRITTEN, MadeWeight


class Decomposed(nn.Module):
    """What the decomposed layers share: the cores and the weight that they make.

    Made from a dense layer, whose bias, hooks and attributes it takes over. `contraction` is "factors" (two thin
    products through m channels), "weight" (one product, W built once a step), "cores" (the format's own
    multiplication) or "auto", the cheapest of these by counted work. Factors and weight are made in float32 with
    autocast off and rounded once to the precision of the product.
    """

    layout: Layout
    contraction: str
    origin: type[nn.Module]  # of the dense layer, which `dense` makes again
    error: float = 0.0  # relative, of the approximation that the cores started as

    def __init__(self, layer: nn.Module, layout: Layout, contraction: str = "auto") -> None:
        chosen = choose_contraction(layer, layout, contraction)
        vars(self).update(copied_attributes(layer))
        weight, rest = layer.weight, {name: each for name, each in self._parameters.items() if name != "weight"}
        cores = [nn.Parameter(weight.new_empty(shape), weight.requires_grad) for shape in layout.shapes]
        for core in cores:
            vars(core).update(vars(weight))  # what optimisers are told, such as that it does not decay
        self._parameters = {f"core_{k}": core for k, core in enumerate(cores)} | rest
        self.layout = layout
        self.contraction = chosen
        self.origin = type(layer)

    def dense(self) -> nn.Module:
        """A layer of the type that it was made from, with the weight that the cores make, in their precision."""
        plain = self.origin.__new__(self.origin)
        attributes = copied_attributes(self)
        vars(plain).update({name: each for name, each in attributes.items() if name not in Decomposed.__annotations__})
        rest = {name: each for name, each in self._parameters.items() if not name.startswith("core_")}
        weight = nn.Parameter(self.made_weight().detach().contiguous(), requires_grad=self.core_0.requires_grad)
        vars(weight).update(vars(self.core_0))
        plain._parameters = {"weight": weight} | rest
        plain._modules.pop("parametrizations", None)  # of the cores
        return plain

    @property
    def cores(self) -> list[nn.Parameter]:
        return [getattr(self, f"core_{k}") for k in range(len(self.layout.shapes))]

    @property
    def compression(self) -> float:
        """The parameters of the cores over those of the weight that they make."""
        return self.layout.parameters / self.layout.size

    @property
    def weight(self) -> Tensor:
        """What the cores make, in the dense layer's shape and the cores' precision; writing to it raises InputError."""
        weight = self.made_weight()
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # a graph holds no subclass of Tensor
        return weight if traced else weight.as_subclass(MadeWeight)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            raise InputError(WRITTEN)
        super().__setattr__(name, value)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        if name.startswith("weight"):  # by pruning, weight_norm and their like
            raise InputError(WRITTEN)
        super().register_parameter(name, param)

    def made_weight(self) -> Tensor:
        """What the cores make, in the dense layer's shape and the cores' precision."""
        return self.to_weight(self.matrix().to(self.core_0.dtype))

    @staticmethod
    def to_matrix(layer: nn.Module, weight: Tensor) -> Tensor:
        """The weight of a dense layer as [O, I]."""
        return weight.flatten(1)  # [O, I]

    def to_weight(self, matrix: Tensor) -> Tensor:
        """The inverse of `to_matrix`; of R [m, I] the weight of the dense layer with m outputs."""
        return matrix

    def factors(self) -> tuple[Tensor, Tensor]:
        """L [O, m] and R [m, I] with W = L @ R, in float32 or wider."""
        with in_own_precision(self.core_0):
            return self.layout.factors(promote_cores(self.cores))  # [O, m], [m, I]

    def matrix(self) -> Tensor:
        """The weight that the cores make, [O, I] in float32 or wider."""
        with in_own_precision(self.core_0):
            return self.layout.weight(promote_cores(self.cores))  # [O, I]

    def multiply(self, x: Tensor) -> Tensor:
        """The format's own multiplication, and the bias: [..., I] -> [..., O]."""
        y = self.layout.multiply(x, [core.to(x.dtype) for core in self.cores])  # [..., O]
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def forward(self, input: Tensor, *others: Any, **named: Any) -> Tensor:
        if isinstance(input, torch.fx.Proxy):  # a tracer keeps the layer whole, as it keeps torch's own
            tracer = input.tracer
            return tracer.create_proxy("call_module", tracer.path_of_module(self), (input, *others), named)
        return self.applied(input, *others, **named)

    def extra_repr(self) -> str:
        layout = self.layout
        folded = f"modes={str(layout.folding).replace(' ', '')}, " if layout.form.uses_dims else ""
        ranks = f"ranks={','.join(map(str, layout.ranks))}"
        own = f"{layout.decomp}, {folded}{ranks}, contraction={self.contraction}"
        return f"{super().extra_repr()}, {own}" if super().extra_repr() else own

    def _repr_html_(self) -> str:
        return html_table({name: [value] for name, value in describe_layer(self).items()})


def copied_attributes(module: nn.Module) -> dict[str, Any]:
    """All that a module holds, hooks included; to add to its dictionaries does not add to the module's own."""
    return {name: each.copy() if isinstance(each, dict | set) else each for name, each in vars(module).items()}


# --- which way through a layer


def choose_contraction(layer: nn.Module, layout: Layout, contraction: str) -> str:
    """The contraction that is asked for, or for "auto" the cheapest; raises ValueError if the layer cannot do it."""
    if contraction not in ("auto", *CONTRACTIONS):
        raise ValueError(f"contraction={contraction!r}; allowed: auto, {', '.join(CONTRACTIONS)}")
    possible = [each for each in layout.contractions if each != "cores" or is_pointwise(layer)]
    if contraction == "auto":
        return layout.cheapest(possible)
    if contraction == "factors" and contraction not in possible:
        modes = f"with modes {layout.folding.modes} has no cut"
        reason = "makes no two thin factors" if layout.folding.has_cut else modes
        raise ValueError(f"contraction='factors': {layout.decomp} {reason}")
    if contraction == "cores" and contraction not in possible:
        reason = (
            f"{layout.decomp} has no multiplication of its own"
            if layout.multiply_work is None
            else f"{layer} is not 1 x 1"
        )
        raise ValueError(f"contraction='cores': {reason}")
    return contraction


def is_pointwise(layer: nn.Module) -> bool:
    """Whether each position (a pixel, a token) is multiplied by the weight on its own."""
    if not hasattr(layer, "kernel_size"):
        return True
    plain = set(layer.kernel_size) == set(layer.stride) == {1} and set(layer.padding) in ({0}, set("valid"))
    return plain and not layer.transposed


def kernel_size(layer: nn.Module) -> int:
    return prod(getattr(layer, "kernel_size", ()))


def describe_layer(layer: Decomposed) -> dict[str, object]:
    """Format, modes, ranks and counts of one layer."""
    layout = layer.layout
    return {
        "decomp": layout.decomp,
        "modes": str(layout.folding) if layout.form.uses_dims else "",
        "ranks": ", ".join(map(str, layout.ranks)),
        "weights": layout.size,
        "parameters": layout.parameters,
        "share": layer.compression,
        "contraction": layer.contraction,
        "error": layer.error,
    }


# --- precision


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on for the device of x; the meta device has none."""
    return torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)


def promote_cores(cores: Sequence[Tensor]) -> list[Tensor]:
    """Cores in the precision that they are contracted in: float32, or float64 if they have it."""
    return [core.to(torch.promote_types(core.dtype, torch.float32)) for core in cores]


def in_own_precision(x: Tensor) -> AbstractContextManager:
    """No autocast on the device of x. Only if it is on: a layer enters this at every step."""
    return torch.autocast(x.device.type, enabled=False) if autocasts(x) else nullcontext()
