"""What the store of results promises: nothing lost, nothing torn, whatever is killed, full or damaged."""

import json
import os
import random
import time
import warnings
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from small import EPOCHS, row

from lowrank.errors import InputError
from lowrank.fields import MEASURED, NEEDED, TYPES
from lowrank.paths import ROOT
from lowrank.records import COLUMNS, collect, history, record, records, results, store


def store_many(runs, writer: int, count: int) -> None:
    for number in range(count):
        store(runs, row(f"{writer}x{number:03}"), EPOCHS)


def store_forever(runs, acknowledged) -> None:
    """Stores runs of about 100 kB one after another, each named in `acknowledged` once it is stored."""
    number = len(os.listdir(runs)) if runs.is_dir() else 0
    with open(acknowledged, "a", buffering=1) as names:
        while True:
            number += 1
            store(runs, row(f"n{number:04}", note="x" * 100_000), EPOCHS)
            names.write(f"n{number:04}\n")


def test_a_stored_run_comes_back_with_its_types_columns_and_history(tmp_path):
    store(tmp_path, row("a", epochs=2, test_loss=float("nan"), started="2025-01-02T03:04:05+00:00", extra=7), EPOCHS)
    store(tmp_path, row("b", parameters=None, status="failed", reason="out of memory"), [])

    frame = results(tmp_path).set_index("run")
    assert list(frame.reset_index().columns) == [*COLUMNS, "extra"]
    assert frame.loc["a", "parameters"] == 100 and frame.loc["a", "extra"] == 7
    assert frame.loc["a", "started"] == pd.Timestamp("2025-01-02T03:04:05Z")
    assert frame.loc["b", ["parameters", "test_loss"]].isna().all() and frame.loc["b", "reason"] == "out of memory"
    assert frame["dims"].dtype == "int64" and frame["test_loss"].dtype == "float64" and frame["augment"].dtype == bool
    assert json.loads((tmp_path / "a" / "record.json").read_text(), parse_constant=pytest.fail)["test_loss"] is None
    assert history(tmp_path, "a")["test_accuracy"].tolist() == [0.5, 0.75]
    assert set(pd.read_csv(tmp_path / "results.csv")["run"]) == {"a", "b"}
    with pytest.raises(InputError, match="run='c'"):
        history(tmp_path, "c")


def test_a_folder_without_runs_is_an_empty_table_and_stays_untouched(tmp_path):
    frame = results(tmp_path / "none")
    assert list(frame.columns) == COLUMNS and frame.empty
    assert list(tmp_path.iterdir()) == []


def test_a_run_stored_twice_is_one_row_with_the_newer_values(tmp_path):
    store(tmp_path, row("a", status="failed", parameters=1), [])
    store(tmp_path, row("a", parameters=2), [])
    assert results(tmp_path)[["status", "parameters"]].values.tolist() == [["done", 2]]


@pytest.mark.parametrize("damage", [b"", b"run,stat", b"\x00" * 999, None])
def test_a_damaged_or_missing_table_is_rebuilt(tmp_path, damage):
    store(tmp_path, row("a"), EPOCHS)
    path = tmp_path / "results.csv"
    whole = path.read_bytes()
    path.unlink() if damage is None else path.write_bytes(damage)
    results(tmp_path)
    assert path.read_bytes() == whole
    path.write_bytes(damage or b"")
    store(tmp_path, row("b"), EPOCHS)
    assert set(pd.read_csv(path)["run"]) == {"a", "b"}


def test_files_of_others_stay_as_they_are(tmp_path):
    """Whether the folder holds runs or not: a table of the same name is refused, and what looks temporary stays."""
    table, note = tmp_path / "results.csv", tmp_path / ".note.tmp"
    for file in (table, note):
        file.write_text("name,grade\nme,1\n")
    assert results(tmp_path).empty and {path.name for path in tmp_path.iterdir()} == {table.name, note.name}
    with pytest.warns(UserWarning, match="results.csv: it is no table of runs; .*; the run is stored, only this table"):
        store(tmp_path, row("a"), EPOCHS)
    assert results(tmp_path)["run"].tolist() == ["a"]
    assert table.read_text() == note.read_text() == "name,grade\nme,1\n"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: (path.touch(), os.truncate(path, 30 * 2**30))])
def test_whatever_stands_in_the_place_of_the_table_costs_no_run(tmp_path, make):
    make(tmp_path / "results.csv")
    with warnings.catch_warnings(action="ignore"):
        store(tmp_path, row("a"), EPOCHS)
    assert results(tmp_path)["run"].tolist() == ["a"]


@pytest.mark.parametrize("damage", [b"", b"\x00\x00", b'{"run": "a", "sta', b"[]", b'{"run": "b", "status": "done"}'])
def test_a_damaged_record_is_named_and_counts_as_missing(tmp_path, damage):
    store(tmp_path, row("a"), EPOCHS)
    store(tmp_path, row("b"), EPOCHS)
    (tmp_path / "a" / "record.json").write_bytes(damage)
    with pytest.warns(UserWarning, match="a/record.json"):
        assert results(tmp_path)["run"].tolist() == ["b"]
    assert record(tmp_path, "a") is None
    store(tmp_path, row("a"), EPOCHS)
    assert record(tmp_path, "a")["status"] == "done"


