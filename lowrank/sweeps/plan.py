"""A study as runs: which there are, and which of them are done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..config import PLAIN, Config, InputError
from ..data import Data, load_data
from ..display import how_many
from ..errors import refuse_unknown, whole_number
from ..experiment import count_network, revision
from ..files import claim
from ..formats.own import own_sizes
from ..hardware import best_device, find_slowness, resolved_precision
from ..memory import check_memory
from ..network import SIZED_BY, build
from ..paths import relative
from ..records import FINAL, WEIGHTS, Table, record, results
from ..signatures import show_parameters
from ..start import check_parent, check_start
from .studies import SCALES, SEEDS, STUDIES, each

Study = str | list[dict[str, Any]]  # a name from STUDIES, or a list as `grid` makes it
MOST_SEEDS = 10_000
NAMES = {"smoke": "smoke (a rehearsal: what small networks do)"}
# What a run does not share with the one that it starts from, unless that is said.
FORM = ("decomp", "dims", "rank_scale", "budget", "rank_rule", "init", "start", "save_weights")
ANY_RUN = "0" * 12  # stands for the id of a run that is not known yet
# what a sweep is given beside the parameters of its runs
SWITCHES = [
    "study", "scale", "seeds", "runs", "dataset", "scheduler", "insecure", "slots_per_gpu", "workers", "timeout",
]  # fmt: skip


def list_runs(study: Study, scale: str) -> list[Mapping[str, Any]]:
    """The runs of a study, a named one at its scale. Raises InputError if there is no such study."""
    if isinstance(study, str) and study in STUDIES:
        return each([SCALES[scale]], *STUDIES[study][scale])
    runs = study if isinstance(study, list | tuple) else []
    if not runs or not all(isinstance(run, Mapping) for run in runs):
        raise InputError(f"study={study!r}; allowed: {', '.join(STUDIES)}, or a list as lowrank.grid makes it")
    return runs


def plan_runs(
    study: Study, scale: str = "smoke", seeds: int = 0, dataset: str = "", **overrides: Any
) -> list[dict[str, Any]]:
    """The parameters of every run of a study, a named one at its scale.

    `seeds` runs each with seeds 0 to seeds - 1, but those that name a seed; 0 is the scale's own number and, for a
    list, what the list says. `dataset`, if it is not '', and `overrides` replace a parameter in every run. A `start`
    that is given by parameters gets all of them and stands before the others as a run itself. Raises InputError if
    there is no such study, scale or parameter.
    """
    if not isinstance(scale, str) or scale not in SCALES:
        raise InputError(f"scale={scale!r}; allowed: {', '.join(SCALES)}")
    seeds = whole_number("seeds", seeds, 0, MOST_SEEDS)
    refuse_unknown(overrides, [*SWITCHES, *(each.name for each in fields(Config))])
    overrides |= {} if isinstance(dataset, str) and not dataset else {"dataset": dataset}
    runs = each(list_runs(study, scale), overrides)
    if isinstance(study, str):
        seeds = seeds or SEEDS[scale]
    runs = [{**run, "seed": seed} for run in runs for seed in ([run["seed"]] if "seed" in run else range(seeds or 1))]
    runs = [complete_start(run, overrides) for run in runs]
    starts = [run["start"] for run in runs if isinstance(run.get("start"), Mapping)]
    return [*{repr(sorted(start.items(), key=str)): start for start in starts}.values(), *runs]


def complete_start(run: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A run whose `start` is given by parameters, with all of these: those not said are as in the run itself."""
    if not isinstance(run.get("start"), Mapping):
        return run
    if run["start"].get("start") or run["start"].get("decomp") not in PLAIN:
        raise InputError(f"start={run['start']!r}; allowed: the parameters of a {' or '.join(PLAIN)} run")
    shared = {name: value for name, value in run.items() if name not in (*FORM, "epochs")}
    replaced = {name: value for name, value in overrides.items() if name not in FORM}
    return run | {"start": shared | run["start"] | replaced | {"save_weights": True}}


def configure(parameters: Mapping[str, Any], identify: Callable[[Config], str]) -> Config:
    """The Config of a run as `plan_runs` lists it; of a start that is given by parameters, `identify` says the id."""
    start = parameters.get("start")
    if not isinstance(start, Mapping):
        return Config.of(parameters)
    parent = configure(start, identify)
    config = Config.of({**parameters, "start": identify(parent)})
    check_parent(config, asdict(parent))
    return config


def settle_precision() -> str:
    """What precision="auto" is in a sweep, decided once: its workers may differ."""
    return resolved_precision("auto", best_device())


def read_data(dataset: str) -> Data:
    """What decides the ids of runs on a dataset: its fingerprint and its size."""
    return load_data(dataset)


def identify_runs(runs: list[dict[str, Any]]) -> dict[str, Config]:
    """The Config of every run under its id; raises InputError, before anything runs, if one is not possible."""
    configs = [configure(parameters, lambda _: ANY_RUN) for parameters in runs]
    data = {dataset: read_data(dataset) for dataset in {config.dataset for config in configs}}
    auto = settle_precision() if any(config.precision == "auto" for config in configs) else ""

    def settle(config: Config) -> Config:
        precision = auto if config.precision == "auto" else config.precision
        return replace(config.fitted(len(data[config.dataset].train_labels)), precision=precision)

    def identify(config: Config) -> str:
        return settle(config).run_id(data[config.dataset].fingerprint)

    found: dict[str, Config] = {}
    for parameters in runs:
        config = settle(configure(parameters, identify))
        found.setdefault(identify(config), config)  # the first keeps its weights, if others start from it
    return found


