"""A network that was trained and then decomposed is compared with those that had as many epochs, and with no other."""

import numpy as np
import pandas as pd
import pytest

from lowrank.lab.compress import (
    against_others,
    average_parents,
    choose_rates,
    select_longest,
    tabulate_epochs,
    tabulate_rates,
)

WOBBLE = np.array([-0.01, 0.0, 0.01])


def network(decomp, epochs, accuracy, parameters=1000, start="", budget=0.0, width=16):
    shared = {"decomp": decomp, "epochs": epochs, "parameters": parameters, "start_decomp": start, "budget": budget}
    shared |= {"width": width, "start_error": 0.5 if start else np.nan}
    runs = [f"{decomp}{start}{budget}{width}{epochs}-{seed}" for seed in range(3)]
    starts = [f"{start}0.016{24}-{seed}" if start else "" for seed in range(3)]
    return [
        shared | {"run": run, "start": begun, "test_accuracy": accuracy + each}
        for run, begun, each in zip(runs, starts, WOBBLE, strict=True)
    ]


TABLE = pd.DataFrame(
    network("separable", 24, 0.8, 9000)
    + network("dense", 24, 0.9, 90_000)
    + network("tt", 0, 0.1, start="separable", budget=0.1)
    + network("tt", 6, 0.72, 1100, start="separable", budget=0.1)
    + network("cp", 6, 0.74, start="separable", budget=0.1)
    + network("tt", 6, 0.85, 8000, start="dense", budget=0.1)
    + network("tt", 30, 0.70, budget=0.1)
    + network("tt", 30, 0.60, budget=0.5)
    + network("separable", 30, 0.75, 1050, width=5)
    + network("separable", 30, 0.65, 500, width=4)
    + network("dense", 30, 0.84, 8000, width=3)
)


def test_each_is_compared_with_its_own_kind_at_its_own_size_and_length():
    found = against_others(TABLE)
    assert found["mean"].to_dict() == pytest.approx(
        {
            ("separable", "tt", 0.1, "from scratch"): 0.02,
            ("separable", "tt", 0.1, "narrow"): -0.03,
            ("separable", "cp", 0.1, "narrow"): -0.01,
            ("dense", "tt", 0.1, "narrow"): 0.01,
        }
    )
    assert found.ratio.loc[("separable", "tt", 0.1, "narrow")] == pytest.approx(1100 / 1050)
    assert (found.low < found["mean"]).all() and (found.n == 3).all()


def test_the_mean_over_formats_keeps_budgets_and_parents_apart():
    found = against_others(TABLE, over="decomp")
    assert found["mean"].loc[("separable", 0.1, "narrow")] == pytest.approx(-0.02)
    assert found["mean"].loc[("dense", 0.1, "narrow")] == pytest.approx(0.01)
    alone = against_others(TABLE).loc[("separable", "tt", 0.1, "narrow")]
    assert found.loc[("separable", 0.1, "narrow")].se < alone.se


def test_shorter_runs_and_the_trained_networks_are_not_among_the_others():
    longest = select_longest(TABLE)
    assert set(longest.epochs[longest.start_decomp == ""]) == {30}
    assert set(longest.epochs[longest.start_decomp != ""]) == {6}


def test_the_way_there_and_where_it_began():
    table = tabulate_epochs(TABLE)
    assert table.loc[("separable", "tt", 0.1), [0, 6]].tolist() == pytest.approx([0.1, 0.72])
    assert (table.start_error == 0.5).all()
    assert average_parents(TABLE).to_dict() == pytest.approx({"separable": 0.8, "dense": 0.9})


def test_without_comparisons_there_are_no_rows():
    started = TABLE[TABLE.start_decomp != ""]
    assert against_others(started).empty and against_others(TABLE[TABLE.start_decomp == ""]).empty


def at_rate(rate, validation, *which):
    """Runs at a rate, with an accuracy on the validation images; of several rates each is a run of its own."""
    runs = pd.DataFrame(network(*which, start="separable", budget=0.1))
    return runs.assign(learning_rate=rate, validation_accuracy=validation + WOBBLE, run=runs["run"] + f"@{rate}")


def test_a_network_that_was_trained_on_at_several_rates_counts_at_the_best_on_validation_images():
    tried = [at_rate(0.4, 0.70, "tt", 6, 0.76), at_rate(0.1, 0.72, "tt", 6, 0.73), at_rate(0.2, 0.71, "tt", 6, 0.74)]
    whole = pd.concat(
        [TABLE[TABLE.start_decomp == ""].assign(learning_rate=0.4, validation_accuracy=0.7), *tried,
         at_rate(0.4, 0.5, "tt", 0, 0.1), at_rate(0.4, 0.6, "cp", 6, 0.74)],
        ignore_index=True,
    )  # fmt: skip
    chosen = choose_rates(whole)
    started = chosen[chosen.start_decomp != ""]
    assert started.groupby(["decomp", "epochs"]).learning_rate.unique().map(list).to_dict() == {
        ("cp", 6): [0.4], ("tt", 0): [0.4], ("tt", 6): [0.1],
    }  # fmt: skip
    assert len(chosen) == len(whole) - 6
    assert against_others(chosen)["mean"].loc[("separable", "tt", 0.1, "from scratch")] == pytest.approx(0.03)
    table = tabulate_rates(whole)
    assert table.validation_accuracy.to_dict() == pytest.approx(
        {("separable", "tt", 0.1, rate): accuracy for rate, accuracy in ((0.1, 0.72), (0.2, 0.71), (0.4, 0.7))}
    )
    assert tabulate_rates(chosen).empty


def test_without_validation_images_there_is_one_rate_and_it_stays():
    whole = TABLE.assign(learning_rate=0.1, validation_accuracy=np.nan)
    assert choose_rates(whole).equals(whole) and tabulate_rates(whole).empty


@pytest.mark.parametrize(("parameters", "compared"), [(920, True), (890, False), (1090, True), (1120, False)])
def test_a_plain_network_of_another_size_is_not_compared_with(parameters, compared):
    table = pd.DataFrame(
        network("tt", 6, 0.7, 1000, start="separable", budget=0.1)
        + network("separable", 30, 0.8, parameters, width=5)
        + network("tt", 30, 0.7, budget=0.1)
    )
    others = against_others(table).index.get_level_values("other")
    assert ("narrow" in others) == compared
