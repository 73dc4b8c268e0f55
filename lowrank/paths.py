"""Where things lie: the checkout of this project, the records of runs, the cache."""

from __future__ import annotations

import os
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import InputError


def is_project(folder: Path) -> bool:
    """Whether the folder is this project's own, with its pyproject.toml, and not where pip has installed the module."""
    with suppress(OSError, tomllib.TOMLDecodeError):
        return tomllib.loads((folder / "pyproject.toml").read_text()).get("project", {}).get("name") == "lowrank"
    return False


ABOVE = Path(__file__).resolve().parent.parent
PROJECT = is_project(ABOVE)
CHECKOUT = PROJECT and (ABOVE / ".git").exists()  # what git says there is of this code, not of what encloses it
ROOT = ABOVE if PROJECT else Path()  # the repository, as notebooks run from several folders; else the working directory


def locate(path: str | os.PathLike) -> Path:
    """The path seen from the working directory or, if nothing is there, from the repository; ~ is the home."""
    path = os.path.expanduser(path)
    return Path(path) if os.path.exists(path) else ROOT / path


def check_directory() -> None:
    """Raises InputError if this process stands in a folder that was removed: much of Python fails there."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise InputError("the working directory was removed; os.chdir to one that is there") from None


def runs_folder(runs: str | os.PathLike) -> Path:
    """The folder of records of that name; ~ is the home.

    A relative path starts at the repository or, if lowrank was installed without one, at the working directory.
    Raises InputError if it can be no folder.
    """
    if not is_runs(runs):
        raise InputError(f"runs={runs!r}; allowed: the path of a folder")
    return ROOT / os.path.expanduser(runs)


def is_runs(runs: Any) -> bool:
    """Whether it is a path that records can name, and below which the system takes names; who writes there says what
    else is in the way."""
    try:
        os.fspath(runs).encode()
        folder = os.path.expanduser(runs)
        os.lstat(ROOT / folder / "run" / f".{'x' * 40}.tmp")
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return folder != "" and not folder.startswith("~")  # the home of nobody
    except (AttributeError, OSError, TypeError, ValueError):  # no path, one of bytes, or one that cannot be
        return False
    return True


def relative(path: Path) -> Path:
    """The path from ROOT if it lies inside, else from the home, `~`, or whole: most notebooks that are shared name no
    folder of a machine."""
    here, root, home = path.absolute(), ROOT.absolute(), Path(os.path.expanduser("~"))
    if here.is_relative_to(root):
        return here.relative_to(root)
    return "~" / here.relative_to(home) if here.is_relative_to(home) else here


def cache_folder() -> Path:
    """$LOWRANK_CACHE or, if that is not set, lowrank/ below $XDG_CACHE_HOME or ~/.cache; ~ is the home.

    Raises InputError if there is no home.
    """
    path = os.environ.get("LOWRANK_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "lowrank")
    folder = Path(os.path.expanduser(path))
    if path.startswith("~") and str(folder).startswith("~"):
        raise InputError(f"there is no home folder for the cache {path}; LOWRANK_CACHE can name another")
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder
