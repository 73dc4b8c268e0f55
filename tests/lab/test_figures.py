"""The analysis notebooks from made-up records: what is shared is clean, and its sentences follow the records."""

import base64
import html
import json
import os
import re
import subprocess
from dataclasses import asdict
from pathlib import Path

import IPython.display
import matplotlib.pyplot
import nbformat
import numpy as np
import pytest

import lowrank
from lowrank.config import Config
from lowrank.files import write
from lowrank.lab import analysis, figures
from lowrank.lab.settings import SETTING
from lowrank.paths import ROOT
from lowrank.records import collect
from lowrank.sweeps.plan import configure, plan_runs
from lowrank.sweeps.studies import STUDIES

RUNS = [notebook for notebook in figures.NOTEBOOKS if notebook.stem != "1-parameter-counts"]
MAGIC = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
SIZES = {"dense": 80_000, "separable": 16_000}


def made_up(config: Config, run: str) -> dict:
    """A record whose accuracy follows its size, with a little of its own."""
    parameters = SIZES.get(config.decomp, 1000 + int(9000 * (config.budget or config.rank_scale)))
    parameters = int(parameters * (config.width / 8) ** 2)
    accuracy = 0.3 + parameters / 400_000 + 0.01 * config.seed + int(run[:2], 16) / 10_000
    known = np.arange(400) < 400 * accuracy
    measured = {"parameters": parameters, "multiply_adds": 10 * parameters, "peak_memory": 10**8, "seconds": 3.0}
    measured |= {f"{part}_accuracy": known.mean() for part in ("test", "train", "fit", "validation")}
    measured |= {f"{part}_loss": 1 - known.mean() for part in ("test", "train", "fit", "validation")}
    measured |= {"correct": base64.b64encode(np.packbits(known).tobytes()).decode(), "code": "c0de"}
    source = {"data": "f00", "revision": "abc", "device": "cpu, 2 threads", "torch": "2.11"}
    return asdict(config) | measured | source | {"run": run, "status": "done"}


def described(start: dict | None) -> dict:
    """What the record of a run that starts from another adds."""
    return {"start_decomp": start["decomp"], "start_error": 0.4} if start else {}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for study in STUDIES:
        for parameters in plan_runs(study, "smoke"):
            config = configure(parameters, lambda start: start.fitted(1500).run_id("pixels")).fitted(1500)
            run = config.run_id("pixels")
            (folder / run).mkdir(exist_ok=True)
            record = made_up(config, run) | described(parameters.get("start"))
            write(folder / run / "record.json", json.dumps(record).encode())
    collect(folder)
    return folder


@pytest.fixture(scope="module")
def kernel():
    with figures.drawing_kernel() as kernel:
        yield kernel


@pytest.fixture(scope="module")
def shared(kernel, runs, tmp_path_factory) -> Path:
    """What `make figures` writes."""
    folder = tmp_path_factory.mktemp("figures")
    executed = {notebook.stem: figures.execute(kernel, notebook, folder, runs=str(runs)) for notebook in RUNS}
    (folder / "index.html").write_text(figures.page(executed))
    return folder


@pytest.mark.parametrize("notebook", RUNS, ids=lambda notebook: notebook.stem)
def test_a_shared_notebook_is_small_static_and_names_no_machine(notebook, shared, runs):
    file = shared / notebook.name
    content = nbformat.read(file, as_version=4)
    nbformat.validate(content)
    assert file.stat().st_size < 1_000_000
    assert set(content.metadata) == {"kernelspec", "language_info"}
    outputs = [output for cell in content.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type in ("stream", "error")]
    kinds = {kind for output in outputs for kind in output.data}
    assert kinds == {"text/markdown", "text/plain", "image/png", "text/html"}
    text = json.dumps(outputs)
    assert "<script" not in text
    assert not any(str(place) in text for place in (ROOT, Path.home(), runs, shared))


