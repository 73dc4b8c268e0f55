"""What becomes of a trial on a worker: one that raises, hangs, dies or waits for another is a record like any other."""

import os
import subprocess
import sys
from pathlib import Path

import dask
import pytest
from trials import quick, run_here, runs_of, sweep, trained

from lowrank.errors import InputError
from lowrank.paths import ROOT
from lowrank.sweeps.engine import attempt
from lowrank.sweeps.plan import status
from lowrank.sweeps.studies import grid

pytestmark = pytest.mark.usefixtures("data_without_loading")


def test_runs_that_raise_diverge_or_kill_their_worker_are_recorded_and_stop_no_other(tmp_path, cluster):
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):  # fewer workers to start
        table, _ = run_here(tmp_path, 0, 100, 101, 102, 1, 2)
    rows = table.set_index("seed")
    assert rows["status"].to_dict() == {0: "done", 1: "done", 2: "done", 100: "failed", 101: "failed", 102: "diverged"}
    assert rows.loc[100, "reason"] == "ValueError: seed 100 raises"
    assert "worker died" in rows.loc[101, "reason"]
    assert trained(tmp_path).count(rows.loc[101, "run"]) == 2  # tried again, a bounded number of times

    states = status(runs_of(0, 100, 3), runs=str(tmp_path)).set_index("seed")
    assert states["status"].to_dict() == {0: "done", 100: "failed", 3: "remaining"}
    assert "ValueError" in Path(states.loc[100, "log"]).read_text()

    once = trained(tmp_path)
    run_here(tmp_path, 0, 100, 102, scheduler=cluster)
    assert trained(tmp_path)[len(once) :] == [rows.loc[100, "run"]]  # what failed is tried again, the rest is final


def test_a_trial_that_hangs_is_ended_as_failed(tmp_path):
    table, _ = run_here(tmp_path, 104, 0, timeout=0.03)
    assert table["status"].tolist() == ["failed", "done"]
    assert table["reason"][0] == "TimeoutError: still running after timeout=0.03 minutes; log.txt says where"
    assert "in quick" in (tmp_path / table["run"][0] / "log.txt").read_text()


def test_runs_wait_for_the_run_that_they_start_from_and_fail_with_it(tmp_path, cluster):
    form = {"decomp": ["tt"], "dataset": ["digits"], "precision": ["float32"], "budget": [0.1, 0.2]}
    starts = grid(**form, start=[{"decomp": "separable"}], seed=[0, 100, 102])
    table = sweep(starts, runs=str(tmp_path), scheduler=cluster, log=lambda _: None)
    rows = {key: part for key, part in table.groupby(["decomp", "seed"])}
    assert set(rows["tt", 0].status) == set(rows["separable", 0].status) == {"done"}
    begun = trained(tmp_path)
    assert len(begun) == 5 and begun.index(rows["separable", 0].run.item()) < begun.index(rows["tt", 0].run.iloc[0])
    for seed, ended in ((100, "failed"), (102, "diverged")):
        parent = rows["separable", seed].run.item()
        assert rows["tt", seed].reason.tolist() == 2 * [f"run {parent}, which it starts from, is {ended}"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink(path, path)])
def test_a_log_that_cannot_be_written_is_named(tmp_path, make):
    [parameters] = runs_of(0)
    (tmp_path / "run").mkdir()
    make(tmp_path / "run" / "log.txt")
    with pytest.raises(InputError, match="log.txt: cannot be written"):
        attempt(quick, parameters | {"runs": str(tmp_path)}, "run", wait=False)


OWN = """
import functools, threading
import lowrank

class Mine(lowrank.Format):
    uses_dims = False
    def largest(self, folding): return (least(folding.outputs, folding.inputs),)
    def shapes(self, folding, ranks): return [(folding.outputs, ranks[0]), (ranks[0], folding.inputs)]
    def inner(self, folding, ranks): return ranks[0]
    def factors(self, cores, folding): return cores

def least(*sizes): return min(sizes)

mine = Mine()
{more}
lowrank.register("mine", mine)
try:
    lowrank.sweep(lowrank.grid(decomp=["mine"], dataset=["digits"], width=[1], budget=[0.9], epochs=[1]), runs={runs!r})
except lowrank.InputError as error:
    print(error)
"""
UNSENDABLE = {
    "least = functools.cache(least)": "AttributeError: least is sent by its name alone",
    "Mine.__getstate__ = lambda self: None; mine.size = 1; Mine.inner = lambda self, f, r: r[0] * self.size": (
        "AttributeError: 'Mine' object has no attribute 'size'"
    ),
    "mine.lock = threading.Lock()": "TypeError: cannot pickle",
}


def test_a_format_that_cannot_be_sent_to_a_worker_is_named_before_the_first_trial(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text("".join(OWN.format(more=more, runs=str(tmp_path / "runs")) for more in UNSENDABLE))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=ROOT)
    lines = [line for line in done.stdout.splitlines() if line.startswith("decomp=")]
    for line, said in zip(lines, UNSENDABLE.values(), strict=True):
        assert line.startswith("decomp='mine': it cannot be sent to a worker (") and said in line, done
    assert not list(tmp_path.glob("runs/*/record.json")) and not done.stderr
