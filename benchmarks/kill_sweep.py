"""Two copies of one sweep of 300 short runs, started at once on one folder, under 200 random kill -9.

    python benchmarks/kill_sweep.py          (Linux, about ten minutes; exits 1 where a promise is broken)

Kills workers and drivers, at any moment or while a file is being written; starts a dead driver again, and a fresh
sweep where one ends before the last kill. Everything happens in a PID namespace of its own, so that nothing else can
be killed. At the end it counts what was lost, torn, duplicated or trained again, how often pandas could not read
results.csv, and how long a worker outlived its driver.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from multiprocessing import Process
from pathlib import Path

import pandas as pd

from lowrank.config import Config
from lowrank.data import load
from lowrank.files import claim
from lowrank.records import FINAL, record, store
from lowrank.sweeps import driver
from lowrank.sweeps.studies import grid

SECONDS = 0.5  # a run, on average
ZERO = ["lost", "torn", "duplicated", "trained again", "tables that pandas could not read"]
STUDY = grid(decomp=["tt"], dataset=["digits"], precision=["float32"], dims=[2, 3, 4], seed=range(100))
PIXELS = load("digits").fingerprint  # a function with a cache would be looked for in the workers' own script


def note(folder: Path, line: str) -> None:
    """One line in the journal, whole even where many processes write."""
    journal = os.open(folder / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(journal, f"{line}\n".encode())
    os.close(journal)


def short(log=print, **parameters) -> dict:
    """Stands in for training: same claim, same store, and a journal of what was begun and what was stored."""
    config = Config.of(parameters)
    run = config.run_id(PIXELS)
    with claim(config.folder / run):
        found = record(config.folder, run)
        if found and found["status"] in FINAL:
            return found
        note(config.folder, f"began {run}")
        time.sleep(SECONDS * random.random() * 2)
        store(
            config.folder,
            asdict(config) | {"run": run, "status": "done", "parameters": 1, "test_accuracy": 0.5},
            [{"epoch": 1}] * 20,
        )
        note(config.folder, f"stored {run}")
        return record(config.folder, run)


def drive(folder: Path) -> None:
    """One of the two sweeps."""
    start = time.monotonic()
    driver.run_trial = short
    driver.sweep(STUDY, runs=str(folder), workers=2, log=lambda line: None)
    print(f"{time.monotonic() - start:.2f}")


def read(folder: Path) -> None:
    """Reads the table and every record for ever, and notes each that cannot be read."""
    while True:
        try:
            table = pd.read_csv(folder / "results.csv")
            assert table["run"].is_unique
            note(folder, "read")
        except FileNotFoundError:
            pass
        except Exception as error:
            note(folder, f"unreadable {error!r}")
        for path in folder.glob("*/record.json"):
            try:
                json.loads(path.read_bytes())
            except ValueError:
                note(folder, f"torn {path}")
        time.sleep(0.02)


def start(folder: Path) -> subprocess.Popen:
    command = [sys.executable, __file__, "--drive", str(folder)]
    silent = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    return subprocess.Popen(command, start_new_session=True, **silent)


def family(driver: subprocess.Popen) -> list[int]:
    """The driver and its workers: the living processes of its session."""
    living = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == driver.pid and fields[0] not in "ZX":
            living.append(int(path.parent.name))
    return sorted(living)


def workers_of(driver: subprocess.Popen) -> list[int]:
    return [pid for pid in family(driver) if pid != driver.pid]


def being_written(folder: Path) -> bool:
    return any(folder.glob("**/.*.tmp"))


def kill_one(driver: subprocess.Popen, folder: Path) -> str:
    """Kills a process of this sweep at a random moment and says which; '' where it has none of that kind."""
    target = random.choice(["worker", "worker", "worker", "driver"])
    moment = random.choice(["at any moment", "during a write"])
    end = time.monotonic() + 2
    while target == "worker" and not workers_of(driver) and time.monotonic() < end:
        time.sleep(0.05)  # they are starting
    time.sleep(random.random() * SECONDS)
    while moment == "during a write" and not being_written(folder) and time.monotonic() < end:
        pass
    workers = workers_of(driver)
    if driver.poll() is not None or (target == "worker" and not workers):
        return ""
    with suppress(ProcessLookupError):
        os.kill(random.choice(workers) if target == "worker" else driver.pid, 9)
    return f"{target} {moment}"


def torture(kills: int, folder: Path) -> tuple[Counter, float]:
    """The kills, by kind, and the longest time that a process outlived its driver."""
    drivers, counts, longest = [start(folder), start(folder)], Counter(), 0.0
    while counts.total() < kills and not complete(folder):
        wait_for_work(folder)
        number = random.randrange(2)
        killed = kill_one(drivers[number], folder)
        counts[killed] += bool(killed)
        if killed.startswith("driver"):
            drivers[number].wait()
        if drivers[number].poll() is not None:
            longest = max(longest, outlived(drivers[number]))
            drivers[number] = start(folder)
    for each in drivers:
        each.wait()
    return +counts, longest


def wait_for_work(folder: Path) -> None:
    """Until a run begins, at most a minute: else a machine that starts slowly is killed before it ever works."""
    before, end = begun(folder), time.monotonic() + 60
    while begun(folder) == before and time.monotonic() < end and not complete(folder):
        time.sleep(0.05)


def begun(folder: Path) -> int:
    journal = folder / "journal"
    return journal.read_text().count("began ") if journal.exists() else 0


def complete(folder: Path) -> bool:
    return len(list(folder.glob("*/record.json"))) == len(STUDY)


def outlived(driver: subprocess.Popen) -> float:
    """Seconds until no process of a dead driver is left, at most 30."""
    start = time.monotonic()
    while family(driver) and time.monotonic() - start < 30:
        time.sleep(0.01)
    return time.monotonic() - start


def verdict(folder: Path, longest: float) -> dict[str, float]:
    """What must be 0, the longest survival, and the time of a resume."""
    lines = [line.split(" ", 1) for line in (folder / "journal").read_text().splitlines()]
    kinds = Counter(line[0] for line in lines)
    stored, again = set(), 0
    for line in lines:
        again += line[0] == "began" and line[1] in stored
        stored |= {line[1]} if line[0] == "stored" else set()
    final = pd.read_csv(folder / "results.csv")
    resumed = start(folder)
    return {
        "lost": len(stored - set(final["run"])) + len(STUDY) - int((final["status"] == "done").sum()),
        "torn": kinds["torn"],
        "duplicated": int(final["run"].duplicated().sum()),
        "trained again": again,
        "tables that pandas could not read": kinds["unreadable"],
        "tables read": kinds["read"],
        "runs begun": kinds["began"],
        "seconds that a process outlived its driver": round(longest, 2),
        "seconds to resume the finished sweep": float(resumed.communicate()[0]),
    }


def one_round(kills: int) -> tuple[Counter, dict[str, float]]:
    """Both sweeps from nothing to their end under at most so many kills: the kills, and what to judge them by."""
    folder = Path(tempfile.mkdtemp())
    reader = Process(target=read, args=(folder,), daemon=True)
    reader.start()
    counts, longest = torture(kills, folder)
    while start(folder).wait() or (pd.read_csv(folder / "results.csv")["status"] != "done").any():
        pass
    reader.kill()
    return counts, verdict(folder, longest)


def main(kills: int) -> None:
    random.seed(0)
    killed, figures = Counter(), {}
    while killed.total() < kills:
        counts, found = one_round(kills - killed.total())
        killed += counts
        for name, value in found.items():
            figures[name] = max(figures.get(name, 0), value) if "seconds" in name else figures.get(name, 0) + value
        print(f"{killed.total()} kills so far", flush=True)
    print(f"{killed.total()} kills: {dict(killed)}")
    print(*(f"{value:>8} {name}" for name, value in figures.items()), sep="\n")
    limits = {"seconds that a process outlived its driver": 2, "seconds to resume the finished sweep": 1}
    sys.exit(any(figures[name] > limits.get(name, 0) for name in [*ZERO, *limits]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive:
        drive(arguments.drive)
    elif os.getpid() != 1:
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        namespace = ["unshare", *user, "--pid", "--fork", "--kill-child", "--mount-proc"]
        sys.exit(subprocess.run([*namespace, sys.executable, *sys.argv]).returncode)
    else:
        main(arguments.kills)
