"""The table of runs at the front door."""

import shutil

import pandas as pd

import lowrank
from lowrank.formats import PLAIN
from lowrank.lab import overview


def test_ones_own_runs_come_first_and_then_the_best_of_each_form(published):
    table = lowrank.results(published)
    mine = table.iloc[[3, 5]].assign(run=["mine", "newer"], started=table.started.max())
    table = pd.concat([table, mine.assign(started=mine.started + pd.to_timedelta([0, 1], "h"))])
    ordered = overview.order_runs(table, {"mine", "newer"})
    assert ordered.run[:2].tolist() == ["newer", "mine"] and set(ordered.whose[:2]) == {"yours"}
    best = ordered[ordered.whose == "best of form"]
    theirs = table.iloc[:-2].query("start == ''").groupby("decomp").test_accuracy.max()
    assert best.set_index("decomp").test_accuracy.sort_index().equals(theirs.sort_index())
    assert ordered.index[ordered.whose == ""].min() == 2 + len(best) and len(ordered) == len(table)


def test_the_best_of_a_form_began_at_random(published):
    table = lowrank.results(published)
    started = table.sort_values("test_accuracy").iloc[-1:].assign(run="started", start="0" * 12, test_accuracy=1.0)
    ordered = overview.order_runs(pd.concat([table, started]), set())
    assert ordered.whose[ordered.run == "started"].tolist() == [""]
    assert set(ordered.decomp[ordered.whose == "best of form"]) == set(table.decomp)


def test_a_table_of_runs_says_nothing_that_does_not_apply(published):
    table = lowrank.results(published)
    shown = overview.write_cells(overview.order_runs(table, set(table.run)))
    unfolded = shown.decomp.isin([*PLAIN, "bottleneck"])
    assert set(shown.dims[unfolded]) == {""} and "" not in set(shown.dims[~unfolded])
    dense = table.iloc[:1].assign(decomp="dense", compression=9.0)._repr_html_()
    assert "9.0 times" in dense and "900" not in dense


def test_ones_own_runs_are_those_that_were_trained_here(published, tmp_path):
    shutil.copytree(published, tmp_path / "runs")
    record = lowrank.run(dataset="digits", width=2, epochs=1, budget=0.5, log=lambda line: None, runs=tmp_path / "runs")
    assert overview.list_claimed(published) == set()
    assert overview.list_claimed(tmp_path / "runs") == {record["run"]}
