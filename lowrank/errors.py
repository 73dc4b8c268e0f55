"""What a user is meant to see in place of a traceback: one line that says what can be done."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

LONGEST = 1000  # characters of a line: what a user gave may have millions
LEFT_OUT = " ... "  # in place of its middle


class OneLine:
    """An exception that IPython shows as its message alone."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def printable(text: str) -> str:
    """The text with what UTF-8 has no bytes for, as of a file whose name is in another encoding, written as code."""
    return text.encode(errors="backslashreplace").decode()


class InputError(OneLine, ValueError):
    """What a user asked for cannot be done; the message is one line that says what can, whatever the names in it.

    It can be printed, and of a very long one the middle is left out.

    >>> lowrank.Config(dims=1)
    Traceback (most recent call last):
    lowrank.errors.InputError: dims=1; allowed: 2 to 32
    """

    def __init__(self, message: str) -> None:
        line = printable(" ".join(str(message).splitlines()))
        half = (LONGEST - len(LEFT_OUT)) // 2
        super().__init__(line if len(line) <= LONGEST else line[:half] + LEFT_OUT + line[-half:])


class MissingPackage(InputError, ImportError):
    """What a user asked for needs a package that is not installed; the message is one line that says how to get it."""

    def __init__(self, name: str, package: str, extra: str) -> None:
        super().__init__(f"lowrank.{name} needs {package}: pip install 'lowrank[{extra}]'")


def whole_number(name: str, value: Any, least: int, most: int) -> int:
    """The value, numpy's too, as an int. Raises InputError if it is none, or out of bounds."""
    if not isinstance(value, Integral) or isinstance(value, bool) or not least <= value <= most:
        raise InputError(f"{name}={value!r}; allowed: an int, {least} to {most}")
    return int(value)


def check_functions(**given: Any) -> None:
    """Raises InputError at the first that cannot be called with one argument."""
    for name, value in given.items():
        if not takes(value, 1):
            named = "; parameters of runs are given by name, such as decomp='tt'" if isinstance(value, str) else ""
            raise InputError(f"{name}={value!r}; allowed: a function of one argument{named}")


def takes(function: Any, arguments: int) -> bool:
    """Whether it can be called with so many arguments; of some functions in C nobody knows."""
    if not callable(function):
        return False
    try:
        signature = inspect.signature(function, follow_wrapped=False)
    except Exception:  # of the function's own, too
        return True
    try:
        signature.bind(*[None] * arguments)
    except TypeError:
        return False
    return True


def refuse_unknown(values: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raises InputError at a name that is not among the allowed ones, with the nearest that is."""
    names = list(names)
    for name, value in values.items():
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(names)}"
            raise InputError(f"{name}={value!r}: there is no such parameter; {hint}")
