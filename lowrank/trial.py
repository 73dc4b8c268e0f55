"""One run, from Config to stored record: what `lowrank.run`, the notebooks and the sweeps call."""

from __future__ import annotations

import io
import platform
import resource
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import formats, native
from .config import DECOMPS, PLAIN, ROOT, Config, InputError, dataset_name
from .data import Data
from .data import load as load_data
from .layers import FACTORS, Contract, dense, separable
from .network import IMAGE, cifar_network, decompose
from .progress import RunProgress
from .results import FINAL, Record, claim, store, write
from .results import record as stored
from .summary import summary
from .train import State, resolved_precision, steps_an_epoch, train

LEFT = ("first", "*depthwise", "head")  # what no decomposition touches
BLOCKS = ("layer1", "residual1", "layer2", "layer3", "residual3")
BUILT_IN = tuple(DECOMPS)
OWN: dict[str, tuple[formats.Format, Contract]] = {}  # what `register` was given, by name

Log = Callable[[str], None]


def run(log: Log = print, watch: Callable[[list[dict]], None] | None = None, **parameters: Any) -> dict[str, Any]:
    """Train one network and store its record below `runs`; a run that is already done is not trained again.

    `parameters` are the fields of Config. `log` gets a line at a time, `watch` the history (a row an epoch) after
    every epoch. A run that was stopped goes on after its last whole epoch; one that is done without the weights that
    `save_weights` asks for is trained anew. Returns the record, a row of `lowrank.results`. Raises InputError, one
    line, before any work where a parameter cannot be.
    """
    config, device = Config.of(parameters), best_device()
    config = replace(config, precision=resolved_precision(config.precision, device))
    data = load_data(config.dataset, device)
    name = config.run(data.fingerprint)
    if record := finished(config, name, log):
        return record
    net = build(config, len(data.classes))
    with claim(config.folder / name, wait=False) as free:
        if free:
            return finished(config, name, log) or trained(config, net, data, name, log, watch)
    log(f"run {name} is being trained by another process: waiting for it")
    with claim(config.folder / name):
        return finished(config, name, log) or trained(config, net, data, name, log, watch)


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def finished(config: Config, name: str, log: Log) -> dict[str, Any] | None:
    record = stored(config.folder, name)
    if not record or record["status"] not in FINAL:
        return None
    if config.save_weights and record["status"] == "done" and not (config.folder / name / "weights.pt").exists():
        return None
    log(f"run {name} is already {record['status']}: its record is returned, nothing is trained")
    return record


def build(config: Config, classes: int) -> nn.Module:
    """The network of a Config with its initial weights: [B, 3, 32, 32] -> [B, classes].

    Raises InputError where the budget cannot be met.
    """
    torch.manual_seed(config.seed)
    net = cifar_network(config.width, classes, dense if config.decomp == "dense" else separable)
    if config.decomp in PLAIN:
        return net
    names = ("decomp", "dims", "budget", "rank_scale", "rank_rule", "init")
    return decompose(net, skip=LEFT, **{name: getattr(config, name) for name in names})