def test_eight_processes_that_finish_hundreds_of_runs_lose_none_and_the_table_is_always_readable(tmp_path, start):
    writers = [start(store_many, tmp_path, writer, 50) for writer in range(8)]
    lengths = []
    while any(writer.is_alive() for writer in writers):
        with suppress(FileNotFoundError):  # before the first run is stored there is no table
            lengths.append(len(pd.read_csv(tmp_path / "results.csv")))
        time.sleep(0.02)  # the writers need the processor too
    assert [writer.exitcode for writer in writers] == [0] * 8
    assert lengths == sorted(lengths) and lengths[0] < 400
    names = {f"{writer}x{number:03}" for writer in range(8) for number in range(50)}
    frame = pd.read_csv(tmp_path / "results.csv")
    assert set(frame["run"]) == names and len(frame) == 400
    assert set(results(tmp_path)["run"]) == names


def test_kill_9_at_any_moment_loses_and_tears_nothing(tmp_path, start):
    runs, acknowledged = tmp_path / "runs", tmp_path / "acknowledged"
    kills, randomly = 0, random.Random(0)
    while kills < 6:
        writer = start(store_forever, runs, acknowledged)
        before = acknowledged.stat().st_size if acknowledged.exists() else 0
        while not acknowledged.exists() or acknowledged.stat().st_size == before:
            time.sleep(0.001)
        time.sleep(randomly.random() * 0.1)
        writer.kill()
        writer.join()
        kills += 1
        names = acknowledged.read_text().split()
        assert set(names) <= set(results(runs)["run"])
        assert set(names) <= set(pd.read_csv(runs / "results.csv")["run"])
    assert len(names) == len(set(names)) > kills
    for name in os.listdir(runs):  # a run that was being stored is stored again when it is run again
        if (runs / name).is_dir():
            store(runs, row(name), EPOCHS)
    assert list(runs.rglob("*.tmp")) == []


def test_a_folder_that_cannot_be_made_or_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for attempt in (lambda path: store(path, row("a"), []), collect):
        with pytest.raises(InputError, match=str(tmp_path / "file")):
            attempt(tmp_path / "file" / "runs")


# --- what strangers and accidents make of the files


def wrong_values(kind: type) -> list:
    """Values that are not of this kind, or are of it and yet beyond what a table can hold."""
    others = {str: ["a text"], bool: [True], int: [], float: [0.5]}
    wrong = [value for other, values in others.items() if other is not kind for value in values]
    return [*wrong, {"a": 1}, [1], *({float: [10**400], int: [2**63, -(2**70)], str: ["\ud800"]}.get(kind, []))]


WRONG = [(name, value) for name, kind in TYPES.items() for value in wrong_values(kind)]
WRONG += [(name, -1) for name, kind in TYPES.items() if kind in (int, float)]
WRONG += [(name, 1e308) for name, kind in MEASURED.items() if kind is float]
WRONG += [(name, 1.5) for name in MEASURED if name.endswith("accuracy")]
WRONG += [("dims", 1), ("dims", 99), ("budget", 1.5), ("momentum", 1.0)]
WRONG += [("started", text) for text in ("9999999-01-01T00:00:00", "9999-01-01", "2262-05-01", "0001-01-01", "soon")]


def test_a_record_with_a_field_of_another_type_or_without_it_is_named_and_left_out(tmp_path):
    store(tmp_path, row("good"), EPOCHS)
    path = tmp_path / "bad" / "record.json"
    path.parent.mkdir()
    bad = [row("bad") | {name: value} for name, value in WRONG]
    bad += [{name: value for name, value in row("bad").items() if name != lacking} for lacking in NEEDED]
    for number, content in enumerate(bad):
        path.write_text(json.dumps(content))
        os.utime(path, (number, number))  # a version is read once
        with pytest.warns(UserWarning, match="bad/record.json: damaged record ignored") as warned:
            assert [each["run"] for each in records(tmp_path)] == ["good"], content
        assert all("\n" not in str(each.message) and len(str(each.message)) < 500 for each in warned)
    with warnings.catch_warnings(action="ignore"):
        assert results(tmp_path)["run"].tolist() == ["good"]


@pytest.mark.parametrize("name", [name for name in MEASURED if name not in NEEDED])
def test_what_was_not_measured_may_be_none(tmp_path, name):
    store(tmp_path, row("a") | {name: None}, EPOCHS)
    assert results(tmp_path)["run"].tolist() == ["a"]


def test_the_committed_records_have_their_types():
    with warnings.catch_warnings(action="error"):
        found = records(ROOT / "runs")
    assert len(found) == len(list((ROOT / "runs").glob("*/record.json")))


