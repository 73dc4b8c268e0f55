"""What a sweep promises: every run once, whatever is killed, raises or is started twice."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from papermill import PapermillExecutionError
from trials import pixels, run_here, runs_of, sweep, sweep_elsewhere, trained

from lowrank import memory
from lowrank.errors import InputError
from lowrank.interrupts import Stopped
from lowrank.paths import ROOT
from lowrank.records import record
from lowrank.sweeps import plan

HERE = Path(__file__).resolve().parent

pytestmark = pytest.mark.usefixtures("data_without_loading")


def start_driver(runs: Path, seeds: range, **options) -> subprocess.Popen:
    """The same sweep in a process and session of its own."""
    program = f"""
        import signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)  # shells make background jobs ignore it
        sys.path[:0] = {[str(HERE), *sys.path]!r}
        import trials as t
        if __name__ == "__main__":
            t.plan.read_data = t.pixels
            t.sweep(t.runs_of(*range({seeds.start}, {seeds.stop})), runs={str(runs)!r}, **{options!r})
        """
    script = runs.parent / "driver.py"
    script.write_text(textwrap.dedent(program))
    return subprocess.Popen([sys.executable, script], start_new_session=True, stderr=subprocess.PIPE)


def processes_of(session: int) -> list[int]:
    fields = [path.read_text().rsplit(")")[-1].split() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
    return [each for each in fields if int(each[3]) == session and each[0] != "Z"]


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_sweep_trains_every_run_once_and_a_second_one_nothing(tmp_path):
    seeds = [5, 3, 7, 1, 0, 6, 2, 4]
    table, lines = run_here(tmp_path, *seeds, workers=2)
    assert table["seed"].tolist() == seeds and set(table["status"]) == {"done"}  # in the order of the study
    assert "8 runs, 0 done, 8 to train" in lines[0] and "http://127.0.0.1" in lines[2]
    again, lines = run_here(tmp_path, *seeds)
    assert lines == ["own grid: 8 runs, 8 done, 0 to train"]
    pd.testing.assert_frame_equal(table, again)
    assert len(trained(tmp_path)) == 8


@pytest.mark.parametrize(
    "impossible", [{"budget": 0.001}, {"decomp": "bottleneck", "budget": 0.001}, {"decomp": "mine"}], ids=str
)
def test_a_run_that_can_have_no_network_is_named_before_the_first_trial(tmp_path, impossible):
    with pytest.raises(InputError, match="^(budget=0.001: the smallest |decomp='mine'; allowed)"):
        sweep([*runs_of(0), {**runs_of(1)[0], **impossible}], runs=str(tmp_path), log=pytest.fail)
    assert not trained(tmp_path)


def test_a_precision_that_is_not_here_is_refused_before_the_first_trial(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "best_device", lambda: torch.device("cpu"))
    with pytest.raises(InputError, match="^precision='float16' is hopelessly slow on a CPU; allowed here: "):
        sweep([{**runs_of(0)[0], "precision": "float16"}], runs=str(tmp_path), log=pytest.fail)


def test_a_network_beyond_the_memory_is_refused_before_the_first_trial(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "total_memory", lambda device: 1e9)
    with pytest.raises(InputError, match="^width=2000, batch_size=64: there is not enough memory"):
        sweep([{**runs_of(0)[0], "width": 2000}], runs=str(tmp_path), log=pytest.fail)


def test_a_sweep_says_that_a_precision_is_slow_here(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "find_slowness", lambda precision, device: f"{precision} crawls")
    lines: list[str] = []
    half = [{**each, "precision": "bfloat16"} for each in runs_of(0, 1)]
    sweep(half, runs=str(tmp_path / "runs"), log=lines.append)
    assert lines.count("bfloat16 crawls") == 1


@pytest.mark.parametrize("timeout", [-1, float("nan"), "5", True, 1e9])
def test_a_timeout_that_is_none_is_refused(tmp_path, timeout):
    with pytest.raises(InputError, match="timeout=.*; allowed: minutes"):
        run_here(tmp_path, 0, timeout=timeout)


def test_two_sweeps_at_once_share_the_work_in_daemonic_processes_too(tmp_path, forks):
    drivers = [forks.Process(target=sweep_elsewhere, args=[tmp_path], daemon=True) for _ in range(2)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join(120)
    assert [driver.exitcode for driver in drivers] == [0, 0]
    assert len(trained(tmp_path)) == 30 == len(pd.read_csv(tmp_path / "results.csv"))


def stop(driver: subprocess.Popen, how: int, runs: Path) -> tuple[list[str], str]:
    """The runs that are kept once nothing of a driver is left, and what it has told."""
    driver.send_signal(how)
    _, told = driver.communicate(timeout=60)
    wait_for(lambda: not processes_of(driver.pid))
    return [path.parent.name for path in runs.glob("*/record.json")], told.decode()


def line_of(kept: list[str], asked: int) -> str:
    return f"stopped: {len(kept)} done, {asked - len(kept)} remain; the same command goes on\n"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_driver_leaves_no_process_and_loses_nothing(tmp_path, cluster, how):
    runs = tmp_path / "runs"
    driver = start_driver(runs, range(200, 400), workers=2)  # none of the seeds that fail
    wait_for(lambda: len(trained(runs)) > 10)
    kept, told = stop(driver, how, runs)
    assert len(kept) >= 8 and told == ("" if how == signal.SIGKILL else line_of(kept, 200))
    run_here(runs, *range(200, 212), scheduler=cluster)
    names = trained(runs)
    assert all(names.count(run) == 1 for run in kept)


@pytest.mark.parametrize("moment", ["starting", "ending"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_one_line_at_any_moment(tmp_path, how, moment):
    """What is told beside it is what was told before."""
    runs = tmp_path / "runs"
    driver = start_driver(runs, range(200, 206), workers=1)
    reached = {
        "starting": lambda: (runs / "results.csv").exists(),
        "ending": lambda: len(list(runs.glob("*/record.json"))) == 6,
    }
    wait_for(reached[moment])
    kept, told = stop(driver, how, runs)
    assert told == line_of(kept, 6) or (told == "" and moment == "ending")  # it may have ended before


@pytest.fixture
def heeds_interrupts():
    """As a terminal's program does; shells make background jobs ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_of_a_sweep_that_has_nothing_to_train_is_not_lost(tmp_path, cluster, heeds_interrupts):
    run_here(tmp_path, 0, scheduler=cluster)
    with pytest.raises(Stopped, match="^stopped: 1 done, 0 remain; "):
        sweep(runs_of(0), runs=str(tmp_path), log=lambda line: signal.raise_signal(signal.SIGINT))


