"""The pictures show every run, say what their intervals are, and refuse what does not belong together."""

import json
from itertools import combinations
from unittest import mock

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from samples import runs

from lowrank.config import DECOMPS
from lowrank.errors import InputError
from lowrank.lab import plots
from lowrank.network import pointwise_shapes
from lowrank.paths import ROOT

matplotlib.use("agg")
NOTEBOOK = ROOT / "notebooks" / "1-parameter-counts.ipynb"


@pytest.fixture(autouse=True)
def house_style():
    with matplotlib.rc_context():
        plots.style()
        yield
    plots.plt.close("all")


def texts(ax):
    return " ".join(text.get_text() for text in ax.texts)


def test_every_run_is_a_dot_and_every_decomposition_has_its_colour(table):
    ax = plots.accuracy_against_parameters(table)
    dots = [line for line in ax.lines if line.get_alpha() == plots.FAINT["alpha"]]
    seen = {to_hex(line.get_color()): sorted(line.get_ydata()) for line in dots}
    assert seen[plots.COLOURS["tt"].lower()] == [0.70, 0.72, 0.74, 0.75, 0.76, 0.77]
    assert seen[plots.COLOURS["cp"].lower()] == [0.60, 0.62, 0.64]
    assert seen[plots.COLOURS["dense"]] == [0.83, 0.85]
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["dense, 400k, beyond the edge", "separable, 50k", "tt", "cp"]
    assert len({plots.COLOURS[decomp] for decomp in DECOMPS}) == len({plots.MARKERS[decomp] for decomp in DECOMPS}) == 8


@pytest.mark.parametrize("size", ["parameters", "multiply_adds"])
def test_every_run_is_drawn_inside_the_axes_and_can_be_found(table, size):
    table = table.assign(run=[f"run{k}" for k in range(len(table))], multiply_adds=10 * table.parameters)
    ax = plots.accuracy_against_parameters(table, size=size)
    assert sorted(run for _, _, run in ax.dots) == sorted(table.run)
    by_run = table.set_index("run")
    for x, y, run in ax.dots:
        assert ax.viewLim.contains(x, y) and y == by_run.test_accuracy[run]
        assert by_run.decomp[run] == "dense" or x == pytest.approx(by_run[size][run], rel=0.1)


@pytest.mark.parametrize("formats", [["tt", "cp"], ["bottleneck", "tt", "tucker", "tucker_tt", "cp", "ring"]])
@pytest.mark.parametrize("widest", [50_000, 500_000])
def test_formats_of_one_budget_stand_apart_on_the_screen_and_no_nearer_to_the_next(formats, widest):
    budgets = {0.05: 9000, 0.1: 11_264, 0.25: 18_112}
    parts = [runs([0.6, 0.61, 0.62], size, decomp=d, budget=b) for d in formats for b, size in budgets.items()]
    ax = plots.accuracy_against_parameters(pd.concat([*parts, runs([0.9] * 3, widest, decomp="separable")]))
    ax.figure.canvas.draw()
    drawn = sorted({x for x, _, _ in ax.dots if x < 40_000})
    screen = ax.transData.transform([(x, 0.6) for x in drawn])[:, 0]
    steps = np.diff(screen)
    within, between = (
        np.delete(steps, [len(formats) - 1, 2 * len(formats) - 1]),
        steps[len(formats) - 1 :: len(formats)],
    )
    assert len(drawn) == 3 * len(formats)
    assert within == pytest.approx(within[0], rel=1e-3) and within[0] > 0.5
    assert between.min() > within[0] - 1e-6
    assert {"5%", "10%", "25%"} <= {text.get_text() for text in ax.texts}


def test_only_parameters_are_what_a_budget_fixes(table):
    beside = pd.concat([table, runs([0.5, 0.51, 0.52], 11_000, decomp="cp", budget=0.1)], ignore_index=True)
    beside = beside.assign(run=[f"run{k}" for k in range(len(beside))], multiply_adds=7 * beside.parameters)
    ax = plots.accuracy_against_parameters(beside[beside.decomp != "dense"], size="multiply_adds")
    sizes = beside.set_index("run").multiply_adds
    assert [x for x, _, _ in ax.dots] == [sizes[run] for _, _, run in ax.dots]
    assert "10%" not in [text.get_text() for text in ax.texts] and "its mark" not in texts(ax)
    assert "10%" in [text.get_text() for text in plots.accuracy_against_parameters(beside).texts]


def test_narrow_networks_are_a_curve_with_intervals():
    parts = [runs([0.5 + k / 10] * 2 + [0.52 + k / 10], 1000 * 2**k, decomp="separable", width=4 + k) for k in range(3)]
    ax = plots.accuracy_against_parameters(pd.concat([*parts, runs([0.6] * 3, 1500, decomp="tt", budget=0.1)]))
    (curve,) = [line for line in ax.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 3]
    assert curve.get_xdata().tolist() == [1000, 2000, 4000]
    assert "separable, width 4 to 6" in [text.get_text() for text in ax.get_legend().get_texts()]
    assert "width 64 (plain networks of width 4 to 6)" in texts(ax).replace("\n", " ")


