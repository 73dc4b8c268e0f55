"""Controls above what they show: once as they start if nobody is there, and again whenever one changes."""

import io
from functools import partial

import ipywidgets as widgets
import matplotlib.image
from matplotlib.figure import Figure

from lowrank.lab.controls import picture, show_controlled

SLIDER = partial(widgets.IntSlider, min=1, max=9)


def test_without_a_person_it_is_shown_once_as_the_controls_start(shown):
    assert show_controlled(lambda dims, width: [f"{dims} modes", width], dims=(3, SLIDER), width=(8, SLIDER)) == {}
    assert shown == ["3 modes", 8]


def test_what_is_shown_follows_the_controls_and_a_widget_stays_in_its_place(monkeypatch, shown):
    monkeypatch.setenv("JPY_SESSION_NAME", "explore.ipynb")
    live = widgets.Label()
    made = show_controlled(lambda dims: [f"{dims} modes", live], dims=(3, SLIDER))
    assert list(made) == ["dims"] and shown[0].children == (made["dims"],) and shown[1:] == ["3 modes", live]
    made["dims"].value = 5
    assert shown[3:] == ["5 modes"]


def test_a_figure_becomes_a_picture_of_its_size():
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot([1, 2])
    pixels = matplotlib.image.imread(io.BytesIO(picture(figure).data), format="png")
    assert pixels.shape[:2] == (220, 330) and pixels.min() < 1
