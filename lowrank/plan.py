"""A study as runs: which there are, and which of them are done."""

from __future__ import annotations

import difflib
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from .config import Config, InputError
from .results import FINAL, claim, record
from .studies import SCALES, SECONDS, SEEDS, STUDIES, each
from .table import results

Study = str | list[dict[str, Any]]  # a name from STUDIES, or a list as `grid` makes it
OWN = ["study", "scale", "seeds", "runs", "dataset", "scheduler", "insecure", "slots_per_gpu", "workers"]


def planned(
    study: Study, scale: str = "smoke", seeds: int = 0, dataset: str = "", **overrides: Any
) -> list[dict[str, Any]]:
    """The parameters of every run of a study, a named one at its scale.

    `seeds` runs each with seeds 0 to seeds - 1, but those that name a seed; 0 is the scale's own number and, for a
    list, what the list says.
    `dataset`, where it is not '', and `overrides` replace a parameter in every run. Raises InputError where there
    is no such study, scale or parameter.
    """
    if isinstance(study, str) and study not in STUDIES:
        raise InputError(f"study={study!r}; allowed: {', '.join(STUDIES)}")
    if scale not in SCALES:
        raise InputError(f"scale={scale!r}; allowed: {', '.join(SCALES)}")
    if type(seeds) is not int or seeds < 0:
        raise InputError(f"seeds={seeds!r}; allowed: an int, 0 or more")
    refuse_unknown(overrides)
    runs = study
    if isinstance(study, str):
        runs, seeds = each([SCALES[scale]], *STUDIES[study][scale]), seeds or SEEDS[scale]
    overrides |= {"dataset": dataset} if dataset else {}
    runs = each(runs, overrides)
    return [{**run, "seed": seed} for run in runs for seed in ([run["seed"]] if "seed" in run else range(seeds or 1))]


def refuse_unknown(overrides: dict[str, Any]) -> None:
    """Raises InputError at a name that is a parameter neither of a sweep nor of a run, with the nearest that is."""
    names = [*OWN, *(each.name for each in fields(Config))]
    for name, value in overrides.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(names)}"
            raise InputError(f"{name}={value!r}: there is no such parameter; {hint}")


def fastest_precision() -> str:
    """What precision="auto" is in a sweep, decided once: its workers may differ."""
    from .hardware.precision import resolved_precision
    from .trial import best_device

    return resolved_precision("auto", best_device())


def identified(runs: list[dict[str, Any]]) -> dict[str, Config]:
    """The Config of every run under its id; raises InputError, before anything runs, where one is not possible."""
    from .data import load

    configs = [Config.of(parameters) for parameters in runs]
    data = {dataset: load(dataset) for dataset in {config.dataset for config in configs}}
    configs = [config.fitted(len(data[config.dataset].train_labels)) for config in configs]
    if any(config.precision == "auto" for config in configs):
        auto = fastest_precision()
        configs = [replace(config, precision=auto) if config.precision == "auto" else config for config in configs]
    return {config.run(data[config.dataset].fingerprint): config for config in configs}


def finished(config: Config, run: str) -> dict[str, Any] | None:
    """The record of a run that needs no training any more."""
    found = record(config.folder, run)
    return found if found and found["status"] in FINAL else None


def seconds_each(scale: str, configs: dict[str, Config]) -> float:
    """How long a run of this study takes: the mean of those that are done, or what is usual at the scale."""
    done = [record(config.folder, run) for run, config in configs.items()]
    times = [found["seconds"] for found in done if found and found.get("seconds")]
    return sum(times) / len(times) if times else SECONDS[scale]


def announce(study: Study, scale: str, configs: dict[str, Config], missing: dict[str, Config]) -> str:
    """How many runs there are, how many are done, and whether those come from other revisions of the code."""
    from .trial import revision

    done = [record(config.folder, run) for run, config in configs.items() if run not in missing]
    here = revision() if done else ""
    other = sum(found.get("revision") != here for found in done)
    name = f"{study}, {scale}" if isinstance(study, str) else "own grid"
    note = f" ({other} by another revision of the code)" if other else ""
    return f"{name}: {len(configs)} runs, {len(done)} done{note}, {len(missing)} to train"


def rows_of(configs: dict[str, Config], folder: Path) -> pd.DataFrame:
    """The rows of the table that belong to these runs."""
    table = results(folder)
    return table[table["run"].isin(list(configs))].reset_index(drop=True)


def status(study: Study, scale: str = "smoke", seeds: int = 0, runs: str = "runs", **overrides: Any) -> pd.DataFrame:
    """One row a run of a study, stored or not: done, diverged, failed, running or remaining.

    Columns: `run`, `status`, the parameters that vary, `test_accuracy`, and of a failed run `reason` and `log`,
    the file of what it said.
    """
    rows = []
    for run, config in identified(planned(study, scale, seeds, runs=runs, **overrides)).items():
        found = record(config.folder, run) or {"status": "remaining"}
        state = "running" if found["status"] not in FINAL and running(config.folder / run) else found["status"]
        log = str(config.folder / run / "log.txt") if state == "failed" else ""
        measured = {name: found.get(name) for name in ("test_accuracy", "reason")}
        rows.append({"run": run, "status": state} | asdict(config) | measured | {"log": log})
    frame = pd.DataFrame(rows)
    return frame.drop(columns=[each.name for each in fields(Config) if frame[each.name].nunique() == 1])


def running(folder: Path) -> bool:
    """Whether a process holds the claim of a run."""
    if not folder.is_dir():
        return False
    with claim(folder, wait=False) as free:
        return not free