@pytest.mark.parametrize("notebook", RUNS, ids=lambda notebook: notebook.stem)
def test_every_picture_is_there_in_three_formats_and_on_the_page(notebook, shared):
    pictures = figures.pictures(nbformat.read(shared / notebook.name, as_version=4))
    assert pictures
    for number in range(1, len(pictures) + 1):
        for ending, magic in MAGIC.items():
            assert (shared / f"{notebook.stem}-{number}.{ending}").read_bytes().startswith(magic)
        assert f'src="{notebook.stem}-{number}.png"' in (shared / "index.html").read_text()
    assert len(list(shared.glob(f"{notebook.stem}-*"))) == 3 * len(pictures)


def test_questions_and_their_answers_come_before_every_picture(shared):
    page = (shared / "index.html").read_text()
    questions = [figures.question(nbformat.read(shared / notebook.name, as_version=4)) for notebook in RUNS]
    assert max(page.index(f"<h2>{html.escape(question)}</h2>") for question in questions) < page.index("<img")
    assert "prefers-color-scheme: dark" in page and "width=device-width" in page


def test_no_two_pictures_of_the_page_have_one_caption(shared):
    captions = re.findall(r'<figcaption class="faint">(.*?) <a', (shared / "index.html").read_text())
    assert len(set(captions)) == len(captions) == len(list(shared.glob("*.png")))
    assert "Do fewer parameters cost less time? 3: A network, by its multiply-adds" in captions
    assert not [caption for caption in captions if "`" in caption or caption.endswith(": ")]


@pytest.mark.parametrize("notebook", RUNS, ids=lambda notebook: notebook.stem)
def test_a_shared_notebook_names_the_project_by_links_that_hold(notebook, shared):
    heading = nbformat.read(shared / notebook.name, as_version=4).cells[0].source
    links = re.findall(r"\]\((.*?)\)", heading)
    assert "project [lowrank](../README.md)" in heading and f"../notebooks/{notebook.name}" in links
    assert all((ROOT / "figures" / link).is_file() for link in links)


def test_html_in_an_answer_stays_text():
    shown = figures.as_html("**cp** of <script>alert(1)</script> and <img src=x onerror=alert(1)>")
    assert "<strong>cp</strong>" in shown and "&lt;script&gt;" in shown
    assert "<script" not in shown and "<img" not in shown


def test_another_accuracy_makes_another_sentence(kernel, shared, runs, tmp_path):
    [notebook] = [notebook for notebook in RUNS if notebook.stem == "5-shoot-out"]
    before = figures.answer(nbformat.read(shared / notebook.name, as_version=4))
    table = analysis.evidence(lowrank.results(runs), "shoot-out").table
    run = table.run[(table.decomp == "tucker_tt") & (table.budget == 0.5)].iloc[0]
    path = runs / run / "record.json"
    content = path.read_bytes()
    try:
        write(path, json.dumps(json.loads(content) | {"test_accuracy": 0.99}).encode())
        after = figures.answer(figures.execute(kernel, notebook, tmp_path, runs=str(runs)))
    finally:
        write(path, content)
    assert "**tucker_tt**" in after and after != before


@pytest.mark.parametrize("notebook", RUNS, ids=lambda notebook: notebook.stem)
def test_every_bold_answer_carries_its_scale_and_its_seeds(notebook, shared):
    answer = figures.answer(nbformat.read(shared / notebook.name, as_version=4))
    assert "**" in answer and re.search(r"n = \d", answer)
    assert notebook.stem == "6-cost" or re.search(r"width \d+.* \d+ epochs, n = \d", answer)


def execute_cells(notebook: Path, folder: Path) -> dict:
    """The variables of a notebook after all its cells, over the runs in a folder."""
    namespace = {}
    with matplotlib.rc_context({"backend": "agg"}):
        for cell in nbformat.read(notebook, as_version=4).cells:
            if cell.cell_type == "code":
                exec(cell.source, namespace)
                if "parameters" in cell.metadata.get("tags", []):
                    namespace["runs"] = str(folder)
        matplotlib.pyplot.close("all")
    return namespace


