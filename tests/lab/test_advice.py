"""What a run is told about itself."""

import pytest

from lowrank.config import Config
from lowrank.data import load
from lowrank.lab.advice import judge_run


@pytest.mark.parametrize(
    ("setting", "right", "said"),
    [
        ({"batch_size": 512, "epochs": 24}, 0.1, "2 steps an epoch, 48 in all: few; try `batch_size` 64."),
        ({"batch_size": 64, "epochs": 1}, 0.1, ": few; try more `epochs`."),
        ({"batch_size": 16, "epochs": 30, "learning_rate": 0.4}, 0.1, ": enough; try another `learning_rate`"),
        ({"batch_size": 64, "epochs": 24}, 0.95, "are recognised"),
    ],
)
def test_a_run_at_chance_is_called_so_and_told_what_to_try(setting, right, said):
    config, data = Config(dataset="digits", **setting), load("digits")
    text = judge_run({"status": "done", "test_accuracy": right}, config, data).data
    assert said in text and ("no better than guessing" in text) == (right == 0.1)


def test_a_run_that_diverged_is_told_the_rate_that_it_had():
    text = judge_run({"status": "diverged"}, Config(dataset="digits"), load("digits")).data
    assert text.endswith("try a `learning_rate` below 0.1414.")
