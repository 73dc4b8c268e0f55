"""What stands behind notebooks/explore.ipynb: controls, and what they show of settings, runs and trained layers.

Where nobody is at the controls (papermill, nbconvert) everything is shown once, as the controls start, in plain
tables and pictures. What a record says is shown as text, whatever it says.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache, partial
from typing import Any

import ipywidgets as widgets
import pandas as pd
import torch
from IPython.display import HTML, Code, Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..config import DATASETS, DECOMPS, PLAIN, Config, InputError, arguments, unused_by
from ..display import as_label, html_table
from ..formats import uses_dims
from ..network import IMAGE, build, select_decomposable
from ..paths import runs_folder
from ..records import COLUMNS, SHOWN_AS, WEIGHTS, Record, as_read, history, records, results
from ..start import decompose_start
from ..surgery.inventory import summary
from ..weights import load
from . import plots
from .anatomy import draw_anatomy
from .controls import at_controls, picture, show_controlled
from .landscape import Landscape, LivePicture, count_classes

OUTCOME = ["parameters", "compression", "multiply_adds", "test_accuracy", "train_accuracy", "seconds"]
NO_RUNS = Markdown("*No run is recorded here yet: run all cells of [0-start-here](0-start-here.ipynb) first.*")
NO_WEIGHTS = Markdown("*No run has kept its weights yet: train one with `save_weights=True`.*")


# --- a setting


def sizes(config: Config, classes: int = 10) -> pd.DataFrame:
    """A row for each layer that a decomposition may hold, the rest of the network, and the whole.

    Parameters, and multiply-adds of one image, as `lowrank.summary` counts them, of a network whose weights take
    no memory or, with `start`, of the trained one, and then each layer's relative error. Raises InputError if the
    budget cannot be met, or there is no run to start from.
    """
    with torch.device("cpu" if config.start else "meta"):
        net = decompose_start(config) if config.start else build(config, classes)
    layers = summary(net, IMAGE)
    table = select_decomposable(layers).rename(index=lambda name: name.partition(".convolution")[0])
    table["share"] = table.share.map("{:.1%}".format)
    whole = {"parameters": sum(each.numel() for each in net.parameters()), "multiply_adds": layers.multiply_adds.sum()}
    table.loc["rest"] = pd.Series({name: count - table[name].sum() for name, count in whole.items()})
    table.loc["network"] = pd.Series(whole)
    if config.decomp in PLAIN:
        table = table.drop(columns=["modes", "ranks", "share", "contraction"])
    elif not uses_dims(config.decomp):
        table = table.drop(columns="modes")
    if config.start:
        table["error"] = table.error[table.error.notna()].map("{:.2f}".format)
    else:
        table = table.drop(columns="error")
    table = table.drop(columns=["decomp", "weights"]).fillna("")
    return table.astype({"parameters": int, "multiply_adds": int})


def tabulate_sizes(table: pd.DataFrame) -> HTML:
    """The table that `sizes` returns, as a notebook shows it: without columns that are blank all the way down."""
    table = table.loc[:, (table != "").any()]
    return HTML(table.rename_axis(index=None, columns="layer").to_html(formatters=SHOWN_AS))


def tell_setting(
    landscape: Landscape | None, classes: int, decomp: str, dims: int, size: str, share: float, width: int
) -> tuple[HTML, int | None]:
    """What a setting costs, layer by layer, and where it lies among the runs; its parameters. Or why it cannot be."""
    asked = {} if decomp in PLAIN else {size: round(share, 3)}
    asked |= {"dims": dims} if uses_dims(decomp) else {}
    try:
        config = Config(decomp=decomp, width=width, **asked)
        counts = sizes(config, classes)
    except InputError as error:
        return HTML(f"<p>{html.escape(str(error))}</p>"), None
    parameters = counts.parameters["network"]
    said = f"<code>{html.escape(repr(config))}</code>, {parameters:,} parameters"
    place = landscape.place(parameters) if landscape else ""
    return HTML(f"{tabulate_sizes(counts).data}<p>{said}{place}</p>"), parameters


def setting(runs: str = "runs") -> LivePicture | None:
    """Controls for decomposition, modes, size and width; the sizes of each layer; the recorded runs around it.

    Returns their picture, one a dataset and number of epochs; `chosen` is the run clicked last. None without a person.
    """
    table = results(runs)
    table = table[table["run"].isin(list(best_first(runs)))]
    alike = dict(list(table.groupby(["dataset", "epochs"])))
    draw_runs = cache(lambda of: Landscape(alike[of], describe) if of in alike else None)
    live = LivePicture() if alike and at_controls() else None
    datasets = sorted(alike, key=lambda of: (-sum(table.dataset == of[0]), -of[1])) or [("cifar10", Config.epochs)]
    widths = list(table.width.value_counts().index) or [64]

    def show(dataset: tuple[str, int], **asked: Any) -> list[Any]:
        landscape = draw_runs(dataset)
        told, parameters = tell_setting(landscape, count_classes(alike.get(dataset)), **asked)
        if landscape is None:
            return [told, NO_RUNS]
        return [told, live.show(landscape, parameters) if live else landscape.still(parameters)]

    controls = show_controlled(
        show,
        decomp=("tt", partial(widgets.Dropdown, options=list(DECOMPS))),
        dims=(3, partial(widgets.IntSlider, min=2, max=9)),
        size=("budget", partial(widgets.Dropdown, options=["budget", "rank_scale"])),
        share=(0.1, partial(widgets.FloatLogSlider, min=-2, max=0, step=0.02, readout_format=".3f")),
        width=(widths[0], partial(widgets.Dropdown, options=sorted({8, 16, 32, 64, 128, *widths}))),
        dataset=(datasets[0], partial(widgets.Dropdown, options=[(f"{of[0]}, {of[1]} epochs", of) for of in datasets])),
    )
    if controls:
        controls["decomp"].observe(lambda change: grey_out(controls), "value")
    return live


def grey_out(controls: Mapping[str, widgets.Widget]) -> None:
    """Disables what says nothing about the chosen decomposition."""
    decomp = controls["decomp"].value
    controls["dims"].disabled = not uses_dims(decomp)
    controls["size"].disabled = controls["share"].disabled = decomp in PLAIN


# --- recorded runs


def title(record: Mapping[str, Any]) -> str:
    """One run in one line."""
    size = "".join(f" {name}={record[name]:g}" for name in ("budget", "rank_scale") if record[name])
    modes = f" dims={record['dims']}" if uses_dims(record["decomp"]) else ""
    name = f"{record['decomp']}{modes}{size} seed={record['seed']}, {record['dataset']}"
    return f"{record['test_accuracy']:.1%}: {name}, {record['parameters']:,} parameters"


def describe(record: Mapping[str, Any]) -> str:
    """One run in a few lines: what the mouse finds."""
    return f"{title(record)}\n{', '.join(arguments(record))}\nrun {record['run']}"


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
    return partial(widgets.Dropdown, options=options, layout={"width": "46em", "max_width": "100%"})


def repeat(record: Mapping[str, Any]) -> str:
    """A cell that trains this run again; of a dataset of one's own the record knows only the name."""
    known = record["dataset"] in DATASETS
    dataset = record["dataset"] if known else f"path/to/{record['dataset']}"
    hint = "" if known else "# a record has only the name of its data: put the path of yours\n"
    asked = arguments({**record, "dataset": dataset, "runs": "runs", "save_weights": False})
    return f"import lowrank\n\n{hint}lowrank.run(\n" + "".join(f"    {each},\n" for each in asked) + ")"


