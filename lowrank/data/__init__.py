"""Images as bytes on the device: dataset.py holds and augments them, sources.py and images.py read them."""

from .dataset import Augmentation, Data
from .sources import load

__all__ = ["Augmentation", "Data", "load"]
