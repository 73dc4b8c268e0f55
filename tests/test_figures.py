"""The analysis notebooks from made-up records: what is shared is clean, and its sentences follow the records."""

import json
import re
import subprocess
from dataclasses import asdict
from pathlib import Path

import nbformat
import pandas as pd
import pytest

import lowrank
from lowrank import analysis, figures
from lowrank.config import Config, InputError
from lowrank.paths import ROOT
from lowrank.plan import planned
from lowrank.results import collect, write

STUDIES = ["weight-decay", "tensor-train", "cp", "shoot-out", "then-and-now"]
RUNS = [notebook for notebook in figures.NOTEBOOKS if notebook.stem != "1-parameter-counts"]
MAGIC = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
SIZES = {"dense": 80_000, "separable": 16_000}


def made_up(config: Config, run: str) -> dict:
    """A record whose accuracy follows its size, with a little of its own."""
    parameters = SIZES.get(config.decomp, 1000 + int(9000 * (config.budget or config.rank_scale)))
    accuracy = 0.3 + parameters / 200_000 + 0.01 * config.seed + int(run[:2], 16) / 10_000
    measured = {"parameters": parameters, "multiply_adds": 10 * parameters, "peak_memory": 10**8, "seconds": 3.0}
    measured |= {"test_accuracy": accuracy, "train_accuracy": accuracy, "data": "f00", "revision": "abc"}
    return asdict(config) | measured | {"run": run, "status": "done", "device": "cpu, 2 threads", "torch": "2.11"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for study in STUDIES:
        for config in map(Config.of, planned(study, "smoke")):
            run = config.run("pixels")
            (folder / run).mkdir(exist_ok=True)
            write(folder / run / "record.json", json.dumps(made_up(config, run)).encode())
    collect(folder)
    return folder


@pytest.fixture(scope="module")
def shared(runs, tmp_path_factory) -> Path:
    """What `make figures` writes."""
    folder = tmp_path_factory.mktemp("figures")
    executed = {notebook.stem: figures.execute(notebook, folder, runs=str(runs)) for notebook in RUNS}
    (folder / "index.html").write_text(figures.page(executed, folder))
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


def test_another_accuracy_makes_another_sentence(shared, runs, tmp_path):
    [notebook] = [notebook for notebook in RUNS if notebook.stem == "5-shoot-out"]
    before = figures.answer(nbformat.read(shared / notebook.name, as_version=4))
    table = analysis.evidence(lowrank.results(runs), "shoot-out").table
    run = table.run[(table.decomp == "tucker_tt") & (table.budget == 0.5)].iloc[0]
    path = runs / run / "record.json"
    content = path.read_bytes()
    try:
        write(path, json.dumps(json.loads(content) | {"test_accuracy": 0.99}).encode())
        after = figures.answer(figures.execute(notebook, tmp_path, runs=str(runs)))
    finally:
        write(path, content)
    assert "**tucker_tt**" in after and after != before


def test_a_setting_counts_once_it_has_all_its_seeds(runs):
    table = lowrank.results(runs)
    whole = analysis.evidence(table, "cp")
    assert (whole.scale, whole.missing, len(whole.table)) == ("smoke", 0, 8)
    part = analysis.evidence(table[table.run != whole.table.run.iloc[0]], "cp")
    assert (part.missing, len(part.table)) == (1, 6)
    assert "1 settings of the study have not all their seeds yet" in part.method()
    with pytest.raises(InputError, match="study='cp': none of its settings has all its seeds"):
        analysis.evidence(table[table.seed == 0], "cp")
    with pytest.raises(InputError, match="revision="):
        analysis.evidence(table.assign(revision=table.run), "cp")


def test_the_ledger_counts_every_study_that_has_runs(runs):
    ledger = analysis.ledger(lowrank.results(runs))
    assert set(STUDIES) <= set(ledger.index)
    assert ledger.loc["cp", ["runs", "seeds a setting", "dataset"]].tolist() == [8, 2, "digits"]


def test_differences_are_paired_and_their_interval_is_students():
    table = pd.DataFrame(
        {"decomp": decomp, "budget": budget, "seed": seed, "test_accuracy": seed / 10 + gain}
        for budget in (0.1, 0.2)
        for decomp, gains in (("tt", (0.01, 0.02, 0.03)), ("cp", (0, 0, 0)))
        for seed, gain in enumerate(gains)
    )
    found = analysis.differences(table.drop(index=0), {"decomp": "tt"}, {"decomp": "cp"}, ["budget"])
    assert len(found) == 5
    effect = analysis.effect(found[0.2])
    assert effect[:3] == pytest.approx((0.02, 0.02 - 0.02484, 0.02 + 0.02484), abs=1e-5)  # t = 4.303, 2 degrees
    assert not effect.clear and str(effect) == "+2.0 points (95% interval -0.5 to +4.5, n = 3 pairs)"
    assert analysis.effects(found, "budget").n.tolist() == [2, 3]


@pytest.mark.parametrize(("name", "message"), [("", "NB=: "), ("9-no-such", "NB=9-no-such: ")])
def test_a_gist_of_nothing_is_refused(name, message):
    command = ["make", "--no-print-directory", "gist", f"NB={name}"]  # without it a make inside a make says more
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and done.stdout.startswith(message)


def test_the_findings_of_the_readme_are_in_the_notebooks_that_they_name():
    """Every decimal number of a finding stands in what that notebook has computed."""
    readme = (ROOT / "README.md").read_text()
    findings = re.findall(r"^- (.*?)\[the notebook\]\((figures/.*?\.ipynb)\)", readme, re.MULTILINE | re.DOTALL)
    assert len(findings) >= 3
    for finding, path in findings:
        outputs = [out for cell in nbformat.read(ROOT / path, 4).cells for out in cell.get("outputs", [])]
        computed = " ".join(out.data.get("text/markdown", "") for out in outputs)
        numbers = re.findall(r"[-+]?\d+\.\d+", finding)
        assert numbers and not [number for number in numbers if number not in computed], path