def tabulate_record(record: Mapping[str, Any]) -> HTML:
    """What was asked and what was measured, in numbers that are easy to read."""
    names = [name for name in dict.fromkeys([*COLUMNS, *record]) if record.get(name) is not None and name != "correct"]
    return HTML(html_table({name: [as_read(record)[name]] for name in names}))


def one_run(runs: str = "runs", clicked: LivePicture | None = None) -> None:
    """A recorded run: a cell that repeats it, its curves, its record. A run clicked in the picture is shown here."""
    found = best_first(runs)
    if not found:
        display(NO_RUNS)
        return

    def show(run: str) -> list[Any]:
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        draw_history(runs, run, figure.subplots(1, 2))
        record = f"<details><summary>The whole record</summary>{tabulate_record(found[run]).data}</details>"
        return [Code(repeat(found[run]), language="python"), picture(figure), HTML(record)]

    controls = show_controlled(show, run=(next(iter(found)), chooser(found)))

    def follow(change: Any) -> None:
        if change.new in found:
            controls["run"].value = change.new

    if clicked and controls:
        clicked.observe(follow, "chosen")


def differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The parameters in which two runs differ, blank where a form does not use one, and what came of it."""
    used = [
        {name: "" if name in unused_by(each["decomp"]) else each.get(name) for name in Config.__dataclass_fields__}
        for each in (left, right)
    ]
    names = [name for name in Config.__dataclass_fields__ if used[0][name] != used[1][name]]
    rows = {"run": [left["run"], right["run"]]} | {name: [each[name] for each in used] for name in names}
    return rows | {name: [SHOWN_AS[name](each[name]) for each in (left, right)] for name in OUTCOME}


def likeliest_partner(found: Mapping[str, Record], run: str) -> str:
    """The run to compare this one with: of the same dataset, of another form, and otherwise as equal as there is."""
    one = found[run]
    names = [name for name in Config.__dataclass_fields__ if name not in ("decomp", "dims", "budget", "rank_scale")]

    def distance(other: str) -> tuple[bool, bool, int]:
        each = found[other]
        return (
            each["dataset"] != one["dataset"],
            each["decomp"] == one["decomp"],
            sum(each.get(name) != one.get(name) for name in names),
        )

    return min((other for other in found if other != run), key=distance)


def has_partner(found: Mapping[str, Record], run: str) -> bool:
    return found[likeliest_partner(found, run)]["dataset"] == found[run]["dataset"]


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

    first = next((run for run in found if has_partner(found, run)), next(iter(found)))
    show_controlled(show, left=(first, chooser(found)), right=(likeliest_partner(found, first), chooser(found)))


# --- trained layers


def one_layer(runs: str = "runs") -> None:
    """A layer of a run that kept its weights: the weight, its singular values, the norms of its cores."""
    found = {run: each for run, each in best_first(runs).items() if (runs_folder(runs) / run / WEIGHTS).is_file()}
    if not found:
        display(NO_WEIGHTS)
        return
    network = lru_cache(maxsize=1)(partial(load, runs=runs))

    def show(run: str, layer: str) -> list[Any]:
        try:
            block = network(run).get_submodule(layer).convolution
        except InputError as error:
            return [HTML(f"<p>{html.escape(str(error))}</p>")]
        return [picture(draw_anatomy(getattr(block, "pointwise", block)))]

    names = list(sizes(Config()).index[:-2])
    layers = partial(widgets.Dropdown, options=names)
    show_controlled(show, run=(next(iter(found)), chooser(found)), layer=(names[-1], layers))


# --- a run while it trains


def following(epochs: int) -> Callable[[Any], None]:
    """For `lowrank.run(watch=...)`: learning curves in this cell, drawn again after every epoch."""
    handle = display(Markdown("*The curves come with the first epoch.*"), display_id=True)

    def watch(history: Any) -> None:
        handle.update(picture(draw_curves(pd.DataFrame(history), epochs)))

    return watch


def draw_curves(history: pd.DataFrame, epochs: int) -> Figure:
    """Loss and accuracy so far, on axes for all epochs."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for ax in plots.curves(history, figure.subplots(1, 2)):
        ax.set_xlim(min(epochs, 1) - 0.5, epochs + 0.5)
    return figure
