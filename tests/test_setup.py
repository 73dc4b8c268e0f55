"""The set-up: one list of packages in three files, tests where they are looked for, notebooks that run here."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text()
PROJECT = tomllib.loads(PYPROJECT)["project"]
EXTRAS = PROJECT["optional-dependencies"]
ALL = PROJECT["dependencies"] + sum(EXTRAS.values(), [])
USERS = PROJECT["dependencies"] + EXTRAS["train"] + EXTRAS["sweep"] + EXTRAS["lab"]
MACHINES = [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")]


def bounds(lines):
    """Each other package's canonical name, and the range of its versions."""
    found = {canonicalize_name(line.name): line.specifier for line in map(Requirement, lines)}
    return {name: specifier for name, specifier in found.items() if name != "lowrank"}


NEEDED = bounds(ALL)


def locked():
    """The entries of requirements.lock, each with its hashes."""
    entries = re.sub(r"\\\n\s*", "", (ROOT / "requirements.lock").read_text()).splitlines()
    parts = (line.partition(" --hash=") for line in entries if line and not line.lstrip().startswith("#"))
    return [(Requirement(package), hashes) for package, _, hashes in parts]


def imports(path):
    """Top-level names that a module imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("package", ALL)
def test_every_dependency_says_why_it_is_there(package):
    assert re.search(rf'^ *"{re.escape(package)}", +# \w.{{9,}}$', PYPROJECT, re.MULTILINE)


def test_conda_users_get_the_same_packages():
    *conda, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    *others, package = pip["pip"]
    assert package == "--editable ."
    found = bounds(conda + others)
    assert found.pop("python") == PROJECT["requires-python"]
    found["torch"] = found.pop("pytorch")
    del found["pip"]
    assert found == NEEDED


@pytest.mark.parametrize(("system", "processor"), MACHINES)
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_lock_fits_everywhere(python, system, processor):
    here = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": system,
        "platform_machine": processor,
    }
    pins = [pin for pin, _ in locked() if not pin.marker or pin.marker.evaluate(here)]
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    assert len(versions) == len(pins)
    assert {name for name, allowed in NEEDED.items() if versions.get(name, "none") not in allowed} == set()


def test_the_lock_names_contents_and_no_hosts():
    assert all(hashes.startswith("sha256:") for _, hashes in locked())
    assert "://" not in (ROOT / "requirements.lock").read_text()


@pytest.mark.parametrize("folder", ["lowrank", "tests"])
def test_every_import_is_declared(folder):
    allowed = bounds(USERS) if folder == "lowrank" else NEEDED
    ours = {"lowrank", *(path.stem for name in (folder, "benchmarks") for path in (ROOT / name).rglob("*.py"))}
    packages = packages_distributions()
    names = {name for path in (ROOT / folder).rglob("*.py") for name in imports(path)} - ours - sys.stdlib_module_names
    assert {name for name in names if not {canonicalize_name(one) for one in packages[name]} & set(allowed)} == set()


def test_the_tests_of_every_module_are_found_under_its_name():
    modules = [path.relative_to(ROOT / "lowrank") for path in (ROOT / "lowrank").rglob("*.py")]
    wanted = {path.with_name(f"test_{path.name}") for path in modules if path.name != "__init__.py"}
    found = {path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    assert wanted & found == wanted, f"no tests: {', '.join(sorted(map(str, wanted - found)))}"


def test_notebooks_run_here_whatever_kernels_the_user_has(tmp_path):
    """A user-level `python3` kernel of another environment does not win."""
    other = tmp_path / "kernels" / "python3"
    other.mkdir(parents=True)
    argv = ["no-such-python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (other / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "other", "language": "python"}))
    cell = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    cell["source"] = "import sys; sys.prefix"
    kernel = {"kernelspec": {"name": "python3", "display_name": "lowrank", "language": "python"}}
    notebook = tmp_path / "where.ipynb"
    notebook.write_text(json.dumps({"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 4}))
    user = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER_")}
    subprocess.run(
        [sys.executable, "-m", "papermill", str(notebook), str(notebook)],
        env=user | {"JUPYTER_DATA_DIR": str(tmp_path)},
        check=True,
        capture_output=True,
    )
    [cell] = json.loads(notebook.read_text())["cells"]
    assert ast.literal_eval("".join(cell["outputs"][0]["data"]["text/plain"])) == sys.prefix


def test_make_alone_lists_every_target():
    targets = re.search(r"^\.PHONY: help (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    printed = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert re.findall(r"^make (\w+) +\w", printed, re.MULTILINE) == targets
