"""What a record says is text wherever it is shown, whatever it says."""

import json
from dataclasses import asdict
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from IPython.display import HTML, Code, Image, Markdown
from nbconvert.filters import markdown2html

import lowrank
from lowrank.config import Config
from lowrank.display import as_label, as_text, how_many
from lowrank.lab import analysis, explore, figures, plots
from lowrank.records import Record, collect

IMAGE = "<img src=x onerror=alert(1)>"
STRANGE = [
    IMAGE,
    "<script>alert(1)</script>",
    "</pre></table><script>alert(1)</script>",
    "'\"><svg onload=alert(1)>",
    "![x](javascript:alert(1)) [y](http://z) <http://z>",
    "`code` **bold** _it_ # $x$ |a| ~b~",
    "```\n<img src=x>\n```",
    "&lt;img src=x&gt; &amp; $\\frac{$",
]
TABLE = {"table", "thead", "tbody", "tr", "th", "td"}
TEXTS = ("dataset", "device", "torch", "revision", "reason", "precision", "decomp", "schedule")


class Tags(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attributes)

    def handle_data(self, data):
        self.text += data


def write_record(runs, run: str, **values) -> Record:
    measured = {"parameters": 100, "compression": 0.1, "multiply_adds": 9, "test_accuracy": 0.5, "train_accuracy": 0.5}
    said = {"run": run, "status": "done", "seconds": 1.0, "data": "f00"}
    record = asdict(Config().fitted(50_000)) | measured | said | values
    (runs / run).mkdir(parents=True)
    (runs / run / "record.json").write_text(json.dumps(record))
    row = "1,0.5,0.5,0.5,0.5\n"
    (runs / run / "history.csv").write_text(f"epoch,train_loss,train_accuracy,test_loss,test_accuracy\n{row}")
    return Record(record)


@pytest.mark.parametrize("text", STRANGE)
def test_as_text_is_that_text_in_html_and_in_markdown(text):
    for page in (f"<p>{as_text(text)}</p>", markdown2html(f"It is {as_text(text)}.")):
        read = Tags(page)
        assert read.tags == ["p"] and " ".join(text.split()) in " ".join(read.text.split())


@pytest.mark.parametrize("text", [*STRANGE, "$a$", "$\\x$ and $", "\\$5"])
def test_as_label_is_no_formula(text):
    figure = plt.figure()
    shown = figure.text(0, 0, as_label(text))
    assert shown._preprocess_math(shown.get_text()) == (text, False) or "\\$" in text
    figure.canvas.draw()
    plt.close(figure)


@pytest.mark.parametrize("text", STRANGE)
def test_objects_and_tables_show_it_as_text(tmp_path, text):
    record = write_record(tmp_path, "a", **dict.fromkeys(TEXTS, text), extra=text, **{text: text})
    write_record(tmp_path, "b")
    collect(tmp_path)
    table = lowrank.results(tmp_path)
    shown = [record._repr_html_(), table._repr_html_(), table.set_index("run").T._repr_html_()]
    for page in shown:
        assert set(Tags(page).tags) <= TABLE | {"p", "div", "style"}
    assert " ".join(text.split()) in " ".join(Tags(shown[0]).text.split())


@pytest.mark.parametrize("text", [STRANGE[0], STRANGE[2], STRANGE[-1]])
@pytest.mark.parametrize("controls", [False, True], ids=["static", "live"])
def test_explore_shows_it_as_text(tmp_path, monkeypatch, shown, text, controls):
    for run in ("a", "b"):
        write_record(tmp_path, run, **dict.fromkeys(TEXTS, text))
    if controls:
        monkeypatch.setenv("JPY_SESSION_NAME", "explore.ipynb")
    for show in (explore.setting, explore.one_run, explore.two_runs):
        show(str(tmp_path))
    known = TABLE | {"p", "code", "details", "summary"}
    pages = [each.data for each in shown if isinstance(each, HTML)]
    assert len(pages) == 3  # the sizes, a record, differences; the cell that repeats a run is highlighted as code
    for page in pages:
        assert set(Tags(page).tags) <= known
    cells = [each._repr_html_() for each in shown if isinstance(each, Code)]
    assert cells and all(set(Tags(cell).tags) <= {"style", "div", "pre", "span"} for cell in cells)
    assert not [each for each in shown if isinstance(each, Markdown)]


