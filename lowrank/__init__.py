"""How accurate a small convolutional network stays when its weights are held as a tensor decomposition."""

from . import threads  # noqa: F401, first: before torch is imported
from .config import Config, InputError
from .formats import Format
from .network import decompose, densify
from .plan import status
from .results import history
from .studies import grid
from .summary import summary
from .sweep import sweep
from .table import results
from .trial import build, load, register, run

__all__ = [
    "Config", "Format", "InputError", "build", "decompose", "densify", "grid", "history", "load", "register",
    "results", "run", "status", "summary", "sweep",
]  # fmt: skip
