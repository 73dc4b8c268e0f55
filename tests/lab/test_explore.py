"""The front door without a browser: what objects show, trained weights, forms of one's own, static notebooks."""

import json
import re
import subprocess
import sys
from functools import partial
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from IPython.display import Image, Markdown

import lowrank
from lowrank import layers
from lowrank.config import DECOMPS, Config
from lowrank.errors import InputError
from lowrank.formats import PLAIN
from lowrank.lab import controls, explore, plots
from lowrank.lab.figures import run_notebook, running_kernel
from lowrank.lab.landscape import Landscape
from lowrank.optimiser import weight_decays
from lowrank.paths import ROOT
from lowrank.records import Record, store

NOTEBOOKS = ROOT / "notebooks"


SMALL = {"dataset": "digits", "width": 4, "epochs": 1, "batch_size": 512, "precision": "float32"}


@pytest.fixture
def kronecker(nothing_registered):
    """What your-own.ipynb registers, by its own cells."""
    cells = json.loads((NOTEBOOKS / "your-own.ipynb").read_text())["cells"]
    namespace = {}
    for cell in [cell for cell in cells if cell["cell_type"] == "code"][1:3]:
        exec("".join(cell["source"]), namespace)
    return namespace


@pytest.mark.parametrize("decomp", DECOMPS)
@pytest.mark.parametrize("size", [{"budget": 0.3}, {"rank_scale": 0.3}], ids=str)
def test_sizes_are_those_of_the_network_that_is_built(decomp, size):
    config = Config(width=8, decomp=decomp, dims=4, **({} if decomp in PLAIN else size))
    net = lowrank.build(config, classes=10)
    built = lowrank.summary(net, image=(3, 32, 32))
    table = explore.sizes(config, classes=10)
    assert table.parameters["network"] == sum(parameter.numel() for parameter in net.parameters())
    assert table.multiply_adds["network"] == built.multiply_adds.sum()
    held = built[built.index.str.contains("convolution") & ~built.index.str.contains("first|depthwise")]
    for name in {*table.columns} - {"share"}:
        assert table[name].iloc[:7].tolist() == held[name].tolist()
    assert ("modes" in table) == (decomp not in (*PLAIN, "bottleneck"))  # a bottleneck is never folded
    assert table.iloc[:8].parameters.sum() == table.parameters["network"]


def test_a_budget_that_cannot_be_met_is_said_in_one_line():
    with pytest.raises(InputError, match=r"^budget=0.001: the smallest tt .*$"):
        explore.sizes(Config(width=8, budget=0.001))
    with pytest.raises(InputError, match=r"^budget=0.00001|^budget=1e-05"):
        lowrank.decompose(torch.nn.Linear(8, 8), budget=1e-5)


def shown_by(show, monkeypatch, **values):
    """What a function of explore shows at these values of its controls, without a browser."""
    shown = []

    def show_controlled(show, **controls):
        shown.extend(show(**{name: start for name, (start, _) in controls.items()} | values))
        return {}

    monkeypatch.setattr(explore, "show_controlled", show_controlled)
    show()
    return shown


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"share": 0.1}, "11,272 parameters: the red line below"),
        ({"share": 1.0, "width": 64}, "right of the picture below, which ends at"),
        ({"share": 0.05, "width": 8}, "left of the picture below, which ends at"),
        ({"share": 0.01}, "budget=0.01: the smallest tt"),
    ],
)
def test_a_setting_is_placed_truly_and_the_picture_stays(values, said, monkeypatch, published):
    text, picture = shown_by(partial(explore.setting, published), monkeypatch, **values)
    assert said in text.data and "No run" not in text.data
    table = lowrank.results(published)
    bare = Landscape(table[table.epochs == table.epochs.max()], explore.describe).png
    assert (picture.data == bare) == ("red line" not in said)  # only where it lies among them is a line drawn


def test_controls_that_say_nothing_are_greyed_out(published, monkeypatch):
    made = {}
    for module in (explore, controls):
        monkeypatch.setattr(module, "at_controls", lambda: True)
    monkeypatch.setattr(controls, "display", lambda *_, **__: SimpleNamespace(update=lambda _: None))

    def show_controlled(show, **named):
        made.update(controls.show_controlled(show, **named))
        return made

    monkeypatch.setattr(explore, "show_controlled", show_controlled)
    explore.setting(published)
    for decomp, off in {"bottleneck": {"dims"}, "separable": {"dims", "size", "share"}, "tt": set()}.items():
        made["decomp"].value = decomp
        assert {name for name, control in made.items() if control.disabled} == off