def test_a_record_from_a_worker_with_other_data_is_refused(tmp_path, monkeypatch, cluster):
    monkeypatch.setattr(plan, "read_data", lambda dataset: pixels(dataset, "other pixels"))
    table, _ = run_here(tmp_path, 0, scheduler=cluster)
    assert table["status"].tolist() == ["failed"] and "data" in table["reason"][0]


def test_a_folder_without_space_is_named_before_the_first_trial(tmp_path, monkeypatch):
    full = os.statvfs_result((4096, 4096, 9, 9, 9, 9, 9, 9, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    with pytest.raises(InputError, match=rf"runs='{tmp_path}'.* kB free"):
        run_here(tmp_path, 0, 1)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=os.strerror(errno.ENOTDIR)):
        run_here(tmp_path / "file" / "runs", 0)
    assert trained(tmp_path) == []


def test_a_disk_that_fills_up_stops_the_sweep_and_leaves_the_records_whole(tmp_path, cluster):
    with pytest.raises(InputError, match="No space left on device"):
        run_here(tmp_path, 0, 1, 103, *range(2, 40), scheduler=cluster)
    kept = [record(tmp_path, run)["status"] for run in trained(tmp_path) if record(tmp_path, run)]
    assert kept and set(kept) == {"done"}


NOTEBOOK = ROOT / "notebooks" / "sweep.ipynb"


def test_the_notebook_runs_a_study_and_a_second_time_nothing(execute, tmp_path):
    runs, executed = tmp_path / "runs", tmp_path / "sweep.ipynb"
    small = {"width": 4, "epochs": 1, "batch_size": 512}
    asked = {"study": "cp", "seeds": 1, "workers": 1, "runs": str(runs)} | small
    given = [part for name, value in asked.items() for part in ("-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", str(NOTEBOOK), str(executed), *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(runs / "results.csv")
    assert set(table["status"]) == {"done"} and set(table["decomp"]) == {"cp"} and set(table["width"]) == {4}
    before = {path: path.stat().st_mtime_ns for path in runs.glob("*/record.json")}
    execute(NOTEBOOK, executed, cwd=ROOT, **asked)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert f"{len(table)} done, 0 to train" in executed.read_text()
    last = json.loads(executed.read_text())["cells"][-1]["outputs"][0]["data"]
    assert "".join(last["text/markdown"]) == "No run failed or diverged."


def test_an_interrupt_under_papermill_is_one_line_beside_its_own(tmp_path):
    papermill = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from papermill.__main__ import *"
    )
    asked = {"study": "cp", "seeds": 1, "workers": 1, "runs": str(tmp_path / "runs"), "epochs": 500, "width": 4}
    given = [part for name, value in asked.items() for part in ("-p", name, str(value))]
    command = [sys.executable, "-c", f"{papermill}; papermill()", str(NOTEBOOK), str(tmp_path / "out.ipynb"), *given]
    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_for(lambda: list(tmp_path.glob("runs/*/log.txt")))
    driver.send_signal(signal.SIGINT)
    told = driver.communicate(timeout=60)[1].decode()
    assert "Exception in message handler" not in told and "Aborted!" in told
    assert re.findall("stopped: .*", told) == ["stopped: 0 done, 4 remain; the same cell goes on"]


def test_the_notebook_refuses_a_parameter_that_does_not_exist(execute, tmp_path):
    line = "sheduler='tls://host:1': there is no such parameter; did you mean scheduler?"
    asked = {"sheduler": "tls://host:1", "runs": str(tmp_path / "runs")}
    with pytest.raises(PapermillExecutionError, match=re.escape(line)):
        execute(NOTEBOOK, tmp_path / "sweep.ipynb", cwd=ROOT, **asked)
    assert not (tmp_path / "runs").exists()
