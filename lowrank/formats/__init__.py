"""Tensor formats: one class is one format. Start with `format`: what a format is, and the picture of it.

`folding` makes a weight a tensor, `chains` and `products` are the formats, `registry` has their names, `layout` is one
weight in one format, `budget` finds the ranks, `own` adds a format of yours, which `checks` has tried out.
"""

from .budget import RANK_RULES, check_sizes, path, raise_rank, solve, walk_path
from .folding import MOST_DIMS, Folding, fold
from .format import Format
from .layout import CONTRACTIONS, Layout
from .registry import FORMATS, OR_YOUR_OWN, PLAIN, default_rank_rule, uses_dims

__all__ = [
    "CONTRACTIONS", "FORMATS", "Folding", "Format", "Layout", "MOST_DIMS", "OR_YOUR_OWN", "PLAIN", "RANK_RULES",
    "check_sizes", "default_rank_rule", "fold", "path", "raise_rank", "solve", "uses_dims", "walk_path",
]  # fmt: skip
