"""One run, from Config to stored record: what `lowrank.run`, the notebooks and the sweeps call."""

from __future__ import annotations

import base64
import copy
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from . import __version__
from .ambient import plain_torch
from .checkpoints import resume, save_checkpoint
from .config import Config, dataset_name
from .data import Data, load_data
from .data.dataset import hold_out
from .errors import check_functions
from .files import claim, refuse_own
from .fingerprint import code_fingerprint
from .hardware import best_device, find_slowness, native, resolved_precision
from .memory import check_memory, within_memory
from .network import IMAGE, build, pointwise_shapes, select_decomposable
from .paths import CHECKOUT, ROOT, check_directory
from .progress import RunProgress
from .records import FINAL, WEIGHTS, Record, check_places, store
from .records import record as stored
from .signatures import show_parameters
from .start import check_start, decompose_start, describe_start
from .surgery.inventory import summary
from .train import State, steps_an_epoch, train
from .weights import keep_weights

try:
    import resource
except ImportError:  # Windows
    resource = None

Log = Callable[[str], None]


@show_parameters(Config)
@plain_torch()
def run(log: Log = print, watch: Callable[[list[dict]], None] | None = None, **parameters: Any) -> dict[str, Any]:
    """Train one network and store its record below `runs`; a run that is already done is not trained again.

    `log` gets a line at a time, `watch` the history (a row an epoch) after every epoch. A run that was stopped goes on
    after its last whole epoch; one that is done without the weights that `save_weights` asks for is trained anew.
    Returns the record, a row of `lowrank.results`: among its numbers, `fit_loss` and `fit_accuracy` are those of the
    training images without augmentation, after the last epoch. Raises InputError, one line, before any work if a
    parameter is not possible.

    >>> record = lowrank.run(decomp="tt", dims=3, budget=0.5, dataset="digits", width=4, epochs=1)
    run ...
    >>> record["parameters"], record["compression"]
    (3104, 0.5)
    """
    check_directory()
    check_functions(log=log, watch=print if watch is None else watch)
    config, device = Config.of(parameters), best_device()
    data = load_data(config.dataset, device)
    config = replace(config, precision=resolved_precision(config.precision, device)).fitted(len(data.train_labels))
    data = hold_out(data, config.validation)
    name = config.run_id(data.fingerprint)
    if record := reuse_record(config, name, log):
        return record
    if config.start:
        check_start(config, data.fingerprint)
    with within_memory(config):
        net = make_network(config, data)
        with claim(config.folder / name, wait=False) as free:
            if free:
                return reuse_record(config, name, log) or train_and_store(config, net, data, name, log, watch)
        refuse_own(config.folder / name)
        log(f"run {name} is being trained by another process: waiting for it")
        with claim(config.folder / name):
            return reuse_record(config, name, log) or train_and_store(config, net, data, name, log, watch)


def make_network(config: Config, data: Data) -> nn.Module:
    """What a run begins with; raises InputError, before it is built, if no memory here can hold its training."""
    if config.start:
        return decompose_start(config)
    with torch.device("meta"):
        parameters = sum(each.numel() for each in build(config, len(data.classes)).parameters())
    check_memory(config, parameters, min(config.batch_size, len(data.train_labels)), data.train_images.device)
    return build(config, len(data.classes))


def reuse_record(config: Config, name: str, log: Log) -> dict[str, Any] | None:
    record = stored(config.folder, name)
    if not record or record["status"] not in FINAL:
        return None
    if config.save_weights and record["status"] == "done" and not (config.folder / name / WEIGHTS).exists():
        return None
    log(f"run {name} is already {record['status']}: its record is returned, nothing is trained")
    return record