def missing_of(configs: dict[str, Config]) -> dict[str, Config]:
    """The runs to train: those that are not done, and those that one of these starts from, without their weights.

    Raises InputError if one starts from a run that is not among them and not there.
    """
    missing = {run for run, config in configs.items() if not final_record(config, run)}
    starts = {config.start: config for run, config in configs.items() if run in missing and config.start}
    for start, config in starts.items():
        if start not in configs:
            check_start(config, read_data(config.dataset).fingerprint)
        elif not (config.folder / start / WEIGHTS).is_file():
            missing.add(start)
    return {run: config for run, config in configs.items() if run in missing}


def final_record(config: Config, run: str) -> dict[str, Any] | None:
    """The record of a run that needs no training any more."""
    found = record(config.folder, run)
    return found if found and found["status"] in FINAL else None


def work_of(configs: dict[str, Config]) -> dict[str, float]:
    """What each run costs: the multiply-adds of one image forward, times the epochs.

    Raises InputError if one of them can have no network.
    """
    return {run: float(config.epochs * multiply_adds(config)) for run, config in configs.items()}


def multiply_adds(config: Config) -> int:
    try:
        return count_form(config)["multiply_adds"]
    except InputError:
        if config.start:  # whose layers are larger, perhaps, and whose ranks follow the weights
            return 1
        raise


def count_form(config: Config) -> dict[str, Any]:
    """What `count_network` says of a run's network for ten classes."""
    own = repr(own_sizes(config.decomp))  # tells formats of one name apart
    return count_cached(own, **{name: getattr(config, name) for name in SIZED_BY})


@cache
def count_cached(own: str, **form: Any) -> dict[str, Any]:
    config = Config.of(form)
    with torch.device("meta"):
        return count_network(config, build(config, classes=10))


def check_machine(configs: Iterable[Config]) -> None:
    """Raises InputError if this machine has not the precision of one of these runs, or not the memory."""
    device = best_device()
    for config in configs:
        resolved_precision(config.precision, device)
        if not config.start:
            check_memory(config, count_form(config)["parameters"], 1, device)


def announce(
    study: Study, scale: str, configs: dict[str, Config], missing: dict[str, Config], here: bool
) -> Iterator[str]:
    """How many runs there are, how many are done, whether those come from other revisions of the code; of those to
    train, where their records go and, if they are trained `here`, whether they would be faster in float32."""
    done = [record(config.folder, run) for run, config in configs.items() if run not in missing]
    code = revision() if done else ""
    other = sum(found.get("revision") != code for found in done)
    name = f"{study}, {NAMES.get(scale, scale)}" if isinstance(study, str) else "own grid"
    note = f" ({other} by another revision of the code)" if other else ""
    yield f"{name}: {how_many(len(configs), 'run')}, {len(done)} done{note}, {len(missing)} to train"
    yield from sorted({f"records: {relative(config.folder)}" for config in missing.values()})
    if here:
        slowness = {find_slowness(config.precision, best_device()) for config in missing.values()}
        yield from sorted(slowness - {""})


def rows_of(configs: dict[str, Config], folder: Path) -> pd.DataFrame:
    """The rows of the table that belong to these runs, in their order."""
    places = {run: place for place, run in enumerate(configs)}
    table = results(folder)
    found = table[table["run"].isin(places)]
    return found.sort_values("run", key=lambda runs: runs.map(places), ignore_index=True)


@show_parameters(Config, given=False)
def status(study: Study, scale: str = "smoke", seeds: int = 0, runs: str = "runs", **overrides: Any) -> Table:
    """One row a run of a study, stored or not: done, diverged, failed, running or remaining.

    What is asked for is asked as of `lowrank.sweep`, without what says how to train it. Columns: `run`, `status`, the
    parameters that vary, `test_accuracy`, and of a failed run `reason` and `log`, the file of what it said. Raises
    InputError at a study or a parameter that is not possible.

    >>> study = lowrank.grid(decomp=["tt"], dims=[3, 4], budget=[0.5], dataset=["digits"], width=[4], epochs=[1])
    >>> lowrank.status(study)["dims"].tolist()
    [3, 4]
    """
    rows = []
    for run, config in identify_runs(plan_runs(study, scale, seeds, runs=runs, **overrides)).items():
        found = record(config.folder, run) or {"status": "remaining"}
        state = "running" if found["status"] not in FINAL and is_running(config.folder / run) else found["status"]
        log = str(relative(config.folder / run / "log.txt")) if state == "failed" else ""
        measured = {name: found.get(name) for name in ("test_accuracy", "reason")}
        rows.append({"run": run, "status": state} | asdict(config) | measured | {"log": log})
    frame = Table(rows)
    return frame.drop(columns=[each.name for each in fields(Config) if frame[each.name].nunique() == 1])


def is_running(folder: Path) -> bool:
    """Whether a process holds the claim of a run."""
    if not folder.is_dir():
        return False
    with claim(folder, wait=False) as free:
        return not free