def replaced(make):
    def damage(path):
        path.unlink()
        make(path)

    return damage


UNREADABLE = {
    "folder": replaced(lambda path: path.mkdir()),
    "fifo": replaced(os.mkfifo),
    "circle": replaced(lambda path: path.symlink_to(path)),
    "link to nothing": replaced(lambda path: path.symlink_to("gone")),
    "deep": lambda path: path.write_bytes(b"[" * 100_000),
    "long number": lambda path: path.write_text(path.read_text().replace("100", "1" * 5000)),
    "endless": replaced(lambda path: path.symlink_to("/dev/zero")),
    "large": lambda path: path.write_bytes(b" " * 2**25 + path.read_bytes()),
    "a list": lambda path: path.write_text('["run", "status"]'),
    "utf-16": lambda path: path.write_bytes(path.read_text().encode("utf-16")[1:]),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("damage", UNREADABLE.values(), ids=UNREADABLE)
def test_a_record_that_cannot_be_read_is_named_and_left_out(tmp_path, damage):
    for run in ("a", "b"):
        store(tmp_path, row(run), EPOCHS)
    damage(tmp_path / "a" / "record.json")
    with pytest.warns(UserWarning, match="a/record.json: damaged record ignored"):
        assert results(tmp_path)["run"].tolist() == ["b"]


@pytest.mark.parametrize("name", ["results.csv", ".claim", "a-run", "b/record.json", "b/history.csv"])
def test_a_link_in_a_circle_costs_no_other_run(tmp_path, name):
    for run in ("a", "b"):
        store(tmp_path, row(run), EPOCHS)
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).symlink_to(tmp_path / name)
    with warnings.catch_warnings(action="ignore"):
        assert {"a"} <= set(results(tmp_path)["run"]) <= {"a", "b"}


HISTORIES = {
    "empty": lambda path: path.write_bytes(b""),
    "bytes": lambda path: path.write_bytes(b"\xff\xfe\x00epoch"),
    "a text": lambda path: path.write_text("hello\nworld\n"),
    "cut": lambda path: path.write_text("epoch,test_accuracy\n1,0.5\n2,0.5,7,8\n"),
    "words": lambda path: path.write_text("epoch,test_accuracy\n1,high\n"),
    "a huge number": lambda path: path.write_text("epoch,test_loss\n1,-1e308\n"),
    "half an epoch": lambda path: path.write_text("epoch,seconds\n1.5,1\n"),
    "an epoch beyond all": lambda path: path.write_text("epoch,seconds\n1e30,1\n"),
    "a share above 1": lambda path: path.write_text("epoch,validation_accuracy\n1,7\n"),
    "negative seconds": lambda path: path.write_text("epoch,seconds\n1,-7\n"),
    "text for seconds": lambda path: path.write_text("epoch,seconds\n1,<b>\n"),
    "many columns": lambda path: path.write_text(f"epoch{',epoch' * 10**5}\n"),
    "no epoch": lambda path: path.write_text("epoch,test_accuracy\nfirst,0.5\n"),
    "folder": replaced(lambda path: path.mkdir()),
    "fifo": replaced(os.mkfifo),
    "cut in a number": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "cut at the end of a line": lambda path: path.write_bytes(path.read_bytes().rstrip().rpartition(b"\n")[0] + b"\n"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("damage", HISTORIES.values(), ids=HISTORIES)
def test_a_damaged_history_is_one_line(tmp_path, damage):
    store(tmp_path, row("a", epochs=2), EPOCHS)
    path = tmp_path / "a" / "history.csv"
    assert len(history(tmp_path, "a")) == 2
    damage(path)
    with pytest.raises(InputError) as caught:
        history(tmp_path, "a")
    assert str(caught.value).startswith(f"{path}: it is no history of epochs (") and "\n" not in str(caught.value)


def test_a_table_that_cannot_be_written_costs_no_run(tmp_path):
    store(tmp_path, row("a"), EPOCHS)
    path = tmp_path / "results.csv"
    path.unlink()
    path.mkdir()
    with pytest.warns(UserWarning, match="results.csv: it is no table of runs; move it away.*the run is stored"):
        store(tmp_path, row("b"), EPOCHS)
    assert results(tmp_path)["run"].tolist() == ["a", "b"]
    with pytest.raises(InputError, match="results.csv: it is no table of runs"):
        collect(tmp_path)  # as a sweep does before it begins
    path.rmdir()
    results(tmp_path)
    path.chmod(0o444)
    store(tmp_path, row("c"), EPOCHS)
    assert set(pd.read_csv(path)["run"]) == {"a", "b", "c"}


def test_a_table_that_is_deleted_all_the_time_loses_no_run(tmp_path, start):
    writers = [start(store_many, tmp_path, writer, 20) for writer in range(2)]
    while any(writer.is_alive() for writer in writers):
        (tmp_path / "results.csv").unlink(missing_ok=True)
        time.sleep(0.01)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(results(tmp_path)) == len(pd.read_csv(tmp_path / "results.csv")) == 40