def test_a_picture_carries_data_width_epochs_seeds_and_interval(table):
    ax = plots.accuracy_against_parameters(table)
    said = texts(ax).replace("\n", " ")
    for words in ("digits", "width 64", "24 epochs", "n = 2, 3", "95% interval", "none below n = 3"):
        assert words in said
    modes = pd.concat([table, runs([0.5], decomp="tt", dims=2, budget=0.1)])
    names = [text.get_text() for text in plots.accuracy_against_parameters(modes, by="dims").get_legend().get_texts()]
    assert "2 modes" in names and "3 modes" in names


def test_one_seed_and_a_diverged_run_are_shown_for_what_they_are(table):
    single = runs([0.7, np.nan], decomp="ring", budget=0.1)
    ax = plots.accuracy_against_parameters(single)
    assert "n = 1" in texts(ax) and "too few for an interval" in texts(ax) and len(ax.dots) == 1
    with pytest.raises(InputError, match="test_accuracy: no run"):
        plots.accuracy_against_parameters(runs([np.nan], decomp="ring", budget=0.1))


@pytest.mark.parametrize("column", ["code", "data"])
@pytest.mark.parametrize("draw", [plots.accuracy_against_parameters, plots.heatmap])
def test_what_comes_from_two_sources_is_refused_unless_asked_for(table, column, draw):
    mixed = pd.concat([table, runs([0.7], decomp="tt", budget=0.2).assign(**{column: "other"})])
    with pytest.raises(InputError, match=rf"^{column}=\w+, other: .*mixed=True"):
        draw(mixed)
    draw(mixed, mixed=True)


def test_a_heatmap_holds_the_means_of_what_is_folded(table):
    ax = plots.heatmap(table[table.decomp != "cp"])
    assert [text.get_text() for text in ax.texts[:-1]] == ["72.0", "76.0"]


def test_a_heatmap_may_hold_the_difference_to_one_of_its_rows(table):
    more = pd.concat(
        [table, runs([0.70], decomp="tt", dims=2, budget=0.1), runs([0.8], decomp="tt", dims=2, budget=0.3)]
    )
    ax = plots.heatmap(more[more.decomp == "tt"], against=2)
    assert [text.get_text() for text in ax.texts[:-1]] == ["+2.0", "-4.0"]
    with pytest.raises(InputError, match="against=7: allowed is a value of dims, 2, 3"):
        plots.heatmap(more, against=7)


def test_a_forest_says_what_is_compared_and_fills_what_is_clear():
    rows = pd.DataFrame(
        {"mean": mean, "low": mean - half, "high": mean + half, "n": n, "decomp": decomp, "budget": 0.1}
        for mean, half, n, decomp in ((0.02, 0.01, 3, "tt"), (0.02, 0.03, 3, "cp"), (0.02, 0.01, 2, "ring"))
    ).assign(value="test_accuracy")
    ax = plots.forest(rows, label="budget", by="decomp", compared="this minus that, width 16")
    assert "this minus that, width 16" in texts(ax) and "n = 2, 3" in texts(ax)
    faces = {
        each.get_label(): to_hex(each.get_facecolor()[0]) for each in ax.collections if "decomp" in each.get_label()
    }
    assert faces == {
        "decomp tt": plots.COLOURS["tt"].lower(), "decomp cp": "#ffffff", "decomp ring": "#ffffff"
    }  # fmt: skip
    loss = plots.forest(rows.assign(value="test_loss"), label="budget", by="decomp")
    assert loss.get_xlabel() == "difference in test loss"


def test_the_picture_of_a_run_shows_losses_and_accuracies():
    names = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
    history = pd.DataFrame({"epoch": [1, 2]} | {name: [k, k + 0.5] for k, name in enumerate(names)})
    loss, accuracy = plots.curves(history)
    assert [list(line.get_ydata()) for line in (*loss.lines, *accuracy.lines)] == [[k, k + 0.5] for k in range(4)]
    assert [line.get_label() for line in loss.lines] == ["train", "test"]
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("loss", "accuracy")


def test_sizes_are_a_line_for_each_mode_count_and_rule():
    table = pd.DataFrame(
        {"dims": dims, "rank_rule": rule, "rank_scale": scale, "parameters": 100 * dims * scale}
        for dims in (2, 3) for rule in ("useful", "original") for scale in (0.5, 1.0)
    )  # fmt: skip
    ax = plots.parameter_counts(table)
    assert sorted((line.get_ydata()[-1], line.get_linestyle()) for line in ax.lines) == [
        (200, "-"), (200, "--"), (300, "-"), (300, "--")
    ]  # fmt: skip
    assert ax.get_legend_handles_labels()[1] == ["2 modes", "3 modes"]


