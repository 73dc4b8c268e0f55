"""A sweep interrupted at random moments: lines printed, seconds to the prompt, processes left.

    python benchmarks/interrupts.py          (Linux, about a quarter of an hour; exits 1 where a promise is broken)

16 short trainings on two workers, in a script (Ctrl-C and SIGTERM), in a kernel as JupyterLab starts it (its stop
button), and under papermill (Ctrl-C there: the lines are those that the notebook keeps, papermill adds its own). The
moment lies anywhere between the call of `sweep` and its end. One that came when the sweep was over is not counted, but
one that is not answered shows: the prompt is late. Last, every sweep goes on to its end.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import Empty

import nbformat
import pandas as pd
from jupyter_client.manager import KernelManager

RUNS, LONGEST = 16, 3.0  # runs a sweep; seconds to the prompt
CELL = f"""
print("begins", flush=True)
setting = {{"dataset": "digits", "width": 4, "epochs": 1, "batch_size": 128, "precision": "float32"}}
table = lowrank.sweep([{{"decomp": "tt", **setting}}], seeds={RUNS}, workers=2, runs=RUNS)
print("table of", len(table))
"""
Outcome = tuple[list[str], float]  # the lines since the interrupt, and the seconds until the prompt


def program(folder: Path) -> str:
    return f"import lowrank\nRUNS = {str(folder)!r}\n{CELL}"


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)


def living(mark: str) -> list[int]:
    """The processes that were started under this mark, directly or not."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            state = path.with_name("stat").read_text().rsplit(")", 1)[1].split()[0]
            if mark.encode() in path.read_bytes() and state not in "ZX":
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def script(number: signal.Signals, folder: Path, environment: dict[str, str], moment: float) -> Outcome:
    output = folder.with_suffix(".txt")
    with open(output, "w") as file:
        driver = subprocess.Popen([sys.executable, "-c", program(folder)], stdout=file, stderr=file, env=environment)
    wait_for(lambda: "begins" in output.read_text())
    time.sleep(moment)
    before, start = len(output.read_text().splitlines()), time.monotonic()
    driver.send_signal(number)
    driver.wait(60)
    return output.read_text().splitlines()[before:], time.monotonic() - start


def kernel(folder: Path, environment: dict[str, str], moment: float) -> Outcome:
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=environment | {"JPY_SESSION_NAME": "sweep.ipynb"}, stderr=subprocess.DEVNULL)
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(120)
    lines, start = [], 0.0

    def told(message: dict) -> None:
        content = message["content"]
        text = content.get("text", "") or "\n".join(content.get("traceback", []))
        lines.extend((time.monotonic(), line) for line in text.splitlines())

    client.execute(program(folder))
    while not any("begins" in line for _, line in lines):
        told(client.get_iopub_msg(timeout=120))
    end, start = time.monotonic() + moment, 0.0
    while True:
        if not start and time.monotonic() > end:
            start = time.monotonic()
            manager.interrupt_kernel()
        try:
            message = client.get_iopub_msg(timeout=0.02)
        except Empty:
            continue
        told(message)
        if message["content"].get("execution_state") == "idle":  # interrupted, or over before that
            break
    start = start or time.monotonic()
    seconds = time.monotonic() - start
    left = set(living(environment["MARK"])) - {manager.provisioner.pid}
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    return [line for at, line in lines if at > start] + [f"process {pid} is left" for pid in left], seconds


def papermill(folder: Path, environment: dict[str, str], moment: float) -> Outcome:
    source, kept = folder.with_suffix(".ipynb"), folder.with_suffix(".out.ipynb")
    cell = nbformat.v4.new_code_cell(program(folder))
    spec = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=spec), source)
    output = folder.with_suffix(".txt")
    with open(output, "w") as file:
        command = [sys.executable, "-m", "papermill", "--log-output", "--no-progress-bar", str(source), str(kept)]
        driver = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    wait_for(lambda: "begins" in output.read_text())
    time.sleep(moment)
    start = time.monotonic()
    driver.send_signal(signal.SIGINT)
    driver.wait(60)
    seconds = time.monotonic() - start
    outputs = nbformat.read(kept, 4).cells[-1].get("outputs", [])
    return [line for each in outputs if each.output_type == "error" for line in each.traceback], seconds


WAYS = {
    "script, Ctrl-C": partial(script, signal.SIGINT),
    "script, SIGTERM": partial(script, signal.SIGTERM),
    "kernel": kernel,
    "papermill": papermill,
}


def interrupted(way: str, folder: Path, moment: float) -> dict:
    """One sweep, interrupted: a row."""
    mark = uuid.uuid4().hex
    lines, seconds = WAYS[way](folder, os.environ | {"MARK": mark}, moment)
    time.sleep(0.2)
    left, ended = living(mark), len(list(folder.glob("*/record.json"))) == RUNS
    row = {"way": way, "moment": moment, "lines": len(lines), "seconds": seconds, "left": len(left), "ended": ended}
    print(row | {"load": round(os.getloadavg()[0], 1), "last": lines[-1:]}, flush=True)
    return row


def completed(folder: Path) -> bool:
    """Whether the same sweep goes on to its end."""
    subprocess.run([sys.executable, "-c", program(folder)], check=True, stdout=subprocess.DEVNULL)
    return (pd.read_csv(folder / "results.csv")["status"] == "done").sum() == RUNS


def main(times: int, ways: list[str]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    home = Path(tempfile.mkdtemp())
    start = time.monotonic()
    assert completed(home / "whole")
    whole = time.monotonic() - start
    print(f"{whole:.1f} s undisturbed")
    rows: list[dict] = []
    while sum(not row["ended"] for row in rows) < times:  # the others were over before the interrupt came
        rows.append(interrupted(ways[len(rows) % len(ways)], home / str(len(rows)), random.uniform(0, whole)))
    every = pd.DataFrame(rows)
    table = every[~every.ended]
    print(table.groupby("way")[["lines", "seconds", "left"]].agg(["count", "max"]).round(2).to_string())
    whole_again = all(completed(home / str(k)) for k in range(0, len(rows), 5))
    broken = (table.lines.max() > 1) or (every.seconds.max() > LONGEST) or every.left.any() or not whole_again
    sys.exit(broken)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    arguments = parser.parse_args()
    main(arguments.times, arguments.ways)
