"""What stands behind notebooks/explore.ipynb: controls, and what they show of settings, runs and trained layers.

Sizes are counted by lowrank.formats; no network is built. Where nobody is at the controls (papermill, nbconvert)
everything is shown once, as the controls start, in plain tables and pictures.
"""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import ipywidgets as widgets
import pandas as pd
import torch
from IPython.display import HTML, Image, Markdown, display
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image as Pixels
from torch import nn

from . import plots
from .config import DATASETS, DECOMPS, PLAIN, Config, InputError, arguments, html_table, runs_folder
from .display import as_label
from .formats import fold, pointwise, solve, uses_dims
from .layers import Decomposed
from .results import Record, history, records
from .table import FORMATS, results
from .trial import load

LAYERS = ["layer1", "residual1.0", "residual1.1", "layer2", "layer3", "residual3.0", "residual3.1"]
KERNEL = 9  # weights of a 3x3 convolution for each pair of channels
RED = "#C1121F"  # of no decomposition
HOVER = 8  # pixels around a run in which the mouse finds it
OUTCOME = ["parameters", "compression", "multiply_adds", "test_accuracy", "train_accuracy", "seconds"]
NO_RUNS = Markdown("*No run is recorded here yet: run all cells of [0-start-here](0-start-here.ipynb) first.*")
NO_WEIGHTS = Markdown("*No run has kept its weights yet: train one with `save_weights=True`.*")

Control = tuple[Any, Callable[..., widgets.Widget]]  # where it starts, and what makes it


# --- controls and pictures


def at_controls() -> bool:
    """Whether somebody is: JupyterLab names the notebook in the environment of its kernel."""
    return "JPY_SESSION_NAME" in os.environ


def controlled(show: Callable[..., list[Any]], **controls: Control) -> None:
    """Shows the controls and, below, the list that `show` makes of their values; again whenever one changes."""
    if not at_controls():
        display(*show(**{name: start for name, (start, _) in controls.items()}))
        return
    named = {name: make(value=start, description=name) for name, (start, make) in controls.items()}

    def shown() -> list[Any]:
        return show(**{name: control.value for name, control in named.items()})

    def change(_: Any) -> None:
        for handle, each in zip(handles, shown(), strict=True):
            handle.update(each)

    display(widgets.Box(list(named.values()), layout={"flex_flow": "row wrap"}))
    handles = [display(each, display_id=True) for each in shown()]
    for control in named.values():
        control.observe(change, "value")


def picture(figure: Figure) -> Image:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return Image(stream.getvalue())


def following(epochs: int) -> Callable[[Any], None]:
    """For `lowrank.run(watch=...)`: learning curves in this cell, drawn again after every epoch."""
    handle = display(Markdown("*The curves come with the first epoch.*"), display_id=True)

    def watch(history: Any) -> None:
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        for ax in plots.curves(pd.DataFrame(history), figure.subplots(1, 2)):
            ax.set_xlim(0.5, epochs + 0.5)
        handle.update(picture(figure))

    return watch


# --- a setting


def sizes(config: Config, classes: int = 10) -> pd.DataFrame:
    """A row for each layer that a decomposition holds, the rest of the network, and the whole.

    Parameters, and multiply-adds of one image, as `lowrank.summary` counts them, without building the network.
    Raises InputError where the budget cannot be met.
    """
    shapes = pointwise(config.width)
    rows = plain(config, shapes) if config.decomp in PLAIN else decomposed(config, shapes)
    table = pd.DataFrame(rows, index=pd.Index(LAYERS, name="layer"))
    w, depthwise = config.width, 0 if config.decomp == "dense" else KERNEL
    norms = 2 * (w + sum(outputs for outputs, _, _ in shapes))
    ends = 3 * KERNEL * w, 8 * w * classes  # the first convolution, the classifier
    table.loc["rest", "parameters"] = sum(ends) + norms + depthwise * sum(inputs for _, inputs, _ in shapes)
    table.loc["rest", "multiply_adds"] = ends[0] * 32**2 + ends[1] + depthwise * sum(i * n for _, i, n in shapes)
    table.loc["network"] = table[["parameters", "multiply_adds"]].sum()
    return table.fillna("").astype({"parameters": int, "multiply_adds": int})