def train_and_store(
    config: Config, net: nn.Module, data: Data, name: str, log: Log, watch: Callable[[list[dict]], None] | None
) -> dict[str, Any]:
    """Train from the last checkpoint, store the record, remove the checkpoint. The caller holds the run's claim."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    if (stored(config.folder, name) or {}).get("status") in FINAL:
        log(f"run {name} is done, but its weights were not saved: it is trained anew and its record replaced")
    check_places(config.folder / name)
    checkpoint = config.folder / name / "checkpoint.pt"
    state = resume(checkpoint, name, config, net, data.train_images.device, log)
    size = count_network(config, net) | describe_start(config, net)
    for line in describe_training(config, data, name, size):
        log(line)
    progress = RunProgress(log, log is print, steps_an_epoch(config, data), config.epochs, state.epochs)

    def keep(state: State) -> None:
        progress.epoch(state.history[-1], config.epochs)
        save_checkpoint(checkpoint, name, state)
        if watch:
            with plain_torch():  # what it sets torch to is not for the run
                watch(copy.deepcopy(state.history))  # theirs to change

    with closing(progress):
        state = train(config, net, data, state, progress.step, keep)
    record = Record(run=name, status="diverged" if state.diverged else "done", **name_paths(config), **size)
    here = revision()
    record |= list_measured(config, data, state) | {
        "revision": here,
        "code": code_fingerprint(here),
        "started": started,
    }
    if config.save_weights and not state.diverged:
        keep_weights(config, name, net, data)
    store(config.folder, record, state.history)
    checkpoint.unlink(missing_ok=True)
    return record


def describe_training(config: Config, data: Data, name: str, size: Mapping[str, Any]) -> Iterator[str]:
    """What is to be trained, and what about it might surprise."""
    images, device = len(data.train_labels), data.train_images.device
    yield (
        f"run {name}: {config.decomp} on {dataset_name(config.dataset)}, {size['parameters']:,} parameters, "
        f"{size['multiply_adds'] / 1e6:,.1f} million multiply-adds an image, batch_size={config.batch_size}, "
        f"learning_rate={config.learning_rate:g}, augment={config.augment}, {config.precision}, {device_name()}"
    )
    if slowness := find_slowness(config.precision, device):
        yield slowness
    if config.start:
        yield f"decomposed from run {config.start}, {size['start_decomp']}: relative error {size['start_error']:.2f}"
    if images < config.batch_size:
        yield f"batch_size={config.batch_size}: only {images:,} training images, each step takes all of them"
    if device.type == "cpu" and (reason := native.reason()):
        yield f"{reason}: batch norm, pool and ReLU run one after the other"


# --- records


def name_paths(config: Config) -> dict[str, Any]:
    """The parameters of a record: paths are named by their last part."""
    return asdict(config) | {"dataset": dataset_name(config.dataset), "runs": Path(config.runs).name}


def count_network(config: Config, net: nn.Module) -> dict[str, Any]:
    """Parameters and multiply-adds; `compression` is relative to the separable network's pointwise weights."""
    table = summary(net, IMAGE)
    pointwise = int(select_decomposable(table).parameters.sum())
    weights = sum(outputs * inputs for outputs, inputs in pointwise_shapes(config.width))
    return {
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "pointwise_parameters": pointwise,
        "compression": pointwise / weights,
        "multiply_adds": int(table.multiply_adds.sum()),
    }


def list_measured(config: Config, data: Data, state: State) -> dict[str, Any]:
    last = {name: value for name, value in state.history[-1].items() if name not in ("epoch", "seconds")}
    correct = b"" if state.correct is None else np.packbits(state.correct.numpy()).tobytes()
    images = steps_an_epoch(config, data) * min(config.batch_size, len(data.train_labels)) * state.epochs
    return {
        **last,
        "seconds": state.seconds,
        "images_per_second": images / state.seconds if state.seconds else None,
        "peak_memory": peak_memory(),
        "device": device_name(),
        "torch": torch.__version__,
        "data": data.fingerprint,
        "correct": base64.b64encode(correct).decode(),
    }


def peak_memory() -> int | None:
    """Bytes: of tensors on a GPU, of the process on a CPU; None if the system does not tell."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if resource is None:
        return None
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"


def revision() -> str:
    """The commit of the code, "+dirty" if the code differs from it; outside a checkout the version, such as v0.1.0."""
    try:
        sha = git("rev-parse", "--short=12", "HEAD")
        return sha + ("+dirty" if git("status", "--porcelain", "--", "lowrank") else "")
    except (OSError, subprocess.CalledProcessError):
        return f"v{__version__}"


def git(*arguments: str) -> str:
    """What git says of this checkout. Raises OSError outside of one: an enclosing repository is not meant."""
    if not CHECKOUT:
        raise FileNotFoundError(f"{ROOT}: no checkout of lowrank")
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
