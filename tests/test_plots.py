"""The pictures show every run, say what their intervals are, and refuse what does not belong together."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from lowrank import formats, plots
from lowrank.config import DECOMPS, Config, InputError

matplotlib.use("agg")
ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "1-parameter-counts.ipynb"


def runs(accuracies, parameters=10_000, revision="abc", data="f00", **settings):
    """Records of one setting, a seed each."""
    return pd.DataFrame(
        asdict(Config(dataset="digits", seed=seed, **settings).fitted(1500))
        | {"parameters": parameters, "test_accuracy": accuracy, "revision": revision, "data": data}
        for seed, accuracy in enumerate(accuracies)
    )


@pytest.fixture
def table():
    return pd.concat(
        [
            runs([0.83, 0.85], 400_000, decomp="dense"),
            runs([0.79, 0.81], 50_000, decomp="separable"),
            runs([0.70, 0.72, 0.74], 10_000, decomp="tt", budget=0.1),
            runs([0.75, 0.77, 0.76], 20_000, decomp="tt", budget=0.3),
            runs([0.60, 0.62, 0.64], 30_000, decomp="cp", budget=0.5),
        ],
        ignore_index=True,
    )


@pytest.fixture(autouse=True)
def house_style():
    with matplotlib.rc_context():
        plots.style()
        yield
    plots.plt.close("all")


def texts(ax):
    return " ".join(text.get_text() for text in ax.texts)


def test_the_interval_is_students():
    low, high = plots.interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 2.484, 2 + 2.484), abs=1e-3)  # t = 4.303 at 2 degrees of freedom
    assert np.isnan(plots.interval([1.0])).all()


def test_a_point_is_a_setting_over_its_seeds(table):
    points = plots.points(table).set_index(["decomp", "budget"])
    assert points.loc[("tt", 0.1), ["mean", "n"]].tolist() == pytest.approx([0.72, 3])
    assert len(points) == 5


def test_a_front_never_falls(table):
    front = plots.pareto(plots.points(table[table.decomp.isin(["tt", "cp"])]))
    assert front.parameters.tolist() == [10_000, 20_000]


def test_every_run_is_a_dot_and_every_decomposition_has_its_colour(table):
    ax = plots.accuracy_against_parameters(table)
    dots = [line for line in ax.lines if line.get_alpha() == plots.FAINT["alpha"]]
    seen = {to_hex(line.get_color()): sorted(line.get_ydata()) for line in dots}
    assert seen[plots.COLOURS["tt"].lower()] == [0.70, 0.72, 0.74, 0.75, 0.76, 0.77]
    assert seen[plots.COLOURS["cp"].lower()] == [0.60, 0.62, 0.64]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["tt", "cp"]
    assert len({plots.COLOURS[decomp] for decomp in DECOMPS}) == len({plots.MARKERS[decomp] for decomp in DECOMPS}) == 8


def test_a_picture_names_its_baselines_data_seeds_and_interval(table):
    ax = plots.accuracy_against_parameters(table)
    ax.figure.canvas.draw()
    for words in ("dense, 400k", "separable, 50k", "digits", "width 64", "Student t 95% interval", "n = 2, 3 seeds"):
        assert words in texts(ax)
    assert (
        "2 modes"
        in plots.accuracy_against_parameters(
            pd.concat([table, runs([0.5], decomp="tt", dims=2, budget=0.1)]), by="dims"
        )
        .get_legend()
        .get_texts()[0]
        .get_text()
    )


def test_one_seed_and_a_diverged_run_are_shown_for_what_they_are(table):
    single = runs([0.7, np.nan], decomp="ring", budget=0.1)
    ax = plots.accuracy_against_parameters(single)
    ax.figure.canvas.draw()
    assert "n = 1 seed and no interval" in texts(ax)
    with pytest.raises(InputError, match="test_accuracy: no run"):
        plots.accuracy_against_parameters(runs([np.nan], decomp="ring", budget=0.1))


@pytest.mark.parametrize("column", ["revision", "data"])
@pytest.mark.parametrize("draw", [plots.accuracy_against_parameters, plots.heatmap])
def test_what_comes_from_two_sources_is_refused_unless_asked_for(table, column, draw):
    mixed = pd.concat([table, runs([0.7], decomp="tt", budget=0.2, **{column: "other"})])
    with pytest.raises(InputError, match=rf"^{column}=\w+, other: .*mixed=True"):
        draw(mixed)
    draw(mixed, mixed=True)


def test_a_heatmap_holds_the_means_of_what_is_folded(table):
    ax = plots.heatmap(table[table.decomp != "cp"])
    assert [text.get_text() for text in ax.texts[:-1]] == ["72.0", "76.0"]


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


def test_saved_pictures_are_opaque(table, tmp_path):
    plots.accuracy_against_parameters(table).figure.savefig(tmp_path / "picture.png")
    assert (matplotlib.image.imread(tmp_path / "picture.png")[..., 3:] == 1).all()


# --- notebooks/1-parameter-counts.ipynb


def test_the_size_notebook_answers_with_computed_numbers(tmp_path):
    output = tmp_path / "executed.ipynb"
    subprocess.run(
        [sys.executable, "-m", "papermill", NOTEBOOK, output, "-p", "width", "16", "-p", "channels", "64"],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    outputs = [each for cell in json.loads(output.read_text())["cells"] for each in cell.get("outputs", [])]
    answer = "".join(outputs[0]["data"]["text/markdown"])
    weights = sum(rows * columns for rows, columns, _ in formats.pointwise(16))
    assert "width 16 keeps between" in answer and f"{weights:,} pointwise weights" in answer
    assert sum("image/png" in each.get("data", {}) for each in outputs) == 2
    assert all(each["output_type"] != "stream" for each in outputs)