def test_the_pictures_of_decomposed_networks_explain_their_hollow_marks_and_have_a_fitting_axis(runs):
    [notebook] = [notebook for notebook in RUNS if notebook.stem == "10-compress"]
    seen = execute_cells(notebook, runs)
    legends = [ax.get_legend() for ax in seen["figure"].axes if ax.get_legend()]
    names = [text.get_text() for legend in legends for text in legend.get_texts()]
    assert f"hollow: from scratch,\n{seen['altogether']} epochs altogether" in names
    untrained = seen["started"][seen["started"].epochs == 0].test_accuracy
    assert seen["ax"].get_ylim() == pytest.approx((0, 1.25 * untrained.max()))


def test_the_networks_of_the_log_stand_beside_its_figures(runs):
    [notebook] = [notebook for notebook in RUNS if notebook.stem == "7-then-and-now"]
    seen = execute_cells(notebook, runs)
    assert set(seen["beside"].index) == set(seen["log"]) and seen["beside"].n.min() == 2


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("notebook", RUNS, ids=lambda notebook: notebook.stem)
def test_a_notebook_with_some_of_its_settings_fails_nowhere_and_says_no_nan(
    notebook, share, runs, tmp_path, monkeypatch
):
    """As records come, a study has first one setting, then some: never two that belong together at once."""
    said, table = [], lowrank.results(runs)
    monkeypatch.setattr(IPython.display, "Markdown", said.append)
    for _, setting in table.groupby([name for name in SETTING if name != "seed"], dropna=False):
        if np.random.default_rng(int(setting.run.min(), 16)).random() < share:
            for run in setting.run:
                (tmp_path / run).symlink_to(runs / run)
    execute_cells(notebook, tmp_path)
    assert said and not [words for words in said if re.search(r"\bnan\b", words)]


@pytest.mark.parametrize("notebook", RUNS, ids=lambda notebook: notebook.stem)
def test_a_notebook_without_runs_says_so_and_fails_nowhere(notebook, tmp_path):
    study = execute_cells(notebook, tmp_path)["study"]
    assert not study and f"Not answered yet: 0 of {study.asked} runs of the study `{study.study}`" in study.gap


def test_a_gist_names_the_repository_by_its_address(tmp_path):
    """Its links would lead nowhere from where it is shared."""
    tools = {"gh": 'cp "$5" "$SHARED"', "git": "echo git@example.org:someone/lowrank.git"}
    for name, line in tools.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    shared = tmp_path / "shared.ipynb"
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "SHARED": str(shared)}
    command = ["make", "gist", "NB=1-parameter-counts"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    first = nbformat.read(shared, as_version=4).cells[0].source
    assert "(https://example.org/someone/lowrank/blob/HEAD/README.md)" in first and "](../" not in first


@pytest.mark.parametrize(("name", "message"), [("", "NB=: "), ("9-no-such", "NB=9-no-such: ")])
def test_a_gist_of_nothing_is_refused(name, message):
    command = ["make", "--no-print-directory", "gist", f"NB={name}"]  # without it a make inside a make says more
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and done.stdout.startswith(message)


def test_the_findings_of_the_readme_are_in_the_notebooks_that_they_name():
    """Every decimal number of a finding stands in what that notebook has computed."""
    readme = (ROOT / "README.md").read_text()
    findings = re.findall(r"^- (.*?)\[the notebook\]\((figures/.*?\.ipynb)\)", readme, re.MULTILINE | re.DOTALL)
    assert findings
    for finding, path in findings:
        outputs = [out for cell in nbformat.read(ROOT / path, 4).cells for out in cell.get("outputs", [])]
        computed = " ".join(out.data.get("text/markdown", "") for out in outputs)
        numbers = re.findall(r"[-+]?\d+\.\d+", finding)
        assert numbers and not [number for number in numbers if number not in computed], path
