"""The training loop. Writes no files and draws no plots.

SGD with Nesterov momentum after davidcpage/cifar10-fast, with losses averaged over the batch: its rates and
decays for summed losses are `batch_size` times smaller and larger than the ones here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import Config
from .data import Augmentation, Data
from .data.augmentation import FULL, LIGHT
from .hardware import accelerate, autocast
from .layers import Decomposed
from .optimiser import SCHEDULES, make_optimiser

EVALUATION_BATCH = 2000


def frobenius(network: nn.Module) -> Tensor:
    """Half the squared Frobenius norm of all the weights that cores make: its gradient is weight decay's."""
    return sum(
        (0.5 * m.matrix().square().sum() for m in network.modules() if isinstance(m, Decomposed)), torch.zeros(())
    )


@dataclass
class State:
    """How far a run has come, in plain tensors and numbers: what a checkpoint holds."""

    epochs: int = 0  # that are finished
    history: list[dict[str, float]] = field(default_factory=list)  # a row an epoch
    tensors: dict[str, Any] = field(default_factory=dict)  # of the network, the optimiser and the loss scaler
    diverged: bool = False
    correct: Tensor | None = None  # bool [M], which test images the network of the last epoch knows

    @property
    def seconds(self) -> float:
        """How long the training took, without evaluation."""
        return sum(row["seconds"] for row in self.history)


