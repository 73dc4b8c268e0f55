"""How well a run did, in a sentence and, if it did no better than guessing, what to try."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from IPython.display import Markdown

from ..config import Config
from ..data import Data
from ..train import steps_an_epoch

FEWEST_STEPS = 20  # an epoch, that a small dataset should be given
ENOUGH = 500  # steps in which a network learns something


def judge_run(record: Mapping[str, Any], config: Config, data: Data) -> Markdown:
    """How well a run did, in a sentence and, if it did no better than guessing, what to try."""
    config = config.fitted(len(data.train_labels))
    if record["status"] != "done":
        return Markdown(f"**The loss has left the numbers**: try a `learning_rate` below {config.learning_rate:g}.")
    images, accuracy = len(data.test_labels), record["test_accuracy"]
    guessing = data.test_labels.bincount().max().item() / images  # always the class that most images have
    said = f"{accuracy:.1%} of {images:,} test images"
    if accuracy > guessing + 3 * (guessing * (1 - guessing) / images) ** 0.5:  # three standard errors
        return Markdown(f"**{said} are recognised** after the last epoch; guessing gives {guessing:.1%}.")
    steps = steps_an_epoch(config, data)
    taken = f"{steps:,} step{'s' * (steps > 1)} an epoch, {steps * config.epochs:,} in all"
    return Markdown(f"**{said}: no better than guessing, which gives {guessing:.1%}.** {taken}{advise(config, data)}.")


def advise(config: Config, data: Data) -> str:
    """What to try after a run that has learned nothing."""
    if steps_an_epoch(config, data) * config.epochs >= ENOUGH:
        return f": enough; try another `learning_rate` than {config.learning_rate:g}"
    smaller = 2 ** int(math.log2(max(2, len(data.train_labels) / FEWEST_STEPS)))
    return f": few; try `batch_size` {smaller}" if smaller < config.batch_size else ": few; try more `epochs`"
