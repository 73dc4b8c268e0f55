"""What a sweep promises: every run once, whatever is killed, raises or is started twice."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from lowrank.config import Config
from lowrank.errors import InputError
from lowrank.experiment import revision
from lowrank.files import claim, named
from lowrank.paths import ROOT
from lowrank.records import FINAL, record, store
from lowrank.sweeps import plan
from lowrank.sweeps.cluster import check_scheduler
from lowrank.sweeps.driver import sweep
from lowrank.sweeps.engine import attempt
from lowrank.sweeps.plan import status
from lowrank.sweeps.studies import grid

HERE = Path(__file__).resolve().parent


def quick(log=print, **parameters) -> dict:
    """Stands in for training: a twentieth of a second, and the faults that the seed asks for."""
    config = Config.of(parameters)
    run = config.run("pixels")
    with claim(config.folder / run):
        found = record(config.folder, run)
        if found and found["status"] in FINAL:
            return found
        log(f"trains seed {config.seed}")
        with open(config.folder / "trained", "a") as trained:
            trained.write(f"{run}\n")
        time.sleep(0.05)
        if config.seed == 100:
            raise ValueError("seed 100 raises")
        if config.seed == 104:
            time.sleep(300)
        if config.seed == 103:
            with named(config.folder):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if config.seed == 101:
            os.kill(os.getpid(), signal.SIGKILL)
        measured = {"test_accuracy": 0.5, "revision": revision()}
        state = "diverged" if config.seed == 102 else "done"
        store(config.folder, asdict(config) | measured | {"run": run, "status": state}, [{"epoch": 1}])
        return record(config.folder, run)


@pytest.fixture(scope="module")
def cluster():
    """A cluster that others started; its one worker is a thread of this process."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        yield cluster


def pixels(dataset: str, fingerprint: str = "pixels") -> SimpleNamespace:
    """Data of that fingerprint, without any image."""
    return SimpleNamespace(fingerprint=fingerprint, train_labels=range(1497))


@pytest.fixture(autouse=True)
def data_without_loading(monkeypatch):
    monkeypatch.setattr(plan, "read_data", pixels)


def runs_of(*seeds: int) -> list[dict]:
    return grid(decomp=["tt"], dataset=["digits"], precision=["float32"], seed=seeds)


def run_here(runs: Path, *seeds: int, **options) -> tuple[pd.DataFrame, list[str]]:
    lines: list[str] = []
    table = sweep(runs_of(*seeds), runs=str(runs), trial=quick, log=lines.append, **{"workers": 1} | options)
    return table, lines


def start_driver(runs: Path, seeds: range, stderr: int = subprocess.DEVNULL, **options) -> subprocess.Popen:
    """The same sweep in a process and session of its own."""
    program = f"""
        import signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)  # shells make background jobs ignore it
        sys.path[:0] = {[str(HERE), *sys.path]!r}
        import test_driver as t
        if __name__ == "__main__":
            t.plan.read_data = t.pixels
            t.sweep(t.runs_of(*range({seeds.start}, {seeds.stop})), runs={str(runs)!r}, trial=t.quick, **{options!r})
        """
    script = runs.parent / "driver.py"
    script.write_text(textwrap.dedent(program))
    return subprocess.Popen([sys.executable, script], start_new_session=True, stderr=stderr)