class Loop:
    """A network, its optimiser and its data, one epoch at a time.

    `on_step` is called after every step, before the device has finished it.
    """

    def __init__(self, config: Config, network: nn.Module, data: Data, on_step: Callable[[], None]) -> None:
        self.config, self.data, self.on_step = config, data, on_step
        self.device = data.train_images.device
        self.network = network
        make_fast = accelerate(network, self.device)
        self.optimiser = make_optimiser(network, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "float16")
        self.steps = steps_an_epoch(config, data)
        self.take = self.step if self.scaler.is_enabled() else make_fast(self.step)  # a scaler waits for the device
        self.rates = [(group["rate"], torch.zeros((), device=self.device)) for group in self.optimiser.param_groups]

    def restore(self, state: State) -> None:
        for name, tensors in state.tensors.items():
            getattr(self, name).load_state_dict(tensors)

    def after(self, state: State) -> State:
        """The state one epoch later, whose row holds seconds, loss and accuracy in training and what is `due`."""
        start = time.perf_counter()
        loss, accuracy = self.train(state.epochs)
        row = {"epoch": state.epochs + 1, "seconds": time.perf_counter() - start}
        row |= {"train_loss": loss, "train_accuracy": accuracy}
        return self.measured(row, state.history, diverged=not math.isfinite(loss))

    def untrained(self) -> State:
        """The state of a run without epochs: what is `due` after the last one, measured before a first one."""
        row = {"epoch": 0, "seconds": 0.0, "train_loss": math.nan, "train_accuracy": math.nan}
        return self.measured(row, [], diverged=False)

    def measured(self, row: dict[str, float], history: list[dict[str, float]], diverged: bool) -> State:
        """The state after the epoch of this row, which gets what is `due`; `history` has the rows before it."""
        correct = None
        for part in self.due(row["epoch"]):
            row |= {f"{part}_loss": math.nan, f"{part}_accuracy": math.nan}
            if not diverged:
                row[f"{part}_loss"], right = self.evaluate(part)
                row[f"{part}_accuracy"] = right.sum().item() / len(right)
                correct = right.cpu() if part == "test" else correct
        tensors = {name: getattr(self, name).state_dict() for name in ("network", "optimiser", "scaler")}
        return State(row["epoch"], [*history, row], tensors, diverged, correct)

    def due(self, epoch: int) -> list[str]:
        """What is measured after this epoch.

        With validation images the test images wait for the last epoch, so that nothing can be chosen by them. The last
        epoch also measures "fit", the training images as they are: with those of augmented images, as the network
        changes, nothing can be said of overfitting.
        """
        last, validates = epoch == self.config.epochs, self.data.validation_labels is not None
        return ["validation"] * validates + ["test"] * (last or not validates) + ["fit"] * last

    def train(self, epoch: int) -> tuple[float, float]:
        """Mean loss and accuracy over one epoch of training images, as the network changes."""
        config, seen = self.config, 0
        totals = torch.zeros(2, device=self.device)
        self.network.train()
        batches = self.data.training_batches(config.batch_size, config.seed, epoch, chosen_augmentation(config))
        for step, (images, labels) in enumerate(batches):
            self.set_rates((epoch * self.steps + step + 1) / (config.epochs * self.steps + 1))
            totals += self.take(images, labels)
            seen += len(labels)
            self.on_step()
            if self.device.type == "cpu" and not totals[0].isfinite():  # on a GPU this would stall every step
                break
        loss, correct = totals.tolist()
        return loss / seen, correct / seen

    def set_rates(self, progress: float) -> None:
        """Give every group of parameters its learning rate at `progress` in [0, 1] through the run."""
        base = self.config.learning_rate * SCHEDULES[self.config.schedule](progress)
        for group, (factor, tensor) in zip(self.optimiser.param_groups, self.rates, strict=True):
            value = base * factor
            group["lr"] = value if self.device.type == "cpu" else tensor.fill_(value)  # where a GPU reads it

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step of the optimiser; the summed loss and the number of right answers, [2] on the device."""
        config = self.config
        with autocast(config.precision, self.device):
            logits = self.network(self.data.normalise(images))
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)
        penalty = config.weight_decay * frobenius(self.network) if config.decay == "frobenius" else 0.0
        self.optimiser.zero_grad()
        self.scaler.scale(loss + penalty).backward()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return torch.stack([loss.detach() * len(labels), (logits.detach().argmax(1) == labels).sum()])

    @torch.no_grad()
    def evaluate(self, part: str) -> tuple[float, Tensor]:
        """Mean loss over the images of "validation", "test" or "fit", and which of them are right, bool [N]."""
        name = "train" if part == "fit" else part
        precision, mirror = self.config.precision, self.config.uses("flip at test")
        images, labels = getattr(self.data, f"{name}_images"), getattr(self.data, f"{name}_labels")
        total, right = torch.zeros((), device=self.device), []
        self.network.eval()
        for some, their in zip(images.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH), strict=True):
            logits = compute_logits(self.network, self.data.normalise(some), precision, mirror)
            total += F.cross_entropy(logits, their, reduction="sum")
            right.append(logits.argmax(1) == their)
        return total.item() / len(labels), torch.cat(right)


def compute_logits(network: nn.Module, images: Tensor, precision: str, mirror: bool) -> Tensor:
    """Logits [B, classes] of normalised images [B, 3, 32, 32], if `mirror` averaged with those of the mirror image."""
    with autocast(precision, images.device):
        logits = network(images).float()
        if mirror:
            logits = (logits + network(images.flip(3)).float()) / 2
    return logits


def chosen_augmentation(config: Config) -> Augmentation | None:
    if not config.augment:
        return None
    return LIGHT if config.uses("light augmentation") else FULL


def steps_an_epoch(config: Config, data: Data) -> int:
    return max(1, len(data.train_labels) // config.batch_size)


def train(
    config: Config,
    network: nn.Module,
    data: Data,
    state: State,
    on_step: Callable[[], None],
    on_epoch: Callable[[State], None],
) -> State:
    """Train from `state` to the end, or until the loss is no longer finite; `on_epoch` gets every state on the way.

    On a CPU a run that goes on from a saved state ends bit for bit where it would have without the stop.
    """
    loop = Loop(config, network, data, on_step)
    loop.restore(state)
    if not config.epochs:
        state = loop.untrained()
        on_epoch(state)
    while state.epochs < config.epochs and not state.diverged:
        state = loop.after(state)
        on_epoch(state)
    return state