def test_two_runs_open_with_runs_of_one_dataset(published):
    found = explore.best_first(published)
    first = next(iter(found))
    alike = found[explore.likeliest_partner(found, first)]
    strange = dict(found) | {"digits": Record(alike, run="digits", dataset="digits", test_accuracy=1.0)}
    partner = strange[explore.likeliest_partner(strange, first)]
    assert partner["dataset"] == found[first]["dataset"] and partner["decomp"] != found[first]["decomp"]
    assert strange[explore.likeliest_partner(strange, "digits")]["run"] != "digits"
    assert explore.has_partner(strange, first) and not explore.has_partner(strange, "digits")


def test_what_a_record_says_is_shown_as_text(tmp_path, monkeypatch, published):
    evil = "```<script>alert(1)</script>$x$<img src=x onerror=alert(1)>"
    row = lowrank.results(published).query("decomp == 'tt'").iloc[0].dropna().to_dict()
    record = Record(row, dataset=evil, device=evil)
    record |= {name: value.item() for name, value in record.items() if hasattr(value, "item")}
    record["started"] = record["started"].isoformat()
    for run in ("one", "two"):
        history = {"epoch": 1, "train_loss": 1, "test_loss": 1, "train_accuracy": 0.5, "test_accuracy": 0.5}
        store(tmp_path, record | {"run": run, "seed": len(run)}, [history])
    runs = str(tmp_path)
    shows = (partial(explore.setting, runs), partial(explore.one_run, runs), partial(explore.two_runs, runs))
    shown = [each for show in shows for each in shown_by(show, monkeypatch)]
    assert not [each for each in shown if isinstance(each, Markdown)]
    texts = [each._repr_html_() for each in shown if not isinstance(each, Image)]
    assert len(texts) == 4 and "&lt;script&gt;" in "".join(texts)
    assert not [text for text in texts if "<script" in text or "<img" in text]


def test_the_rooms_of_notebooks_open_without_an_import_of_their_own():
    code = "import sys, lowrank\nprint('matplotlib' in sys.modules)\n"
    code += "for name in ('analysis', 'explore', 'figures', 'overview', 'plots'): assert getattr(lowrank, name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_objects_have_a_short_repr_and_an_html_table(tmp_path):
    config = Config(dims=4, budget=0.5, **SMALL)
    assert eval(repr(config)) == config and len(repr(config)) < 150
    record = lowrank.run(log=lambda line: None, runs=str(tmp_path), dims=4, budget=0.5, **SMALL)
    assert record["run"] in repr(record) and len(repr(record)) < 250
    net = lowrank.build(config, classes=10)
    assert f"{record['parameters']:,}" in repr(net) and "\n" not in repr(net)
    layer = net.layer1.convolution.pointwise
    tables = {each: unescape(each._repr_html_()) for each in (config, net, layer)}
    assert all(text.count("<table") == 1 for text in tables.values())
    assert "modes that each 1x1 weight matrix is folded into" in tables[config]
    assert tables[net].count("4 x 2 | 2 x 2") == 1 and "4 x 2 | 2 x 2" in tables[layer]
    assert record["revision"] in record._repr_html_()


def test_the_cell_that_repeats_a_run_finds_that_run(tmp_path):
    record = lowrank.run(log=lambda line: None, runs=str(tmp_path), decomp="cp", budget=0.5, **SMALL)
    again = Config(**eval(explore.repeat(record).partition("\n\n")[2].replace("lowrank.run", "dict")))
    assert again.run_id(record["data"]) == record["run"]


def test_the_table_of_runs_shows_what_varies_and_stays_so_when_it_is_filtered(tmp_path):
    for seed in (0, 1):
        record = lowrank.run(log=lambda line: None, runs=str(tmp_path), seed=seed, budget=0.5, **SMALL)
    table = lowrank.results(tmp_path)
    assert isinstance(table, pd.DataFrame)
    shown = table._repr_html_()
    assert "seed" in shown and "momentum" not in shown and f"{record['test_accuracy']:.1%}" in shown
    assert "seed" not in table.query("seed == 1")._repr_html_()
    assert record["run"] in table[table.seed == 1]._repr_html_()


