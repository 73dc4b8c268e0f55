"""What a person sees of a run and of a sweep: what is done, and the time left at the speed so far."""

from importlib import import_module
from types import SimpleNamespace

import pytest

from lowrank import progress
from lowrank.progress import YEAR, RunProgress, SweepProgress, in_notebook, show_duration


def test_a_program_that_imports_ipykernel_is_no_notebook():
    import_module("ipykernel.kernelapp")
    assert not in_notebook()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.34, "12.3 s"), (60, "0:01:00"), (3723.4, "1:02:03"), (3 * YEAR, "3 years"), (1e12, "31,710 years")],
)
def test_a_time_is_said_as_people_say_it(seconds, text):
    assert show_duration(seconds) == text


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """A clock that stands still until it is set."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.mark.parametrize(("finished", "left"), [(0, "26.0 s"), (1, "6.0 s")])
def test_a_run_is_timed_once_its_speed_has_settled_by_the_steps_of_this_process(clock, finished, left):
    lines = []
    run = RunProgress(lines.append, shown=False, steps=10, epochs=2, finished=finished)
    for seconds in [50, 50, 2, 2, 2, 2, 2, 2]:
        clock.now += seconds
        run.step()
    assert lines == [f"about {left} of training to go, 2000 ms a step"]


@pytest.mark.parametrize(
    ("part", "epochs", "line"),
    [
        ("test", 24, "epoch  3/24     1.50 s  train loss 0.5000 accuracy 80.00%  test loss 0.7000 accuracy 75.00%"),
        ("validation", 0, "decomposed, not trained  validation loss 0.7000 accuracy 75.00%"),
    ],
)
def test_an_epoch_is_a_line_with_what_was_measured(part, epochs, line):
    lines = []
    row = {"epoch": 3, "seconds": 1.5, "train_loss": 0.5, "train_accuracy": 0.8}
    run = RunProgress(lines.append, shown=False, steps=10, epochs=epochs, finished=0)
    run.epoch(row | {f"{part}_loss": 0.7, f"{part}_accuracy": 0.75}, epochs)
    assert lines == [line]


def test_a_sweep_says_what_became_of_its_runs_and_what_the_rest_takes(clock, monkeypatch):
    """By the work of those that ended and half of those that run; a failed run says nothing about the speed."""
    monkeypatch.setattr(progress, "is_watched", lambda: False)
    lines, shown = [], []
    sweep = SweepProgress({"a": 1.0, "b": 3.0, "c": 4.0}, lines.append)
    sweep.line = SimpleNamespace(set_description_str=shown.append)
    for now, ended, workers, text in (
        (100, {}, 0, "0 done, 0 running, 3 remaining"),  # the time until there are workers does not count
        (110, {"a": "done"}, 1, "1 done, 1 running, 1 remaining, about 22.0 s left"),
        (120, {"b": "failed"}, 1, "1 done, 1 failed, 1 running, 0 remaining, about 13.3 s left"),
    ):
        clock.now = now
        for run, status in ended.items():
            sweep.add(run, status)
        sweep.tick(workers)
        assert shown[-1].lstrip("█░ ") == text
    sweep.finish()
    assert lines == ["0 done, 0 running, 3 remaining", "1 done, 1 failed in 0:02:00"]  # once a minute
