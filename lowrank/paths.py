"""Where things lie: the checkout of this project, the records of runs, the cache."""

from __future__ import annotations

import os
import tomllib
from contextlib import suppress
from pathlib import Path


def is_project(folder: Path) -> bool:
    """Whether the folder is this project's own, with its pyproject.toml, and not where pip has installed the module."""
    with suppress(OSError, tomllib.TOMLDecodeError):
        return tomllib.loads((folder / "pyproject.toml").read_text()).get("project", {}).get("name") == "lowrank"
    return False


ABOVE = Path(__file__).resolve().parent.parent
PROJECT = is_project(ABOVE)
CHECKOUT = PROJECT and (ABOVE / ".git").exists()  # what git says there is of this code, not of what encloses it
ROOT = ABOVE if PROJECT else Path()  # the repository, as notebooks run from several folders; else the working directory


def located(path: str | os.PathLike) -> Path:
    """The path seen from the working directory or, if nothing is there, from the repository; ~ is the home."""
    path = os.path.expanduser(path)
    return Path(path) if os.path.exists(path) else ROOT / path


def runs_folder(runs: str | os.PathLike) -> Path:
    """The folder of records of that name; ~ is the home.

    A relative path starts at the repository or, if lowrank was installed without one, at the working directory.
    """
    return ROOT / os.path.expanduser(runs)


def relative(path: Path) -> Path:
    """The path from ROOT if it lies inside, else its name: notebooks that are shared name no folder of a machine."""
    here, root = path.absolute(), ROOT.absolute()
    return here.relative_to(root) if here.is_relative_to(root) else Path(path.name)


def cache_folder() -> Path:
    """$LOWRANK_CACHE or, if that is not set, lowrank/ below $XDG_CACHE_HOME or ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("LOWRANK_CACHE") or Path(home, "lowrank"))
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder
