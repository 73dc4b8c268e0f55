"""What `lowrank` has beyond its core: loaded when first asked for, as it takes long or needs the packages of an extra.

The core (layers, formats, parameters) needs torch, tntorch, numpy, pandas and tqdm. pyproject.toml says what the extras
bring: `train` reads data sets, `sweep` trains many networks, `lab` is for notebooks and pictures.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .errors import MissingPackage

# Of each extra, by import name.
PACKAGES = {"train": ("PIL", "sklearn", "torchvision"), "sweep": ("cloudpickle", "dask", "distributed", "tornado")}
HOMES: dict[str, tuple[str, ...]] = {  # of each name: its module, and the extras without which it is of no use
    "build": ("network",),
    "history": ("records",),
    "load": ("weights", "train"),
    "predict": ("weights", "train"),
    "results": ("records",),
    "run": ("experiment", "train"),
    "status": ("sweeps.plan", "train"),
    "summary": ("surgery.inventory",),
    "sweep": ("sweeps.driver", "train", "sweep"),
}
SHOWN = {  # modules that are for users, and what of them Tab shows: no others, and nothing that they import
    "explore": ("one_layer", "one_run", "setting", "sizes", "tabulate_record", "tabulate_sizes", "two_runs"),
    "plots": (
        "COLOURS", "MARKERS", "accuracy_against_parameters", "colours", "curves", "forest", "heatmap", "listed", "note",
        "parameter_counts", "style",
    ),
    "studies": ("SCALES", "SEEDS", "STUDIES", "each", "grid"),
}  # fmt: skip
ROOMS = ("", "lab", "sweeps")  # whose modules are found as lowrank.plots or lowrank.studies
MODULES = {
    path.stem: ".".join(filter(None, (room, path.stem)))
    for room in ROOMS
    for path in sorted((Path(__file__).parent / room).glob("[a-z]*"))
    if path.suffix == ".py" or path.is_dir()
}


def load_name(name: str) -> Any:
    """A name of HOMES or a module of lowrank. Raises MissingPackage, one line, if that needs an extra."""
    module, *extras = HOMES.get(name) or (MODULES[name],)
    for package in (package for extra in extras for package in PACKAGES[extra]):
        if find_spec(package) is None:
            raise MissingPackage(name, package, extras[-1])
    try:
        home = import_module(f"{__package__}.{module}")
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        extra = next((each for each, packages in PACKAGES.items() if package in packages), "lab")
        raise MissingPackage(name, package, extra) from None
    if name in SHOWN:
        home.__dir__ = lambda: list(SHOWN[name])
    return getattr(home, name) if name in HOMES else home