def plain(config: Config, shapes: list[tuple[int, int, int]]) -> list[dict[str, Any]]:
    rows = []
    for outputs, inputs, positions in shapes:
        size = outputs * inputs * (KERNEL if config.decomp == "dense" else 1)
        rows.append({"modes": f"{outputs} | {inputs}", "parameters": size, "multiply_adds": size * positions})
    return rows


def decomposed(config: Config, shapes: list[tuple[int, int, int]]) -> list[dict[str, Any]]:
    foldings = [fold(outputs, inputs, config.dims) for outputs, inputs, _ in shapes]
    try:
        layouts = solve(config.decomp, foldings, budget=config.budget, rank_scale=config.rank_scale)
    except ValueError as error:
        raise InputError(str(error)) from None
    rows = []
    for layout, (_, _, positions) in zip(layouts, shapes, strict=True):
        rows.append(
            {
                "modes": str(layout.folding),
                "ranks": ", ".join(map(str, layout.ranks)),
                "parameters": layout.parameters,
                "multiply_adds": layout.multiply_adds() * positions,
                "share": f"{layout.parameters / layout.size:.1%}",
                "contraction": layout.contraction,
            }
        )
    return rows


class Landscape:
    """Recorded runs, drawn once, and the line of a setting across them, drawn in milliseconds."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.figure = Figure(figsize=(8.8, 4.6), dpi=100, layout="constrained")
        self.canvas = FigureCanvasAgg(self.figure)
        self.ax = plots.accuracy_against_parameters(table, self.figure.subplots(), mixed=True)
        self.limits = self.ax.get_xlim()
        self.line = self.ax.axvline(self.limits[0], color=RED, linewidth=1.5, animated=True)
        self.ax.set_xlim(self.limits)
        self.canvas.draw()
        self.background = self.canvas.copy_from_bbox(self.figure.bbox)
        dots = [line.get_xydata() for line in self.ax.lines if line.get_marker() == "."]
        self.dots = [tuple(dot) for line in dots for dot in line]
        self.areas = "".join(self.area(Record(row)) for row in table.to_dict("records"))

    def area(self, record: Record) -> str:
        """The place of a run in an image map: the mouse over it shows what it is."""
        own = (record["parameters"], record["test_accuracy"])
        drawn = [dot for dot in self.dots if dot[1] == own[1]]  # plots moves equal sizes apart
        x, y = self.ax.transData.transform(min(drawn, key=lambda dot: abs(dot[0] - own[0]), default=own))
        place = f"{x:.0f},{self.figure.bbox.height - y:.0f},{HOVER}"
        text = f"{title(record)}\n{', '.join(arguments(record))}\nrun {record['run']}"
        return f'<area shape="circle" coords="{place}" title="{html.escape(text)}">'

    def at(self, parameters: int) -> HTML | Image:
        self.canvas.restore_region(self.background)
        low, high = self.limits
        self.line.set_xdata([min(max(parameters, low), high)] * 2)  # beyond the picture: on its edge
        self.ax.draw_artist(self.line)
        stream = io.BytesIO()
        pixels = Pixels.frombuffer("RGBA", self.canvas.get_width_height(), self.canvas.buffer_rgba())
        pixels.save(stream, "png", compress_level=1)
        if not at_controls():
            return Image(stream.getvalue())
        data = base64.b64encode(stream.getvalue()).decode()
        return HTML(f'<img usemap="#runs" src="data:image/png;base64,{data}"><map name="runs">{self.areas}</map>')


def setting(runs: str = "runs") -> None:
    """Controls for decomposition, modes, size and width; the sizes of each layer; the recorded runs around it."""
    table = results(runs)
    table = table[table["run"].isin(list(best_first(runs)))]
    landscapes = {dataset: Landscape(rows) for dataset, rows in table.groupby("dataset")}
    datasets = list(table.dataset.value_counts().index) or ["cifar10"]
    widths = list(table.width.value_counts().index) or [64]

    def show(decomp: str, dims: int, size: str, share: float, width: int, dataset: str) -> list[Any]:
        ranks = {} if decomp in PLAIN else {size: round(share, 3)}
        try:
            config = Config(decomp=decomp, dims=dims, width=width, **ranks)
            counts = sizes(config, classes=100 if dataset == "cifar100" else 10)
        except InputError as error:
            return [HTML(f"<p>{html.escape(str(error))}</p>"), NO_RUNS]
        parameters = counts.parameters["network"]
        shown = counts.rename_axis(index=None, columns="layer").to_html(formatters=FORMATS)
        shown += f"<p><code>{html.escape(repr(config))}</code>, {parameters:,} parameters: the red line below</p>"
        return [HTML(shown), landscapes[dataset].at(parameters) if landscapes else NO_RUNS]

    controlled(
        show,
        decomp=("tt", partial(widgets.Dropdown, options=list(DECOMPS))),
        dims=(3, partial(widgets.IntSlider, min=2, max=9)),
        size=("budget", partial(widgets.Dropdown, options=["budget", "rank_scale"])),
        share=(0.1, partial(widgets.FloatLogSlider, min=-2, max=0, step=0.02, readout_format=".3f")),
        width=(widths[0], partial(widgets.Dropdown, options=sorted({8, 16, 32, 64, 128, *widths}))),
        dataset=(datasets[0], partial(widgets.Dropdown, options=datasets)),
    )


# --- recorded runs


def title(record: Mapping[str, Any]) -> str:
    """One run in one line."""
    size = "".join(f" {name}={record[name]:g}" for name in ("budget", "rank_scale") if record[name])
    modes = f" dims={record['dims']}" if uses_dims(record["decomp"]) else ""
    name = f"{record['decomp']}{modes}{size} seed={record['seed']}, {record['dataset']}"
    return f"{record['test_accuracy']:.1%}: {name}, {record['parameters']:,} parameters"


def best_first(runs: str) -> dict[str, Record]:
    """The runs that are done and whose records hold all that is shown here, by id."""
    needed = [*Config.__dataclass_fields__, *OUTCOME]
    done = [record for record in records(runs_folder(runs)) if record["status"] == "done"]
    found = [record for record in done if all(record.get(name) is not None for name in needed)]
    return {each["run"]: each for each in sorted(found, key=lambda each: -each["test_accuracy"])}


def draw_history(runs: str, run: str, axes: Sequence[Axes]) -> None:
    """The curves of a run on two axes or, if its history is damaged, a line that says so."""
    try:
        plots.curves(history(runs, run), axes)
    except InputError as error:
        axes[0].set_title(as_label(error), fontsize=8, wrap=True)


def chooser(found: Mapping[str, Record]) -> Callable[..., widgets.Widget]:
    options = [(f"{title(record)} ({run})", run) for run, record in found.items()]
    return partial(widgets.Dropdown, options=options, layout={"width": "46em"})


def repeat(record: Mapping[str, Any]) -> str:
    """A cell that trains this run again; of a dataset of one's own the record knows only the name."""
    dataset = record["dataset"] if record["dataset"] in DATASETS else f"path/to/{record['dataset']}"
    asked = arguments({**record, "dataset": dataset, "runs": "runs", "save_weights": False})
    return "import lowrank\n\nlowrank.run(\n" + "".join(f"    {each},\n" for each in asked) + ")"


