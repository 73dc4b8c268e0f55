"""One study over two hosts that share no folder; one of them is cut off in the middle.

    sudo python benchmarks/two_hosts.py          (Linux, about two minutes; exits 1 where a record is missing)

Each host is a network and mount namespace on this machine, joined by a veth link, and the cluster speaks TLS:
first host: scheduler, one worker, the driver; second host: two workers, until the link goes down.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from lowrank.config import Config
from lowrank.data import load
from lowrank.files import claim
from lowrank.records import FINAL, record, store
from lowrank.sweeps import driver
from lowrank.sweeps.studies import grid

RUNS, SECONDS = 60, 1.0
PIXELS = load("digits").fingerprint  # a function with a cache would be looked for in the workers' own script
FIRST, SECOND = "10.77.0.1", "10.77.0.2"
ADDRESS = f"tls://{FIRST}:8786"
DASK = [sys.executable, "-m", "dask"]
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def short(log=print, **parameters) -> dict:
    """Stands in for training: stores on the host where it runs, and says which that was."""
    config = Config.of(parameters)
    run = config.run_id(PIXELS)
    with claim(config.folder / run):
        found = record(config.folder, run)
        if found and found["status"] in FINAL:
            return found
        time.sleep(SECONDS)
        done = {"run": run, "status": "done", "parameters": 1, "test_accuracy": 0.5, "device": os.environ["HOST"]}
        store(config.folder, asdict(config) | done, [{"epoch": 1}])
        return record(config.folder, run)


def certificate(folder: Path) -> dict[str, str]:
    """A key and a certificate that every part of the cluster shares, as Dask's settings."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=lowrank"]
    subprocess.run([*request, "-keyout", key, "-out", cert], check=True, **QUIET)
    settings = {"CA_FILE": cert} | {
        f"{part}__{name}": path
        for part in ("SCHEDULER", "WORKER", "CLIENT")
        for name, path in (("KEY", key), ("CERT", cert))
    }
    return {f"DASK_DISTRIBUTED__COMM__TLS__{name}": str(path) for name, path in settings.items()}


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def second_host(folder: Path) -> subprocess.Popen:
    """Two workers in a network of their own, where `folder`/runs is another folder; waits for the link."""
    worker = [*DASK, "worker", ADDRESS, "--nworkers", "2", "--nthreads", "1", "--no-dashboard"]
    script = (
        f"mount -t tmpfs tmpfs {folder}/runs; ip link set lo up; "
        f"until ip addr add {SECOND}/24 dev far; do sleep 0.1; done; ip link set far up; "
        f"HOST=second {' '.join(worker)}; sleep infinity"  # the host and its end of the link outlive the workers
    )
    host = subprocess.Popen(["unshare", "--net", "--mount", "sh", "-c", script], **QUIET)
    time.sleep(1)
    ip("link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(host.pid))
    ip("addr", "add", f"{FIRST}/24", "dev", "near")
    ip("link", "set", "near", "up")
    return host


def main(folder: Path) -> None:
    (folder / "runs").mkdir()
    os.environ |= certificate(folder) | {"HOST": "first"}
    ip("link", "set", "lo", "up")
    host = second_host(folder)
    scheduler = subprocess.Popen([*DASK, "scheduler", "--host", ADDRESS, "--no-dashboard"], **QUIET)
    first = subprocess.Popen([*DASK, "worker", ADDRESS, "--nthreads", "1", "--no-dashboard"], **QUIET)
    cut_off = []

    def cut(table: pd.DataFrame) -> None:
        hosts = Counter(table["device"])
        if len(hosts) == 2 and not cut_off:
            print(f"records {dict(hosts)}: the second host is cut off", flush=True)
            subprocess.run(["nsenter", "-t", str(host.pid), "-n", "ip", "link", "set", "far", "down"], check=True)
            cut_off.append(SECOND)

    driver.REDRAW, driver.run_trial = 8, short
    study = grid(decomp=["tt"], dataset=["digits"], precision=["float32"], seed=range(RUNS))
    table = driver.sweep(study, scheduler=ADDRESS, runs=str(folder / "runs"), show=cut)
    for process in (first, scheduler, host):
        process.kill()
    print(table.groupby(["device", "status"]).size().to_string())
    whole = all(record(folder / "runs", run) for run in table["run"])
    print(f"{len(table)} of {RUNS} records at the driver, {'all whole' if whole else 'some damaged'}")
    sys.exit(not cut_off or len(table) != RUNS or not whole or set(table["status"]) != {"done"})


if __name__ == "__main__":
    if os.getpid() != 1:
        namespaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        sys.exit(subprocess.run([*namespaces, sys.executable, *sys.argv]).returncode)
    main(Path(tempfile.mkdtemp()))
