"""How accurate a small convolutional network stays when its weights are held as a tensor decomposition."""

from typing import Any

from . import threads  # noqa: F401, first: before torch is imported
from .interrupts import interrupts_after_loading
from .lazy import HOMES, MODULES, SHOWN, load_name

with interrupts_after_loading("lowrank"):
    from .config import Config, InputError
    from .formats import Format
    from .formats.own import register
    from .optimiser import parameter_groups
    from .surgery import assign, decompose, densify, hold, layouts
    from .sweeps.studies import grid

__version__ = "0.1.0"
__all__ = [
    "Config", "Format", "InputError", "assign", "decompose", "densify", "grid", "hold", "layouts", "parameter_groups",
    "register", *HOMES,
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Loads what `import lowrank` leaves for later; see lazy.py."""
    if name not in HOMES and name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with interrupts_after_loading(f"lowrank.{name}"):
        globals()[name] = value = load_name(name)
    return value


def __dir__() -> list[str]:
    """What Tab shows; to show it, Tab loads all of it."""
    return sorted({*__all__, *SHOWN, *(name for name in globals() if name.startswith("__"))})