def test_a_decomposition_of_ones_own_is_counted_budgeted_decayed_and_drawn(kronecker, tmp_path):
    config = Config(decomp="kronecker", dims=4, budget=0.4, width=8, decay="compression")
    net = lowrank.build(config, classes=10)
    held = [module for module in net.modules() if isinstance(module, layers.Decomposed)]
    cores = sum(core.numel() for layer in held for core in layer.cores)
    weights = sum(layer.layout.size for layer in held)
    assert 0.39 * weights < cores <= 0.4 * weights
    assert explore.sizes(config).parameters.iloc[:7].sum() == cores
    layer = held[-1]
    terms = [torch.kron(a, b) for a, b in zip(*layer.cores, strict=True)]
    torch.testing.assert_close(layer.matrix(), sum(terms))
    decays = {id(core): decay for decay, group in weight_decays(net, config).items() for core in group}
    assert decays[id(layer.core_0)] == config.weight_decay * layer.compression
    weight = torch.randn(12, 12)
    fitted = lowrank.decompose(linear(weight), decomp="kronecker", dims=4, rank_scale=1.0)
    assert fitted.error < 0.6  # a random one would be above 1
    record = lowrank.run(log=lambda line: None, decomp="kronecker", dims=4, budget=0.5, runs=str(tmp_path), **SMALL)
    labels = plots.accuracy_against_parameters(lowrank.results(tmp_path)).get_legend_handles_labels()[1]
    assert record["status"] == "done" and "kronecker" in labels


def linear(weight):
    layer = torch.nn.Linear(*weight.shape[::-1], bias=False)
    layer.weight = torch.nn.Parameter(weight)
    return layer


def test_start_here_links_to_every_notebook_and_to_nothing_else():
    links = set(re.findall(r"\]\(([^)]+)\)", (NOTEBOOKS / "0-start-here.ipynb").read_text()))
    assert links == {path.name for path in NOTEBOOKS.glob("*.ipynb")} - {"0-start-here.ipynb"}


@pytest.fixture(scope="module")
def executed(execute, tmp_path_factory):
    """The notebooks of the front door, executed in this order over one folder of runs, from two working directories."""
    folder = tmp_path_factory.mktemp("executed")
    small = {"width": 4, "epochs": 1}

    def places(name):
        return NOTEBOOKS / f"{name}.ipynb", folder / f"{name}.ipynb"

    execute(*places("0-start-here"), ROOT, runs=str(folder / "runs"), **small)
    with running_kernel() as other:  # a form is registered in it
        run_notebook(other, *places("your-own"), NOTEBOOKS, runs=str(folder / "runs"), **small)
    execute(*places("explore"), ROOT, runs=str(folder / "runs"))
    return folder


@pytest.mark.parametrize(
    ("name", "pictures", "tables"), [("0-start-here", 1, 1), ("your-own", 1, 1), ("explore", 4, 3)]
)
def test_executed_copies_are_static(executed, name, pictures, tables):
    content = json.loads((executed / f"{name}.ipynb").read_text())
    outputs = [output for cell in content["cells"] for output in cell.get("outputs", [])]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") == pictures
    assert "\n".join(map(str, outputs)).count("<table") == tables
    assert not [output for output in outputs if output.get("name") == "stderr" or output["output_type"] == "error"]
    assert "widgets" not in content["metadata"] and not [kind for kind in kinds if "widget" in kind]
    shown = json.dumps(outputs)
    assert not [path for path in (ROOT, executed, Path.home()) if str(path) in shown]
    assert len(json.dumps(content)) < 1e6


def test_the_kronecker_run_is_recorded_beside_the_tensor_train(executed):
    table = pd.read_csv(executed / "runs" / "results.csv").query("dims == 4").set_index("decomp")
    assert set(table.index) == {"kronecker", "tt"} and set(table.status) == {"done"}
    assert (table.compression <= 0.2).all() and (table.compression > 0.15).all()
