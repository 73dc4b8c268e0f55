"""What `import lowrank` needs, and how what needs more says so."""

import inspect
import subprocess
import sys
import tomllib
from importlib.util import find_spec

import pytest
from packaging.requirements import Requirement

import lowrank
from lowrank.lazy import HOMES, MODULES, PACKAGES
from lowrank.paths import ROOT

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
IMPORTED = {"pillow": "PIL", "scikit-learn": "sklearn", "ipython": "IPython"}
CORE_ALONE = """
import sys

refused = set(sys.argv[1].split())

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
before = set(sys.modules)
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in refused else found(name, *more)

import torch
import lowrank

print([name for name in ("pandas", "torch._dynamo") if name in sys.modules])
net = lowrank.decompose(torch.nn.Sequential(torch.nn.Linear(32, 32)), budget=0.5)
lowrank.densify(net)(torch.ones(1, 32))
print(len(lowrank.summary(net)), len(lowrank.grid(dims=[2, 3])), len(lowrank.results("nowhere")))
for name in sys.argv[2:]:
    try:
        print(getattr(lowrank, name))
    except lowrank.InputError as error:
        print(error)
"""


def test_the_core_alone_makes_layers_and_what_needs_an_extra_says_which():
    names = ["run", "load", "predict", "status", "sweep", "plots", "explore", "overview"]
    refused = [
        IMPORTED.get(name, name) for name in map(package, sum((EXTRAS[e] for e in ("train", "sweep", "lab")), []))
    ]
    refused = [name for name in refused if name not in ("scipy", "lowrank")]  # tntorch needs scipy
    command = [sys.executable, "-W", "ignore", "-c", CORE_ALONE, " ".join(refused), *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded, sizes, *lines = done.stdout.splitlines()
    assert (loaded, sizes) == ("[]", "1 2 0")
    extras = ["train"] * 4 + ["sweep"] + ["lab"] * 3
    for name, extra, line in zip(names, extras, lines, strict=True):
        assert line.startswith(f"lowrank.{name} needs ") and line.endswith(f": pip install 'lowrank[{extra}]'")


def package(line):
    return Requirement(line).name


def test_the_extras_are_those_of_the_wheel():
    for extra, packages in PACKAGES.items():
        named = {IMPORTED.get(name, name) for name in map(package, EXTRAS[extra])} - {"lowrank"}
        assert named == set(packages)


@pytest.mark.parametrize("name", HOMES)
def test_a_function_is_not_hidden_by_a_module_of_its_name(name):
    assert callable(getattr(lowrank, name)) and name in dir(lowrank) and name in lowrank.__all__
    assert find_spec(f"lowrank.{name}") is None and name not in MODULES


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_found_without_its_room(name):
    assert inspect.ismodule(getattr(lowrank, name))


def test_tab_shows_what_is_for_users_and_nothing_else():
    shown = {name for name in dir(lowrank) if not name.startswith("__")}
    assert shown == {*lowrank.__all__, "explore", "plots", "studies"}
    for module in (lowrank.explore, lowrank.plots, lowrank.studies):
        values = [getattr(module, name) for name in dir(module)]
        assert len(values) > 4 and not any(map(inspect.ismodule, values))
        assert all(getattr(value, "__module__", "lowrank").startswith("lowrank") for value in values)


def test_there_is_no_other_name():
    with pytest.raises(AttributeError, match="no attribute"):
        _ = lowrank.nothing
    assert lowrank.__version__
