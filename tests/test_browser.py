"""JupyterLab as people meet it: in a real browser, with the notebooks run from the menu and the controls moved."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from playwright.sync_api import sync_playwright

import lowrank
from lowrank.config import Config
from lowrank.lab import plots
from lowrank.records import store

CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]
NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
SMALL = {"dataset": "digits", "width": 4, "epochs": 1, "batch_size": 512, "budget": 0.5, "save_weights": True}
QUIET = {"notification": {"fetchNews": "false", "checkForUpdates": False}}
WAIT = 120_000  # milliseconds

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no chromium to open JupyterLab in")


class Lab:
    """A JupyterLab server on a folder of its own, a browser that is open on it, and what both complain about."""

    def __init__(self, folder, context):
        self.folder, self.context = folder, context
        self.log, self.complaints = folder / "server.log", []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{free.getsockname()[1]}"
        settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
        settings.mkdir(parents=True)
        for name, values in QUIET.items():
            (settings / f"{name}.jupyterlab-settings").write_text(json.dumps(values))

    def start(self):
        own = {name: str(self.folder / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")}
        own |= {name: str(self.folder / name.lower()) for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
        own |= {"JUPYTERLAB_SETTINGS_DIR": str(self.folder / "settings"), "OMP_NUM_THREADS": "1"}
        own |= {"JUPYTERLAB_WORKSPACES_DIR": str(self.folder / "workspaces"), "JUPYTER_PREFER_ENV_PATH": "1"}
        port = self.address.rpartition(":")[2]
        options = [f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=secret"]
        options += [f"--ServerApp.root_dir={self.folder}", "--no-browser", "--allow-root"]
        with open(self.log, "w") as log:
            command = [sys.executable, "-m", "jupyterlab", *options]
            self.server = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log, cwd=self.folder)
        until = time.monotonic() + WAIT / 1000
        while time.monotonic() < until and self.server.poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"{self.address}/api"):
                return self
            time.sleep(0.2)
        raise RuntimeError(self.log.read_text())

    def stop(self):
        self.server.terminate()
        self.server.wait()

    def open(self, name, **parameters):
        """A copy of a notebook with these parameters, in a page of its own."""
        notebook = json.loads((NOTEBOOKS / name).read_text())
        cell = next(cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", []))
        cell["source"] = [f"{name} = {value!r}\n" for name, value in parameters.items()]
        return self.page(name, notebook)

    def page(self, name, notebook):
        (self.folder / name).write_text(json.dumps(notebook))
        page = self.context.new_page()
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda line: self.complaints.append(line.text) if line.type == "error" else None)
        page.goto(f"{self.address}/lab/workspaces/{name.partition('.')[0]}/tree/{name}?token=secret")
        return page

    def run_all(self, page):
        """Run All Cells from the menu, to the end; raises AssertionError at an error in a cell, the page or the log."""
        page.get_by_text("| Idle").wait_for()  # in the status bar; a menu that is used earlier asks for a kernel
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.wait_for_function(
            """() => document.querySelector('[data-mime-type="application/vnd.jupyter.stderr"]') ||
                [...document.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')]
                    .every(prompt => /\\d/.test(prompt.textContent))"""
        )
        self.check(page)

    def check(self, page):
        assert page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').all_inner_texts() == []
        assert self.complaints == []
        entries = re.split(r"\n(?=\[)", self.log.read_text())
        left = "StreamClosedError"  # the page before this one was closed while it still asked for something
        assert [each for each in entries if re.search(r"Traceback|\bError\b|\[[EC] ", each) and left not in each] == []


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = browser.new_context(viewport={"width": 1400, "height": 1000})
        lab = Lab(tmp_path_factory.mktemp("lab"), context).start()
        yield lab
        browser.close()
        lab.stop()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the records of two small runs."""
    runs = str(tmp_path_factory.mktemp("runs"))
    for decomp in ("tt", "cp"):
        lowrank.run(decomp=decomp, runs=runs, log=lambda line: None, **SMALL)
    return runs


def control(page, name):
    """What holds the first control of that name."""
    return page.locator(".widget-inline-hbox", has=page.get_by_text(name, exact=True)).first


def test_start_here_runs_to_the_end_and_shows_a_curve_and_a_table_that_sorts(lab, many, tmp_path):
    runs = shutil.copytree(many, tmp_path / "runs")
    page = lab.open("0-start-here.ipynb", runs=str(runs), width=4, epochs=2)
    lab.run_all(page)
    training, table = page.locator(".jp-CodeCell").nth(1), page.locator(".jp-CodeCell").nth(2)
    assert training.locator("img").count() == 1
    results = lowrank.results(runs)
    (own,) = set(results["run"]) - {f"run{number:03d}" for number in range(120)}
    first = table.locator(".dt-scroll-body tbody tr").first
    assert own in first.inner_text()
    for end in (results.parameters.min(), results.parameters.max()):
        table.locator(".dt-scroll-head th", has_text="parameters").click()
        first.get_by_text(f"{end:,}", exact=True).wait_for()


def test_every_control_of_a_setting_changes_its_table(lab, runs):
    page = lab.open("explore.ipynb", runs=runs)
    lab.run_all(page)
    cell = page.locator(".jp-CodeCell").nth(2)
    table = cell.locator("table")
    moves = {
        "decomp": lambda chosen: chosen.locator("select").select_option("tucker"),
        "dims": lambda chosen: chosen.get_by_role("slider").press("ArrowRight"),
        "size": lambda chosen: chosen.locator("select").select_option("rank_scale"),
        "share": lambda chosen: chosen.get_by_role("slider").press("ArrowLeft"),
        "width": lambda chosen: chosen.locator("select").select_option("64"),
    }
    for name, move in moves.items():
        before = table.inner_text()
        move(control(page, name))
        page.wait_for_function("([table, before]) => table.innerText != before", arg=[table.element_handle(), before])
    assert cell.locator("img").count() == 1
    lab.check(page)


def made_up(number):
    """One of 120 records whose dots stand close together."""
    decomp = ("tt", "cp", "tucker", "ring")[number % 4]
    asked = {"decomp": decomp, "budget": 0.1, "seed": number % 3, "learning_rate": 0.01 + number / 1000}
    record = asdict(Config(**asked).fitted(50_000))
    measured = {"parameters": 9000 + 97 * (number * 37 % 120), "test_accuracy": 0.4 + (number * 53 % 120) / 400}
    measured |= {"train_accuracy": 0.5, "compression": 0.1, "multiply_adds": 10**6, "seconds": 1.0}
    return record | measured | {"run": f"run{number:03d}", "status": "done", "revision": "abc", "data": "f00"}


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder with 120 records."""
    folder = tmp_path_factory.mktemp("many")
    for record in map(made_up, range(120)):
        history = {"epoch": 1, "train_loss": 1, "test_loss": 1, "train_accuracy": 0.5, "test_accuracy": 0.5}
        store(folder, record, [history])
    return folder


def drawn(table):
    """Where plots draws each run in a picture like explore's, as shares of its width and height from the top left.

    No two runs have the same accuracy, so that whatever is drawn at it is the run.
    """
    with plt.rc_context(plots.STYLE):
        figure = Figure(figsize=(8.8, 4.6), layout="constrained")
        ax = plots.accuracy_against_parameters(table, figure.subplots(), mixed=True)
        figure.draw_without_rendering()  # places the axes
    points = [line.get_xydata() for line in ax.lines if line.get_transform() == ax.transData]
    points = {y: (x, y) for x, y in np.concatenate([*points, *(dots.get_offsets() for dots in ax.collections)])}
    pixels = ax.transData.transform([points[accuracy] for accuracy in table.test_accuracy])
    return dict(zip(table["run"], pixels / figure.bbox.size * (1, -1) + (0, 1), strict=True))


def test_the_mouse_finds_every_run_where_it_is_drawn_and_a_click_chooses_it(lab, many):
    page = lab.open("explore.ipynb", runs=str(many))
    lab.run_all(page)
    picture, tip = page.locator(".jp-CodeCell").nth(2).locator("img"), page.locator("[popover]")
    places = drawn(lowrank.results(many))
    for width in (1400, 640):  # the picture shrinks with the window
        page.set_viewport_size({"width": width, "height": 1000})
        picture.evaluate("picture => picture.scrollIntoView({block: 'center'})")
        picture.hover()  # once it stands still
        box = picture.bounding_box()
        spots = {run: (box["x"] + x * box["width"], box["y"] + y * box["height"]) for run, (x, y) in places.items()}
        found = []
        for spot in spots.values():
            page.mouse.move(*spot)
            found.append(tip.inner_text().partition("\n\n")[0].rpartition("run ")[2])  # others may stand beside it
        assert len(found) == 120 and found == list(spots)
    run = next(iter(spots))
    page.mouse.click(*spots[run])
    chosen = control(page, "run").locator("select")
    shown = "([chosen, run]) => chosen.selectedOptions[0].text.includes(run)"
    page.wait_for_function(shown, arg=[chosen.element_handle(), run])
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    tip.wait_for(state="hidden")
    lab.check(page)


def test_two_runs_and_a_layer_are_chosen(lab, runs):
    page = lab.open("explore.ipynb", runs=runs)
    lab.run_all(page)
    two = page.locator(".jp-CodeCell").nth(4)
    assert re.search(r"decomp\s+(tt\s+cp|cp\s+tt)", two.inner_text())
    control(page, "left").locator("select").select_option(index=1)
    two.get_by_text("decomp", exact=True).wait_for(state="detached")  # now it is twice the same run
    picture = page.locator(".jp-CodeCell").nth(5).locator("img")
    before = picture.get_attribute("src")
    control(page, "layer").locator("select").select_option("layer1")
    page.wait_for_function("([src]) => ![...document.images].some(each => each.src == src)", arg=[before])
    lab.check(page)


def test_a_cell_that_raises_is_noticed(lab):
    notebook = json.loads((NOTEBOOKS / "0-start-here.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    cells[1]["source"] = ["1 / 0"]
    page = lab.page("raises.ipynb", notebook)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        lab.run_all(page)