@pytest.mark.parametrize("text", STRANGE)
def test_sentences_and_pictures_show_it_as_text(text):
    rows = [asdict(Config(seed=seed).fitted(50_000)) for seed in (0, 1)]
    measured = {"test_accuracy": 0.5, "parameters": 9, "seconds": 1.0, "data": "f00"}
    table = pd.DataFrame(rows).assign(**measured, **dict.fromkeys(TEXTS, text))
    method = analysis.Evidence("cp", "smoke", table, 1, 0, 2, 2, 0).method()
    left_out = analysis.source_of(table.assign(data=text, code=text, precision=text), open_precision=True)
    for page in (method, left_out[0]):
        assert set(Tags(markdown2html(page)).tags) <= {"p", "code"}
    figure = plots.accuracy_against_parameters(table).figure
    figure.canvas.draw()
    plt.close(figure)


@pytest.mark.parametrize("text", [text for text in STRANGE if "<" in text and "![" not in text])
def test_the_page_of_figures_holds_no_tag_of_a_sentence(text):
    cells = [nbformat.v4.new_markdown_cell("# Question?"), nbformat.v4.new_code_cell()]
    data = {"text/markdown": f"**Answer {text}**"}
    cells[1].outputs = [nbformat.v4.new_output("display_data", data)]
    page = figures.section("1-name", nbformat.v4.new_notebook(cells=cells))
    assert not {"img", "script", "svg"} & set(Tags(page).tags)


@pytest.mark.parametrize("damage", ["", "hello", "epoch\n1\n"])
def test_explore_goes_on_where_a_history_or_weights_are_damaged(tmp_path, shown, damage):
    for run in ("a", "b"):
        write_record(tmp_path, run)
        (tmp_path / run / "history.csv").write_text(damage)
        (tmp_path / run / "weights.pt").write_text(damage)
    write_record(tmp_path, "partly", train_accuracy=None)
    for show in (explore.setting, explore.one_run, explore.two_runs, explore.one_layer):
        show(str(tmp_path))
    assert sum("damaged weights" in each.data for each in shown if isinstance(each, HTML)) == 1
    assert sum(isinstance(each, Image) for each in shown) == 3


@pytest.mark.parametrize("show", [Record._repr_html_, lambda record: explore.tabulate_record(record).data])
def test_a_record_shows_numbers_as_people_read_them_and_keeps_them(tmp_path, show):
    parts = ("test", "train", "validation", "fit")
    values = {f"{part}_{name}": 0.8937777777777778 for part in parts for name in ("accuracy", "loss")}
    record = write_record(tmp_path, "a", **values, peak_memory=3 * 2**30)
    shown = Tags(show(record)).text
    assert shown.count("89.4%") == shown.count("0.8938") == len(parts) and "8937" not in shown
    assert "peak_memory3,072 MiB" in shown
    assert record["peak_memory"] == 3 * 2**30 and record["fit_accuracy"] == values["fit_accuracy"]


def test_a_table_leaves_blank_what_was_not_measured_or_not_said(tmp_path):
    write_record(tmp_path, "a", parameters=None, test_accuracy=None, status="failed", reason="no room")
    write_record(tmp_path, "b", test_accuracy=0.8937777777777778)
    shown = Tags(lowrank.results(tmp_path)._repr_html_()).text
    assert "no room" in shown and "89.4%" in shown and "None" not in shown and "nan" not in shown.lower()


def test_one_is_singular(tmp_path):
    write_record(tmp_path, "a")
    assert how_many(1, "run") == "1 run" and how_many(2, "run") == "2 runs" and how_many(0, "run") == "0 runs"
    assert "<p>1 row; " in lowrank.results(tmp_path)._repr_html_()


def test_what_is_made_of_a_table_of_runs_is_shown_as_it_is(tmp_path):
    assert "<table" in lowrank.results(tmp_path)._repr_html_()  # without a run
    for run, accuracy in (("a", 0.2), ("b", 0.4), ("c", 0.9)):
        write_record(tmp_path, run, test_accuracy=accuracy, parameters=int(100 - 10 * accuracy))
    table = lowrank.results(tmp_path)
    assert "40.0%" in table._repr_html_() and "40.0%" in table[["decomp", "test_accuracy"]]._repr_html_()
    assert "<table" in table.query("decomp == 'none'")._repr_html_()
    measured = table[["test_accuracy", "parameters", "compression"]]
    assert "%" not in table.groupby("seed").count()._repr_html_()
    assert "%" not in measured.corr()._repr_html_() and ">-1.0<" in measured.corr()._repr_html_()
    assert "0.0%" not in measured.describe()._repr_html_() and "False" in table.isna()._repr_html_()
    said = table.assign(test_accuracy=table.test_accuracy.map("{:.1%} right".format))
    assert "40.0% right" in said._repr_html_() and "<table" in table.astype(str)._repr_html_()
    for twice in (pd.concat([table, table], axis=1), table[["decomp", "decomp"]], pd.concat([table, table])):
        assert "<table" in twice._repr_html_()
