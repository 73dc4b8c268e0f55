"""How accurate a small convolutional network stays when its weights are held as a tensor decomposition."""

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

__all__ = [
    "Config", "Format", "InputError", "assign", "build", "decompose", "densify", "grid", "history", "load",
    "parameter_groups", "register", "results", "run", "status", "summary", "sweep",
]  # fmt: skip