def processes_of(session: int) -> list[int]:
    fields = [path.read_text().rsplit(")")[-1].split() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
    return [each for each in fields if int(each[3]) == session and each[0] != "Z"]


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def trained(runs: Path) -> list[str]:
    return (runs / "trained").read_text().split() if (runs / "trained").exists() else []


def test_a_sweep_trains_every_run_once_and_a_second_one_nothing(tmp_path):
    table, lines = run_here(tmp_path, *range(8), workers=2)
    assert table["seed"].tolist() == list(range(8)) and set(table["status"]) == {"done"}
    assert "8 runs, 0 done, 8 to train" in lines[0] and "http://127.0.0.1" in lines[2]
    again, lines = run_here(tmp_path, *range(8))
    assert lines == ["own grid: 8 runs, 8 done, 0 to train"]
    pd.testing.assert_frame_equal(table, again)
    assert len(trained(tmp_path)) == 8


def test_runs_that_raise_diverge_or_kill_their_worker_are_recorded_and_stop_no_other(tmp_path):
    table, _ = run_here(tmp_path, 0, 100, 101, 102, 1, 2)
    rows = table.set_index("seed")
    assert rows["status"].to_dict() == {0: "done", 1: "done", 2: "done", 100: "failed", 101: "failed", 102: "diverged"}
    assert rows.loc[100, "reason"] == "ValueError: seed 100 raises"
    assert "worker died" in rows.loc[101, "reason"]
    assert trained(tmp_path).count(rows.loc[101, "run"]) > 1  # tried again, a bounded number of times

    states = status(runs_of(0, 100, 3), runs=str(tmp_path)).set_index("seed")
    assert states["status"].to_dict() == {0: "done", 100: "failed", 3: "remaining"}
    assert "ValueError" in Path(states.loc[100, "log"]).read_text()

    once = trained(tmp_path)
    run_here(tmp_path, 0, 100, 102)
    assert trained(tmp_path)[len(once) :] == [rows.loc[100, "run"]]  # what failed is tried again, the rest is final


def test_a_trial_that_hangs_is_ended_as_failed(tmp_path):
    table, _ = run_here(tmp_path, 104, 0, timeout=0.05)
    assert table["status"].tolist() == ["failed", "done"]
    assert table["reason"][0] == "TimeoutError: still running after timeout=0.05 minutes; log.txt says where"
    assert "in quick" in (tmp_path / table["run"][0] / "log.txt").read_text()


@pytest.mark.parametrize("timeout", [-1, float("nan"), "5", True, 1e9])
def test_a_timeout_that_is_none_is_refused(tmp_path, timeout):
    with pytest.raises(InputError, match="timeout=.*; allowed: minutes"):
        run_here(tmp_path, 0, timeout=timeout)


def test_the_rows_come_in_the_order_of_the_study(tmp_path):
    seeds = [5, 3, 9, 1, 7]
    table, _ = run_here(tmp_path, *seeds, workers=2)
    assert table["seed"].tolist() == seeds


def sweep_in_a_daemon(runs: Path) -> None:
    plan.read_data = pixels
    run_here(runs, 0, 1)


def test_a_daemonic_process_may_sweep(tmp_path):
    process = get_context("spawn").Process(target=sweep_in_a_daemon, args=[tmp_path], daemon=True)
    process.start()
    process.join(120)
    assert process.exitcode == 0 and len(trained(tmp_path)) == 2


def test_a_program_that_imports_ipykernel_is_no_notebook():
    program = "import ipykernel; from lowrank.progress import in_notebook; assert not in_notebook()"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_status_knows_what_another_process_is_training(tmp_path):
    run = Config.of(runs_of(0)[0]).fitted(1497).run("pixels")
    with claim(tmp_path / run):
        assert status(runs_of(0, 1), runs=str(tmp_path))["status"].tolist() == ["running", "remaining"]
    assert status(runs_of(0, 1), runs=str(tmp_path))["status"].tolist() == ["remaining", "remaining"]


def test_two_sweeps_at_once_share_the_work(tmp_path):
    drivers = [start_driver(tmp_path / "runs", range(30), workers=1) for _ in range(2)]
    assert [driver.wait(120) for driver in drivers] == [0, 0]
    assert len(trained(tmp_path / "runs")) == 30 == len(pd.read_csv(tmp_path / "runs" / "results.csv"))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_driver_leaves_no_process_and_loses_nothing(tmp_path, how):
    runs = tmp_path / "runs"
    driver = start_driver(runs, range(200, 400), workers=2)  # none of the seeds that fail
    wait_for(lambda: len(trained(runs)) > 10)
    os.kill(driver.pid, how)
    driver.wait(30)
    wait_for(lambda: not processes_of(driver.pid))
    kept = [path.parent.name for path in runs.glob("*/record.json")]
    assert len(kept) >= 8
    run_here(runs, *range(200, 212))
    names = trained(runs)
    assert all(names.count(run) == 1 for run in kept)


@pytest.mark.parametrize("moment", ["starting", "training", "ending"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_one_line_at_any_moment(tmp_path, how, moment):
    """What is told beside it is what was told before."""
    runs = tmp_path / "runs"
    driver = start_driver(runs, range(200, 206), workers=2, stderr=subprocess.PIPE)
    reached = {
        "starting": lambda: (runs / "results.csv").exists(),
        "training": lambda: len(trained(runs)) > 1,
        "ending": lambda: len(list(runs.glob("*/record.json"))) == 6,
    }
    wait_for(reached[moment])
    driver.send_signal(how)
    _, told = driver.communicate(timeout=60)
    wait_for(lambda: not processes_of(driver.pid))
    done = len(list(runs.glob("*/record.json")))
    line = f"stopped: {done} done, {6 - done} remain; the same command goes on\n"
    assert told.decode() in ([line] if moment != "ending" else [line, ""])  # it may have ended before


def test_a_cluster_that_others_started_is_used_and_left_running(tmp_path, cluster):
    for seed in (0, 1):
        table, _ = run_here(tmp_path, seed, scheduler=cluster)
        assert table["status"].tolist() == ["done"]


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


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink(path, path)])
def test_a_log_that_cannot_be_written_is_named(tmp_path, make):
    [parameters] = runs_of(0)
    (tmp_path / "run").mkdir()
    make(tmp_path / "run" / "log.txt")
    with pytest.raises(InputError, match="log.txt: cannot be written"):
        attempt(quick, parameters | {"runs": str(tmp_path)}, "run", wait=False)


def test_a_disk_that_fills_up_stops_the_sweep_and_leaves_the_records_whole(tmp_path, cluster):
    with pytest.raises(InputError, match="No space left on device"):
        run_here(tmp_path, 0, 1, 103, *range(2, 40), scheduler=cluster)
    kept = [record(tmp_path, run)["status"] for run in trained(tmp_path) if record(tmp_path, run)]
    assert kept and set(kept) == {"done"}


@pytest.mark.parametrize(
    "address", ["tls://far.example:8786", "tcp://127.0.0.1:8786", "tcp://localhost:8786", "tcp://[::1]:1"]
)
def test_a_scheduler_here_or_behind_tls_is_accepted(address):
    check_scheduler(address, insecure=False)


@pytest.mark.parametrize(
    "address",
    [
        "tcp://10.0.0.7:8786",
        "tcp://far.example:8786",
        "far:8786",
        "tls://far",
        "8786",
        "tls://[::1",
        "tls://far:99999",
        "tls://far:x",
    ],
)
def test_a_scheduler_elsewhere_without_tls_is_refused(address, tmp_path):
    with pytest.raises(InputError, match="scheduler='.*'.*tls://"):
        run_here(tmp_path, 0, scheduler=address)
    assert trained(tmp_path) == []
    if address.startswith("tcp"):
        check_scheduler(address, insecure=True)


def papermill(tmp_path, **parameters) -> tuple[int, str]:
    given = [part for name, value in parameters.items() for part in ("-p", name, str(value))]
    output = ["notebooks/sweep.ipynb", str(tmp_path / "sweep.ipynb"), "-p", "runs", str(tmp_path / "runs"), *given]
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", *output]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stderr


def test_the_notebook_runs_a_study_and_a_second_time_nothing(tmp_path):
    asked = {"study": "cp", "seeds": 1, "workers": 1, "width": 4}
    code, error = papermill(tmp_path, **asked)
    assert code == 0, error
    table = pd.read_csv(tmp_path / "runs" / "results.csv")
    assert set(table["status"]) == {"done"} and set(table["decomp"]) == {"cp"} and set(table["width"]) == {4}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/record.json")}
    assert papermill(tmp_path, **asked)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert f"{len(table)} done, 0 to train" in (tmp_path / "sweep.ipynb").read_text()


def test_the_notebook_refuses_a_parameter_that_does_not_exist(tmp_path):
    code, error = papermill(tmp_path, sheduler="tls://host:1")
    assert code == 1 and "sheduler='tls://host:1': there is no such parameter; did you mean scheduler?" in error
    assert not (tmp_path / "runs").exists()