def trained(
    config: Config, net: nn.Module, data: Data, name: str, log: Log, watch: Callable[[list[dict]], None] | None
) -> dict[str, Any]:
    """Train from the last checkpoint, store the record, remove the checkpoint. The caller holds the run's claim."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    if (stored(config.folder, name) or {}).get("status") in FINAL:
        log(f"run {name} is done, but its weights were not saved: it is trained anew and its record replaced")
    checkpoint = config.folder / name / "checkpoint.pt"
    state = loaded(checkpoint, data.train_images.device, log)
    size = sizes(config, net)
    log(
        f"run {name}: {config.decomp} on {dataset_name(config.dataset)}, {size['parameters']:,} parameters, "
        f"{size['multiply_adds'] / 1e6:,.1f} million multiply-adds an image, {config.precision}, {device_name()}"
    )
    if data.train_images.device.type == "cpu" and not native.library():
        log("no C++ compiler with OpenMP (c++, or $CXX): batch norm, pool and ReLU run one after the other")
    progress = RunProgress(log, log is print, steps_an_epoch(config, data), config.epochs, state.epochs)

    def keep(state: State) -> None:
        progress.epoch(state.history[-1], config.epochs)
        write(checkpoint, packed(vars(state)))
        if watch:
            watch(state.history)

    with closing(progress):
        state = train(config, net, data, state, progress.step, keep)
    record = Record(run=name, status="diverged" if state.diverged else "done", **described(config), **size)
    record |= measured(config, data, state) | {"revision": revision(), "started": started}
    if config.save_weights and not state.diverged:
        write(config.folder / name / "weights.pt", packed({"classes": len(data.classes), "network": net.state_dict()}))
    store(config.folder, record, state.history)
    checkpoint.unlink(missing_ok=True)
    return record


# --- checkpoints and weights


def packed(content: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def load(run: str, runs: str = "runs", device: str | torch.device = "cpu") -> nn.Module:
    """The trained network of a run, ready to predict: [B, 3, 32, 32], normalised, -> [B, classes].

    Raises InputError where the run kept no weights: `lowrank.run(save_weights=True, ...)` keeps them.
    """
    path, record = ROOT / runs / run / "weights.pt", stored(ROOT / runs, run)
    if not record or not path.is_file():
        raise InputError(f"run={run!r}: no weights in {runs!r}; lowrank.run(..., save_weights=True) keeps them")
    kept = torch.load(path, map_location=device, weights_only=True)
    names = ("decomp", "dims", "rank_scale", "budget", "rank_rule", "width")
    with torch.device("meta"):
        net = build(Config.of({name: record[name] for name in names}), kept["classes"])
    net.load_state_dict(kept["network"], assign=True)
    return net.eval()


def loaded(checkpoint: Path, device: torch.device, log: Log) -> State:
    """The state that a stopped run left, or a fresh one."""
    if not checkpoint.exists():
        return State()
    state = State(**torch.load(checkpoint, map_location=device, weights_only=True))
    log(f"going on after epoch {state.epochs}")
    return state


# --- records


def described(config: Config) -> dict[str, Any]:
    """The parameters of a record: paths are named by their last part."""
    return asdict(config) | {"dataset": dataset_name(config.dataset), "runs": Path(config.runs).name}


def sizes(config: Config, net: nn.Module) -> dict[str, Any]:
    """Parameters and multiply-adds; `compression` is relative to the separable network's pointwise weights."""
    table = summary(net, IMAGE)
    decomposable = table.index.str.startswith(BLOCKS) & ~table.index.str.endswith("depthwise")
    pointwise = int(table.parameters[decomposable].sum())
    weights = sum(outputs * inputs for outputs, inputs, _ in formats.pointwise(config.width))
    return {
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "pointwise_parameters": pointwise,
        "compression": pointwise / weights,
        "multiply_adds": int(table.multiply_adds.sum()),
    }


def measured(config: Config, data: Data, state: State) -> dict[str, Any]:
    last = {name: value for name, value in state.history[-1].items() if name.startswith(("train_", "test_"))}
    images = steps_an_epoch(config, data) * min(config.batch_size, len(data.train_labels)) * state.epochs
    return {
        **last,
        "seconds": state.seconds,
        "images_per_second": images / state.seconds,
        "peak_memory": peak_memory(),
        "device": device_name(),
        "torch": torch.__version__,
        "data": data.fingerprint,
    }


def peak_memory() -> int:
    """Bytes: of tensors on a GPU, of the process on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"


def revision() -> str:
    """The commit of the code, "+dirty" where the code differs from it; empty outside a git checkout."""
    try:
        sha = git("rev-parse", "--short=12", "HEAD")
        return sha + ("+dirty" if git("status", "--porcelain", "--", "lowrank") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


# --- decompositions of a user's own


def register(decomp: str, form: formats.Format, contract: Contract) -> None:
    """Make a decomposition known by a name: wherever `decomp` is a parameter it counts, trains and is drawn like ours.

    `form` answers for its sizes: `largest`, `shapes` and, where it has thin factors, `inner` and `build`.
    `contract(cores, folding)` makes W [O, I] of its cores or, with an `inner`, the factors L [O, m] and R [m, I].
    The same name again replaces it. Raises InputError at a name that lowrank itself uses, or where what `contract`
    makes has not the size of W.
    """
    if decomp in BUILT_IN:
        raise InputError(f"decomp={decomp!r}: lowrank has one of that name; allowed is any other name")
    folding = formats.fold(12, 8, dims=4)
    made = contract([torch.ones(shape) for shape in form.shapes(folding, form.largest(folding))], folding)
    weight = made if isinstance(made, Tensor) else made[0] @ made[1]
    if weight.numel() != folding.outputs * folding.inputs:
        raise InputError(f"decomp={decomp!r}: its cores make a weight of {tuple(weight.shape)} where W is (12, 8)")
    OWN[decomp] = formats.FORMATS[decomp], FACTORS[decomp] = form, contract
    formats.path.cache_clear()
    formats._solve.cache_clear()
    if decomp not in DECOMPS:
        DECOMPS.append(decomp)
