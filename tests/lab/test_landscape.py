"""The picture of runs that answers the mouse: every run, and a setting, lie where they are drawn."""

import io
from dataclasses import asdict

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

import lowrank
from lowrank.config import PLAIN, Config
from lowrank.lab import explore
from lowrank.lab.landscape import Landscape, LivePicture, count_classes
from lowrank.network import build


def test_every_published_run_is_found_where_its_form_draws_it(published):
    table = lowrank.results(published)
    landscape = Landscape(table, explore.describe)
    places = {dot["run"]: (dot["x"], dot["y"]) for dot in landscape.dots}
    assert set(places) == set(table.run)
    width, height = landscape.figure.bbox.size
    for run in table[~table.decomp.isin(PLAIN)].itertuples():  # the plain ones may stand on the edge
        x, y = places[run.run]
        size, accuracy = landscape.ax.transData.inverted().transform((x * width, (1 - y) * height))
        assert accuracy == pytest.approx(run.test_accuracy)
        assert 0.7 < size / run.parameters < 1.4  # those of one budget stand side by side


@pytest.fixture
def landscape(table) -> Landscape:
    table["run"] = [f"run{k}" for k in table.index]
    return Landscape(table, lambda row: row["decomp"])


def pixels(png: bytes) -> np.ndarray:
    return matplotlib.image.imread(io.BytesIO(png), format="png")


def test_the_line_of_a_size_is_drawn_where_it_is_said_to_lie(landscape):
    plain, drawn = pixels(landscape.png), pixels(landscape.still(20_000).data)
    rows, columns = np.nonzero((plain != drawn).any(2))
    line, (height, width) = landscape.line(20_000), plain.shape[:2]
    assert columns.min() - 1 <= line["x"] * width <= columns.max() + 2
    assert (rows.min() / height, rows.max() / height) == pytest.approx((line["top"], line["bottom"]), abs=0.01)
    assert landscape.still(None).data == landscape.png == landscape.still(None).data


def test_a_size_lies_within_the_picture_or_it_does_not(landscape):
    low, high = landscape.limits
    assert [landscape.holds(size) for size in (low - 1, low + 1, 20_000, high - 1, high + 1)] == [0, 1, 1, 1, 0]


def test_the_live_picture_holds_the_runs_and_the_line_while_it_lies_among_them(landscape):
    live = LivePicture()
    assert live.show(landscape, 20_000) is live and live.line == landscape.line(20_000)
    assert live.picture == landscape.png and {dot["text"] for dot in live.dots} == {"dense", "separable", "tt", "cp"}
    assert live.show(landscape, None).line == {}
    assert live._repr_mimebundle_()[0]["image/png"] == landscape.png


@pytest.mark.parametrize("classes", [1, 3, 10, 100])
@pytest.mark.parametrize("form", [{"decomp": "dense"}, {"decomp": "tt", "dims": 4, "budget": 0.3}, {"decomp": "cp"}])
def test_the_size_of_a_run_says_how_many_classes_its_images_have(classes, form):
    config = Config.of(form | {"width": 4})
    size = sum(each.numel() for each in build(config, classes).parameters())
    table = pd.DataFrame([asdict(config) | {"parameters": size}])
    assert count_classes(table) == classes


def test_where_no_run_says_it_there_are_ten_classes():
    config = Config(decomp="tt", budget=0.3, width=4)
    odd = pd.DataFrame([asdict(config) | {"parameters": 12_345}])
    assert [count_classes(table) for table in (None, odd[:0], odd, odd.assign(start="a" * 12))] == [10] * 4