def one_run(runs: str = "runs") -> None:
    """A recorded run: a cell that repeats it, its curves, its record."""
    found = best_first(runs)
    if not found:
        display(NO_RUNS)
        return

    def show(run: str) -> list[Any]:
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        draw_history(runs, run, figure.subplots(1, 2))
        record = f"<details><summary>The whole record</summary>{found[run]._repr_html_()}</details>"
        return [HTML(f"<pre>{html.escape(repeat(found[run]))}</pre>"), picture(figure), HTML(record)]

    controlled(show, run=(next(iter(found)), chooser(found)))


def differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The parameters in which two runs differ, and what came of it."""
    names = [name for name in Config.__dataclass_fields__ if left.get(name) != right.get(name)]
    rows = {name: [left.get(name), right.get(name)] for name in ["run", *names]}
    return rows | {name: [FORMATS[name](each[name]) for each in (left, right)] for name in OUTCOME}


def two_runs(runs: str = "runs") -> None:
    """Two recorded runs: the parameters in which they differ, what came of it, their curves."""
    found = best_first(runs)
    if len(found) < 2:
        display(NO_RUNS if not found else Markdown("*There is only one run: train another to compare it with.*"))
        return

    def show(left: str, right: str) -> list[Any]:
        figure = Figure(figsize=(9, 5.6), layout="constrained")
        axes = figure.subplots(2, 2, sharey="row")
        for run, column in zip((left, right), axes.T, strict=True):
            column[0].set_title(as_label(f"{run}: {found[run]['decomp']}"))
            draw_history(runs, run, column)
        return [HTML(html_table(differences(found[left], found[right]))), picture(figure)]

    first, *_, last = found
    controlled(show, left=(first, chooser(found)), right=(last, chooser(found)))


# --- trained layers


def one_layer(runs: str = "runs") -> None:
    """A layer of a run that kept its weights: the weight, its singular values, the norms of its cores."""
    found = {run: each for run, each in best_first(runs).items() if (runs_folder(runs) / run / "weights.pt").is_file()}
    if not found:
        display(NO_WEIGHTS)
        return
    network = lru_cache(maxsize=1)(partial(load, runs=runs))

    def show(run: str, layer: str) -> list[Any]:
        try:
            block = network(run).get_submodule(layer).convolution
        except InputError as error:
            return [HTML(f"<p>{html.escape(str(error))}</p>")]
        return [picture(anatomy(getattr(block, "pointwise", block)))]

    layers = partial(widgets.Dropdown, options=LAYERS)
    controlled(show, run=(next(iter(found)), chooser(found)), layer=(LAYERS[-1], layers))


@torch.no_grad()
def anatomy(layer: nn.Module) -> Figure:
    """The weight [O, I] of a layer, its singular values beside those of a random dense one, the norms of its cores."""
    held = isinstance(layer, Decomposed)
    weight = layer.matrix() if held else layer.weight.flatten(1)
    parts = layer.cores if held else [weight]
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.1, 1, 1])
    limit = weight.abs().max().item()
    figure.colorbar(left.imshow(weight, "RdBu_r", vmin=-limit, vmax=limit), ax=left, shrink=0.8)
    left.set(title=f"weight {' x '.join(map(str, weight.shape))}", xlabel="inputs", ylabel="outputs")
    left.grid(False)
    dense = torch.linalg.svdvals(noise * weight.norm() / noise.norm())
    middle.semilogy(dense, "--", color=plots.COLOURS["dense"], label="random dense")
    middle.semilogy(torch.linalg.svdvals(weight), color=plots.COLOURS["tt"], label="trained")
    middle.set(title="singular values, equal norms", xlabel="index", ylim=(0.01 * dense.max(), None))
    middle.legend()
    right.bar(range(len(parts)), [part.norm().item() for part in parts], color=plots.COLOURS["tt"])
    labels = [f"{k}\n{'x'.join(map(str, part.shape))}" for k, part in enumerate(parts)]
    right.set_xticks(range(len(parts)), labels, fontsize=8)
    right.set(title="norm of each core" if held else "norm of the weight", xlabel="core")
    return figure
