"""How accurate a small convolutional network stays when its weights are held as a tensor decomposition."""

from importlib import import_module
from types import ModuleType

from . import threads  # noqa: F401, first: before torch is imported
from .config import Config, InputError
from .formats import Format
from .formats.own import register
from .plan import status
from .rates import parameter_groups
from .results import history
from .studies import grid
from .summary import summary
from .surgery import assign, decompose, densify
from .sweep import sweep
from .table import results
from .trial import build, load, run

__version__ = "0.1.0"
__all__ = [
    "Config", "Format", "InputError", "assign", "build", "decompose", "densify", "grid", "history", "load",
    "parameter_groups", "register", "results", "run", "status", "summary", "sweep",
]  # fmt: skip

LAB = ("analysis", "explore", "figures", "overview", "plots")  # what notebooks show: imported when first asked for


def __getattr__(name: str) -> ModuleType:
    """Lets `lowrank.plots` work after `import lowrank`, which stays free of matplotlib."""
    if name in LAB:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *LAB})
