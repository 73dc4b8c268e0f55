"""How accurate a small convolutional network stays when its weights are held as a tensor decomposition."""

from .config import Config, InputError
from .network import decompose, densify
from .results import history, results
from .summary import summary
from .trial import build, run

__all__ = ["Config", "InputError", "build", "decompose", "densify", "history", "results", "run", "summary"]
