"""How accurate a small convolutional network stays when its weights are held as a tensor decomposition."""

from .config import Config, InputError
from .formats import Format
from .network import decompose, densify
from .results import history, results
from .summary import summary
from .trial import build, load, register, run

__all__ = [
    "Config", "Format", "InputError", "build", "decompose", "densify", "history", "load", "register", "results", "run",
    "summary",
]  # fmt: skip
