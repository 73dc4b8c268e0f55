"""What the store of results promises: nothing lost, nothing torn, whatever is killed, full or damaged."""

import errno
import json
import os
import random
import time
from contextlib import suppress
from dataclasses import asdict
from multiprocessing import get_context

import pandas as pd
import pytest

from lowrank.config import Config, InputError
from lowrank.results import COLUMNS, claim, collect, history, record, store, write
from lowrank.table import results

SPAWN = get_context("spawn")
EPOCHS = [{"epoch": 1, "test_accuracy": 0.5}, {"epoch": 2, "test_accuracy": 0.75}]


def row(run: str, **values) -> dict:
    asked = asdict(Config().fitted(50_000))
    return asked | {"run": run, "status": "done", "parameters": 100, "test_accuracy": 0.75} | values


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


def hold_forever(folder, held) -> None:
    with claim(folder):
        held.set()
        time.sleep(600)


def start(function, *arguments):
    process = SPAWN.Process(target=function, args=arguments)
    process.start()
    return process


def test_a_stored_run_comes_back_with_its_types_columns_and_history(tmp_path):
    store(tmp_path, row("a", test_loss=float("nan"), started="2025-01-02T03:04:05+00:00", extra=7), EPOCHS)
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


def test_eight_processes_that_finish_a_thousand_runs_lose_none_and_the_table_is_always_readable(tmp_path):
    writers = [start(store_many, tmp_path, writer, 125) for writer in range(8)]
    lengths = []
    while any(writer.is_alive() for writer in writers):
        with suppress(FileNotFoundError):  # before the first run is stored there is no table
            lengths.append(len(pd.read_csv(tmp_path / "results.csv")))
        time.sleep(0.02)  # the writers need the processor too
    assert [writer.exitcode for writer in writers] == [0] * 8
    assert lengths == sorted(lengths) and lengths[0] < 1000
    names = {f"{writer}x{number:03}" for writer in range(8) for number in range(125)}
    frame = pd.read_csv(tmp_path / "results.csv")
    assert set(frame["run"]) == names and len(frame) == 1000
    assert set(results(tmp_path)["run"]) == names


def test_kill_9_at_any_moment_loses_and_tears_nothing(tmp_path):
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


def test_a_claim_is_held_by_one_process_and_freed_by_its_death(tmp_path):
    held = SPAWN.Event()
    holder = start(hold_forever, tmp_path / "a", held)
    assert held.wait(30)
    with claim(tmp_path / "a", wait=False) as mine:
        assert not mine
    with claim(tmp_path / "b", wait=False) as mine:
        assert mine
    holder.kill()
    with claim(tmp_path / "a") as mine:  # waits no longer than the holder lives
        assert mine
    holder.join()


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path, monkeypatch):
    store(tmp_path, row("a"), EPOCHS)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for path in (tmp_path / "a" / "record.json", tmp_path / "new"):
        with pytest.raises(InputError, match=rf"{path}.*No space left on device \([\d.]+ MB free\)"):
            write(path, b"x" * 1000)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_that_cannot_be_made_or_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for attempt in (lambda path: store(path, row("a"), []), collect):
        with pytest.raises(InputError, match=str(tmp_path / "file")):
            attempt(tmp_path / "file" / "runs")
