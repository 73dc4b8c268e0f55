"""Functions that take the fields of Config as **parameters show each of them: to help(), Tab and Shift-Tab."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import Field, fields
from functools import reduce
from operator import or_
from textwrap import indent, wrap
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable)


class Shown:
    """A default as a reader of the signature wants to see it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def name_function(value: Any) -> Any:
    """The default of a parameter, a function by its name instead of its address."""
    if not inspect.isroutine(value):
        return value
    return Shown(value.__name__ if value.__module__ == "builtins" else f"{value.__module__}.{value.__qualname__}")


def list_parameters(config: type) -> str:
    """The fields of Config with their defaults, meanings and what they may be, for a docstring."""
    lines = []
    for each in fields(config):
        doc, allowed = each.metadata["doc"], each.metadata["allowed"]()
        text = wrap(f"{doc}. Allowed: {allowed}.", 100)
        lines += [f"{each.name} = {each.default!r}", *(f"    {line}" for line in text)]
    return "\n".join(lines)


def keyword(field: Field, given: bool, listed: bool) -> inspect.Parameter:
    """The parameter of a signature that is this field; `...`, if it is not given, leaves it to the study."""
    kind: Any = reduce(or_, field.metadata["kinds"])
    annotation, default = Iterable[kind] if listed else kind, field.default if given else Shown("...")
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def show_parameters(config: type, given: bool = True, listed: bool = False) -> Callable[[Function], Function]:
    """Gives a function a signature and a docstring with the fields of Config in the place of its last, ** parameter.

    Not `given`: each is left to the study unless it is said. `listed`: each is a list of values.
    """

    def show(function: Function) -> Function:
        signature = inspect.signature(function, eval_str=True)
        *own, _ = signature.parameters.values()
        own = [each.replace(default=name_function(each.default)) for each in own]
        names = {each.name for each in own}
        more = [keyword(each, given, listed) for each in fields(config) if each.name not in names]
        function.__signature__ = signature.replace(parameters=[*own, *more])
        heading = "Parameters of a run" + (", with their defaults:" if given else ", and lowrank.run's defaults:")
        function.__doc__ = f"{inspect.getdoc(function)}\n\n{heading}\n\n{indent(list_parameters(config), '    ')}\n"
        return function

    return show
