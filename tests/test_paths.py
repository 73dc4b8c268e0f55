"""Where an installed lowrank puts its records, and whose revision it names."""

import os
import shutil
import subprocess
import sys

import pytest

import lowrank
from lowrank.errors import InputError
from lowrank.experiment import revision
from lowrank.paths import CHECKOUT, PROJECT, ROOT, cache_folder, relative

INSTALLED = """
import os
import lowrank
from lowrank.paths import relative
from lowrank.experiment import revision

folder = lowrank.Config(dataset="digits").folder
print(folder.absolute(), repr(revision()), relative(folder / "results.csv"))
"""


def test_installed_beside_other_code_records_go_to_the_working_directory(tmp_path):
    """Even if a repository of others, with a pyproject.toml of its own, holds the module."""
    shutil.copytree(ROOT / "lowrank", tmp_path / "site" / "lowrank", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "site" / "pyproject.toml").write_text('[project]\nname = "other"\n')
    git = ["git", "-C", str(tmp_path / "site"), "-c", "user.name=n", "-c", "user.email=e"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run([*git, *command], check=True)
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", INSTALLED],
        cwd=tmp_path / "work",
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"{tmp_path / 'work' / 'runs'} 'v{lowrank.__version__}' runs/results.csv\n", done.stderr


@pytest.mark.parametrize("name", ["LOWRANK_CACHE", "XDG_CACHE_HOME"])
def test_the_cache_may_begin_at_home(tmp_path, monkeypatch, name):
    monkeypatch.delenv("LOWRANK_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(name, "~/mine")
    assert cache_folder().is_relative_to(tmp_path / "mine") and cache_folder().is_dir()


@pytest.mark.parametrize("place", ["~nobody-of-that-name/c", "~nobody-of-that-name"])
def test_a_cache_in_nobodys_home_is_one_line(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOWRANK_CACHE", place)
    with pytest.raises(InputError, match=f"no home folder for the cache {place}; LOWRANK_CACHE can name another"):
        cache_folder()
    assert not list(tmp_path.iterdir())


def test_without_a_home_the_cache_is_one_line(monkeypatch):
    for name in ("LOWRANK_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user that the system does not know
    with pytest.raises(
        InputError, match="no home folder for the cache ~/.cache/lowrank; LOWRANK_CACHE can name another"
    ):
        cache_folder()


def test_in_a_checkout_records_go_to_the_repository():
    assert PROJECT and (ROOT / "pyproject.toml").is_file() and relative(ROOT / "runs" / "x").as_posix() == "runs/x"
    assert (revision() != f"v{lowrank.__version__}") == CHECKOUT == (ROOT / ".git").exists()