@pytest.mark.parametrize(
    ("draw", "names"),
    [
        (plots.accuracy_against_parameters, ("by", "size")),
        (plots.heatmap, ("rows", "columns")),
        (plots.points, ("value",)),
        (plots.forest, ("label", "by")),
    ],
)
def test_what_is_no_column_is_one_line_with_those_that_are(table, draw, names):
    effects = table.assign(multiply_adds=9 * table.parameters, mean=0.1, low=0, high=0.2, n=3, value="test_accuracy")
    given = {"label": "budget", "by": "decomp"} if draw is plots.forest else {"mixed": True}
    for name in names:
        for wrong in ("foo", "run", 3, None, ["decomp"]):
            with pytest.raises(InputError) as caught:
                draw(effects, **given | {name: wrong})
            said, _, allowed = str(caught.value).partition("; allowed: a column of the table, ")
            assert said == f"{name}={wrong!r}" and set(allowed.split(", ")) <= set(effects)
        draw(effects, **given | {name: allowed.split(", ")[0]})


DRAWN = {
    plots.accuracy_against_parameters: "table",
    plots.heatmap: "table",
    plots.points: "table",
    plots.parameter_counts: "table",
    plots.curves: "history",
    lambda rows: plots.forest(rows, "budget", "decomp"): "rows",
}


@pytest.mark.parametrize(("draw", "name"), DRAWN.items())
def test_what_is_no_table_of_runs_is_one_line(draw, name):
    for wrong in (3, None, "runs", [{"decomp": "tt"}]):
        with pytest.raises(InputError) as caught:
            draw(wrong)
        assert str(caught.value) == f"{name}={wrong!r}; allowed: a table (pandas.DataFrame)"
    with pytest.raises(InputError, match=f"^({name}: there is no column |value='test_accuracy'; allowed)"):
        draw(pd.DataFrame({"data": ["f00"]}))


def overlapping_texts(figure):
    """Pairs of texts of a figure that cover each other where they are drawn."""
    figure.draw_without_rendering()
    shown = [text for text in figure.findobj(matplotlib.text.Text) if text.get_visible() and text.get_text().strip()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in shown]
    return [(one, other) for (one, a), (other, b) in combinations(boxes, 2) if a.overlaps(b)]


@pytest.mark.parametrize("budgets", [[0.1, 0.5], [0.05, 0.1, 0.15, 0.2]])
def test_no_text_of_the_picture_of_a_rehearsal_covers_another(budgets):
    cells = json.loads((ROOT / "notebooks" / "sweep.ipynb").read_text())["cells"]
    [source] = ["".join(cell["source"]) for cell in cells if "def show" in "".join(cell["source"])]
    scope = {"plt": plots.plt, "plots": plots, "scale": "smoke", "display": lambda **_: mock.Mock()}
    exec(source.partition("table = lowrank.sweep")[0], scope)
    scope["show"](
        pd.concat(
            runs([0.5, 0.6], round(4000 + 9000 * budget), decomp="tt", dims=dims, budget=budget)
            for dims in (2, 3) for budget in budgets
        )
    )  # fmt: skip
    assert "a rehearsal" in scope["axes"].get_title(loc="left")
    assert overlapping_texts(scope["figure"]) == []


def test_saved_pictures_are_opaque(table, tmp_path):
    plots.accuracy_against_parameters(table).figure.savefig(tmp_path / "picture.png")
    assert (matplotlib.image.imread(tmp_path / "picture.png")[..., 3:] == 1).all()


# --- notebooks/1-parameter-counts.ipynb


def test_the_size_notebook_answers_with_computed_numbers(execute, tmp_path):
    output = tmp_path / "executed.ipynb"
    execute(NOTEBOOK, output, cwd=ROOT, width=16, channels=64)
    outputs = [each for cell in json.loads(output.read_text())["cells"] for each in cell.get("outputs", [])]
    answer = "".join(outputs[0]["data"]["text/markdown"])
    weights = sum(rows * columns for rows, columns in pointwise_shapes(16))
    assert "width 16 keeps between" in answer and f"{weights:,} pointwise weights" in answer
    assert sum("image/png" in each.get("data", {}) for each in outputs) == 2
    assert all(each["output_type"] != "stream" for each in outputs)


@pytest.mark.parametrize("most", [1.2, 1.9, 3, 9, 30, 300])
def test_the_axis_of_sizes_bears_several_numbers_whatever_its_length(most):
    few, many = (runs([0.5], size, decomp="tt", budget=size / 10**7) for size in (10_300, round(10_300 * most)))
    ax = plots.accuracy_against_parameters(pd.concat([few, many]))
    low, high = ax.get_xlim()
    shown = [tick for tick in ax.get_xticks() if low <= tick <= high]
    assert 2 <= len(shown) <= 12
