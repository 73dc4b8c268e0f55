"""Controls above what they show, in a live notebook; if nobody is at the controls, what they show as they start."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
from IPython.display import Image, display
from matplotlib.figure import Figure

Control = tuple[Any, Callable[..., widgets.Widget]]  # where it starts, and what makes it


def at_controls() -> bool:
    """Whether somebody is: JupyterLab names the notebook in the environment of its kernel."""
    return "JPY_SESSION_NAME" in os.environ


def show_controlled(show: Callable[..., list[Any]], **controls: Control) -> dict[str, widgets.Widget]:
    """Shows the controls and, below, the list that `show` makes of their values; again whenever one changes.

    A widget in that list stays in its place and changes itself. Returns the controls by name: none without a person.
    """
    if not at_controls():
        display(*show(**{name: start for name, (start, _) in controls.items()}))
        return {}
    named = {name: make(value=start, description=name) for name, (start, make) in controls.items()}

    def make_shown() -> list[Any]:
        return show(**{name: control.value for name, control in named.items()})

    def change(_: Any) -> None:
        for handle, each in zip(handles, make_shown(), strict=True):
            if not isinstance(each, widgets.Widget):
                handle.update(each)

    display(widgets.Box(list(named.values()), layout={"flex_flow": "row wrap"}))
    handles = [display(each, display_id=True) for each in make_shown()]
    for control in named.values():
        control.observe(change, "value")
    return named


def png(figure: Figure, dpi: int) -> bytes:
    """The figure as a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi)
    return stream.getvalue()


def picture(figure: Figure) -> Image:
    """The figure as a notebook shows it."""
    return Image(png(figure, dpi=110))
