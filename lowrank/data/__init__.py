"""Images as bytes on the device: dataset.py holds and augments them, sources.py and images.py read them.

Users call `lowrank.data.load`; beside `lowrank.load`, which loads a network, it is `load_data` in here.
"""

from .dataset import Augmentation, Data
from .sources import load_data

load = load_data

__all__ = ["Augmentation", "Data", "load", "load_data"]
