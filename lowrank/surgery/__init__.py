"""Any network with its layers decomposed, and made plain again.

parts.py says what a network consists of, sizes.py and allocation.py how large each weight becomes, replace.py changes
the layers, saving.py tells how they are held, following.py finds out which of them the output follows, inventory.py
lists what there is afterwards.
"""

from .replace import assign, decompose, densify
from .saving import hold, layouts

__all__ = ["assign", "decompose", "densify", "hold", "layouts"]
