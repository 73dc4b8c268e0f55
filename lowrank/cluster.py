"""Where trials run: workers that this process starts on this machine, or a Dask cluster that others started."""

from __future__ import annotations

import ipaddress
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .config import InputError

WORKER = Path(__file__).with_name("worker.py")


def check_address(scheduler: str, insecure: bool) -> None:
    """Raises InputError where the scheduler is on another host and its connection is neither encrypted nor waived."""
    if type(insecure) is not bool:
        raise InputError(f"insecure={insecure!r}; allowed: True or False")
    parts = urlsplit(scheduler)
    if parts.scheme not in ("tcp", "tls") or not parts.hostname or not parts.port:
        raise InputError(
            f"scheduler={scheduler!r}; allowed: tls://host:port, tcp://127.0.0.1:port, or '' for this machine"
        )
    try:
        here = ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        here = parts.hostname == "localhost"
    if parts.scheme == "tcp" and not here and not insecure:
        raise InputError(
            f"scheduler={scheduler!r}: tcp lets whoever reaches that host run code; allowed: tls://, or insecure=True"
        )


def slots(slots_per_gpu: int, workers: int) -> list[dict[str, str]]:
    """The environment of each local worker: its own GPU, or its share of the CPU's cores. Raises InputError."""
    import torch
    from dask.system import CPU_COUNT

    for name, value, least in (("slots_per_gpu", slots_per_gpu, 1), ("workers", workers, 0)):
        if type(value) is not int or value < least:
            raise InputError(f"{name}={value!r}; allowed: an int, {least} or more")
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    gpus = [given[k] if given != [""] else str(k) for k in range(torch.cuda.device_count())]
    places = gpus * slots_per_gpu or [""] * CPU_COUNT
    places = (places * workers)[:workers] if workers else places
    threads = str(max(1, CPU_COUNT // len(places)))
    return [{"CUDA_VISIBLE_DEVICES": gpu, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} for gpu in places]


@contextmanager
def connected(scheduler: Any, slots_per_gpu: int = 1, workers: int = 0) -> Iterator[Any]:
    """A Dask client: of the given scheduler or, where that is '', of local workers, which end with it."""
    from distributed import Client, Nanny, Scheduler, SpecCluster
    from tornado.ioloop import PeriodicCallback

    if scheduler:
        with Client(scheduler) as client:
            yield client
        return
    here = {"host": "127.0.0.1"}
    worker = here | {"nthreads": 1, "memory_limit": 0, "dashboard": False, "silence_logs": logging.CRITICAL}
    nannies = {
        number: {"cls": Nanny, "options": worker | {"env": environment}}
        for number, environment in enumerate(slots(slots_per_gpu, workers))
    }
    head = {"cls": Scheduler, "options": here | {"port": 0, "dashboard": True, "dashboard_address": "127.0.0.1:0"}}
    silent = {"silence_logs": "CRITICAL"}
    with worker_first(), SpecCluster(workers=nannies, scheduler=head, **silent) as cluster, Client(cluster) as client:
        mending = PeriodicCallback(lambda: mend(cluster), 2000)
        cluster.loop.add_callback(mending.start)
        try:
            yield client
        finally:
            cluster.loop.add_callback(mending.stop)


@contextmanager
def worker_first() -> Iterator[None]:
    """Has the processes that start meanwhile run worker.py; else they would run this process's script from the top."""
    main = sys.modules["__main__"]
    shown = {name: vars(main)[name] for name in ("__file__", "__spec__") if name in vars(main)}
    main.__file__, main.__spec__ = str(WORKER), None
    try:
        yield
    finally:
        del main.__file__, main.__spec__
        vars(main).update(shown)


def mend(cluster: Any) -> None:
    """Replaces workers whose nanny gave up: it does where the worker is killed while it starts."""
    from distributed.core import Status

    for name, nanny in list(cluster.workers.items()):
        if nanny.status in (Status.closed, Status.failed):
            del cluster.workers[name]
    cluster.scale(len(cluster.worker_spec))
