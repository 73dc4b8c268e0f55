"""One run's parameters: one field per notebook parameter, checked once, on entry.

The doc of a field stands again, word for word, as its comment in the parameters cell of
notebooks/train.ipynb, where `papermill --help-notebook` shows it.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import re
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from .display import html_table
from .errors import InputError, printable, refuse_unknown
from .formats import FORMATS, MOST_DIMS, OR_YOUR_OWN, PLAIN, RANK_RULES, default_rank_rule, uses_dims
from .formats.own import own_sizes
from .parameters import checked, choice, parameter
from .paths import is_runs, locate, runs_folder
from .signatures import list_parameters

DECOMPS = ChainMap(FORMATS, dict.fromkeys(PLAIN))  # by name: the plain ones, then every format, those of one's own last
INGREDIENTS = ["light augmentation", "flip at test", "core rates"]  # of recipe="fast"
# Parameters younger than some records, and what those ran with.
ADDED = {"recipe": "2018", "without": "nothing", "validation": 0.0, "start": ""}
DATASETS = ("cifar10", "cifar100", "digits")
ARCHIVES = (".tar.xz", ".tar.gz", ".tar.bz2", ".tgz", ".tar", ".zip")
PRECISIONS = ("float32", "bfloat16", "float16")
MOST_WIDTH = 4096  # the separable network then has 3 billion weights


def dataset_name(dataset: str) -> str:
    """What records call a dataset: a path becomes its last part without the endings."""
    name = printable(os.path.basename(os.path.abspath(os.path.expanduser(dataset))))  # of "." too
    return next((name[: -len(ending)] for ending in ARCHIVES if name.lower().endswith(ending)), name)


def is_dataset(dataset: str) -> bool:
    path = locate(dataset)
    archive = os.path.isfile(path) and dataset.lower().endswith(ARCHIVES)
    return dataset in DATASETS or (dataset != "" and os.path.isdir(path)) or archive


@dataclass(frozen=True, repr=False)
class Config:
    """What decides a run.

    Raises InputError, one line with the parameter, its value and what is allowed, if a value
    has the wrong type or is out of range. If a decomposition has neither `rank_scale` nor
    `budget`, `rank_scale` becomes 0.5.

    >>> lowrank.Config(decomp="cp", budget=0.1)
    Config(decomp='cp', budget=0.1, rank_rule='root')
    """

    decomp: str = choice("tt", "form of the 3x3 convolutions; the README lists them", DECOMPS, OR_YOUR_OWN)
    dims: int = parameter(
        3, "modes that each 1x1 weight matrix is folded into", f"2 to {MOST_DIMS}", lambda v: 2 <= v <= MOST_DIMS
    )
    rank_scale: float = parameter(
        0.0, "ranks relative to the largest useful ones, up to 1; 0 is not set", "0 to 1", lambda v: 0 <= v <= 1
    )
    budget: float = parameter(
        0.0,
        "share of the separable network's pointwise weights (of those of start), up to 1; 0 is not set",
        "0 to 1",
        lambda v: 0 <= v <= 1,
    )
    rank_rule: str = choice(
        "auto",
        "how ranks grow, useful (as the largest do), root (as their roots), uniform, original or auto",
        RANK_RULES,
    )
    init: str = choice(
        "random",
        "random (orthogonal cores), decompose (of a dense draw), decompose_rescaled; with start weights",
        ["random", "decompose", "decompose_rescaled", "weights"],
    )
    start: str = parameter(
        "",
        "dense or separable run with its weights kept, to decompose and train on; empty is none",
        "the id of a run, 12 hexadecimal digits, or ''",
        lambda v: v == "" or bool(re.fullmatch("[0-9a-f]{12}", v)),
    )
    width: int = parameter(
        64,
        "channels after the first convolution, then 2, 4 and 8 times as many",
        f"1 to {MOST_WIDTH}",
        lambda v: 1 <= v <= MOST_WIDTH,
    )
    dataset: str = parameter(
        "cifar10",
        "cifar10, cifar100, digits, or a path to an image folder or an archive of one",
        f"{', '.join(DATASETS)}, a folder that is there, or a file that is there and ends in {' '.join(ARCHIVES)}",
        is_dataset,
    )
    validation: float = parameter(
        0.0, "share of the training images kept out of training, to choose by", "0 to 0.5", lambda v: 0 <= v <= 0.5
    )
    epochs: int = parameter(
        24, "passes over the training images; with start also 0, decomposed and measured", ">= 0", lambda v: v >= 0
    )
    batch_size: int = parameter(
        0, "images a step; 0 follows the size of the data", "2 or more, or 0", lambda v: v == 0 or v >= 2
    )
    learning_rate: float = parameter(
        0.0, "peak of the schedule, for a loss averaged over the batch; 0 follows the batch", ">= 0", lambda v: v >= 0
    )
    schedule: str = choice(
        "triangle",
        "triangle (linear warm-up, then linear to 0), cosine (to 0) or constant",
        ["triangle", "cosine", "constant"],
    )
    momentum: float = parameter(0.9, "of SGD with Nesterov's step", "> 0 and < 1", lambda v: 0 < v < 1)
    weight_decay: float = parameter(5e-4, "for a loss averaged over the batch", ">= 0", lambda v: v >= 0)
    decay: str = choice(
        "plain",
        "plain (all), compression (cores by their ratio), frobenius (the weight they make) or none",
        ["plain", "compression", "frobenius", "none"],
    )
    label_smoothing: float = parameter(
        0.0, "share of each target that is spread over all classes", ">= 0 and < 1", lambda v: 0 <= v < 1
    )
    augment: bool | str = parameter(
        "auto",
        "crop, flip and cut out training images; auto is not for digits",
        "True, False or auto",
        lambda v: v in (True, False, "auto"),
        kinds=(str, bool),
    )
    recipe: str = choice(
        "2018",
        "2018 or fast (light augmentation, a rate for each core, mirror images at test)",
        ["2018", "fast"],
    )
    without: str = choice(
        "nothing",
        f"what the fast recipe leaves out, {', '.join(INGREDIENTS)} or nothing",
        ["nothing", *INGREDIENTS],
    )
    precision: str = choice(
        "auto",
        "float32, bfloat16, float16 (on a GPU) or auto (the fastest here)",
        ["auto", *PRECISIONS],
    )
    seed: int = parameter(
        0, "of the initial weights, the order of the images and their augmentation", ">= 0", lambda v: v >= 0
    )
    save_weights: bool = parameter(
        False, "keep the trained weights beside the record, for lowrank.load", "True or False", lambda v: True
    )
    runs: str = parameter(
        "runs",
        "folder of the records; a relative path starts at the repository or, without one, here",
        "the path of a folder",
        is_runs,
    )

    def __new__(cls, *values: Any, **named: Any) -> Config:
        refuse_unknown(named, [each.name for each in fields(cls)])
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for each in fields(self):
            object.__setattr__(self, each.name, checked(each, getattr(self, each.name)))
        if self.rank_rule == "auto" and not self.start:
            object.__setattr__(self, "rank_rule", default_rank_rule(self.decomp))
        if self.budget and self.rank_scale:
            raise InputError(f"budget={self.budget} and rank_scale={self.rank_scale}: only one of them may be set")
        self.check_start()
        if self.decomp in PLAIN:
            for name in ("budget", "rank_scale"):
                if value := getattr(self, name):
                    raise InputError(f"{name}={value}: decomp={self.decomp!r} has no ranks, only 0 is allowed")
        elif not self.budget and not self.rank_scale:
            object.__setattr__(self, "rank_scale", 0.5)
        if self.recipe == "2018" and self.without != "nothing":
            raise InputError(f"without={self.without!r}: recipe='2018' has no ingredients, only 'nothing' is allowed")

    def check_start(self) -> None:
        """Raises InputError if something contradicts `start`; with one, `init` becomes "weights"."""
        if not self.start:
            if self.init == "weights" or not self.epochs:
                given, allowed = ("epochs=0", ">= 1") if not self.epochs else ("init='weights'", "another")
                raise InputError(f"{given} without start; allowed: {allowed}, or with start, the id of a trained run")
            return
        if self.init == "random":
            object.__setattr__(self, "init", "weights")
        for name, fits, allowed in (
            ("decomp", self.decomp not in PLAIN, "a decomposition"),
            ("rank_scale", not self.rank_scale, "a budget in its place"),
            ("budget", self.budget > 0, "above 0 and up to 1"),
            ("rank_rule", self.rank_rule == "auto", "'auto', ranks follow the error of the approximation"),
            ("init", self.init == "weights", "'weights'"),
        ):
            if not fits:
                raise InputError(f"{name}={getattr(self, name)!r} with start={self.start!r}; allowed: {allowed}")

    def __repr__(self) -> str:
        return f"Config({', '.join(arguments(asdict(self)))})"

    def _repr_html_(self) -> str:
        values = asdict(self)
        return html_table({each.name: (values[each.name], each.metadata["doc"]) for each in fields(self)})

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Config:
        """A Config from named values; raises InputError at a name that is no parameter, with the nearest that is."""
        refuse_unknown(values, [each.name for each in fields(cls)])
        return cls(**values)

    def run_id(self, data: str) -> str:
        """The id of a run: a hash of what decides its result, the data by the fingerprint `data`.

        Left out are `runs`, `save_weights` and what a form does not use: `dense` and `separable` have no modes
        and no ranks, a `bottleneck` (or any other format without `uses_dims`) is never folded. With a format of one's
        own goes what it was made with, such as a number of blocks.
        """
        unused = {"runs", "save_weights"} | unused_by(self.decomp)
        if not uses_dims(self.decomp) and self.rank_rule in ("useful", "original"):
            unused |= {"rank_rule"}  # equal for it
        unused |= {name for name, value in ADDED.items() if getattr(self, name) == value}  # keeps older ids as they are
        decisive = {name: value for name, value in asdict(self).items() if name not in unused} | {"dataset": data}
        if sizes := own_sizes(self.decomp):
            decisive |= {"form": sizes}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]

    def fitted(self, images: int) -> Config:
        """With what was left to the data, given the number of training images.

        `batch_size` leaves at least 20 steps an epoch, up to the 512 images of cifar10-fast. `learning_rate` is 0.4 at
        512 and falls with the root of the batch: fewer images make a noisier step. Digits are not flipped.
        """
        batch_size = self.batch_size or min(512, max(2, 2 ** int(math.log2(max(2, images / 20)))))
        learning_rate = self.learning_rate or round(0.4 * (min(batch_size, images) / 512) ** 0.5, 4)
        augment = self.dataset != "digits" if self.augment == "auto" else self.augment
        return replace(self, batch_size=batch_size, learning_rate=learning_rate, augment=augment)

    def uses(self, ingredient: str) -> bool:
        """Whether an ingredient of the fast recipe takes part."""
        return self.recipe == "fast" and self.without != ingredient

    @property
    def folder(self) -> Path:
        """Where the records go."""
        return runs_folder(self.runs)


Config.__signature__ = inspect.Signature(list(inspect.signature(Config.__init__).parameters.values())[1:])
Config.__doc__ = f"{inspect.getdoc(Config)}\n\n{list_parameters(Config)}\n"


def parameters_of(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """What the parameters cells of a notebook have set, given its globals(): parameters and any other plain value.

    papermill only warns of a name that the notebook does not know; Config.of refuses it.
    """
    names = {each.name for each in fields(Config)}
    plain = (bool, int, float, str, type(None))
    return {
        name: value
        for name, value in namespace.items()
        if name in names or (type(value) in plain and not name.startswith("_"))
    }


def unused_by(decomp: str) -> set[str]:
    """The parameters that mean nothing to a form: a plain network has no modes and no ranks, a bottleneck no modes."""
    if decomp in PLAIN:
        return {"dims", "rank_scale", "budget", "rank_rule", "init"}
    return set() if uses_dims(decomp) else {"dims"}


def arguments(values: Mapping[str, Any]) -> list[str]:
    """The parameters that the form uses and whose values are not their defaults, each as a call writes it."""
    given = {each.name: values.get(each.name, each.default) for each in fields(Config)}
    names = [each.name for each in fields(Config) if given[each.name] != each.default]
    names = [name for name in names if name not in unused_by(given["decomp"])]
    return [f"{name}={values[name]!r}" for name in names]
