"""Where trials run: worker processes that this one starts on this machine, or a Dask cluster that others started.

The scheduler of local workers runs in this process, the workers are plain subprocesses of it. Dask's own Nanny is not
used: its children run this process's script again from the top, it cannot start them from a daemonic process, and when
they are interrupted or die at the wrong moment it writes pages of log.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import torch
from dask.system import CPU_COUNT

from ..errors import InputError, whole_number
from ..files import open_regular

WORKER = Path(__file__).with_name("worker.py")
MOST_WORKERS = 1000  # on one machine
TLS = [f"DASK_DISTRIBUTED__COMM__TLS__{part}" for part in ("CA_FILE", "CLIENT__KEY", "CLIENT__CERT")]
SWEPT: set[int] = set()  # the processes, of this one and those that it was forked from, that have swept
RESTART = 2  # seconds between two starts in the same place: what dies at once shall not keep the machine busy


def check_scheduler(scheduler: Any, insecure: bool) -> None:
    """Raises InputError if it can be none, or is on another host and its connection neither encrypted nor waived."""
    if type(insecure) is not bool:
        raise InputError(f"insecure={insecure!r}; allowed: True or False")
    if scheduler_is_here(scheduler):
        return
    scheme, host = split_address(scheduler)
    if not host:
        raise InputError(
            f"scheduler={scheduler!r}; allowed: tls://host:port, tcp://127.0.0.1:port, a Dask cluster, "
            "or '' for this machine"
        )
    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    if scheme == "tcp" and not here and not insecure:
        raise InputError(
            f"scheduler={scheduler!r}: tcp lets whoever reaches that host run code; allowed: tls://, or insecure=True"
        )
    if scheme == "tls":
        check_certificate(scheduler)


def check_certificate(scheduler: str) -> None:
    """Raises InputError if Dask was not told the key and the certificates of a client, or they cannot be read."""
    from distributed import Security

    security = Security()
    told = [str(each) for each in (security.tls_ca_file, security.tls_client_key, security.tls_client_cert) if each]
    try:
        for file in told:
            if "\n" not in file:  # else it is the certificate itself
                with open_regular(Path(file)):  # a fifo would wait for its writer
                    pass
        context, cause = security.get_connection_args("client").get("ssl_context"), "the README makes them"
    except (OSError, ValueError) as error:
        context, cause = None, f"{error}; told are {', '.join(told)}"
    if context is None:
        raise InputError(f"scheduler={scheduler!r}: tls needs {', '.join(TLS)} ({cause})")


def check_process() -> None:
    """Raises InputError in a process that was forked from one that has swept: Dask's threads are not in it."""
    SWEPT.add(os.getpid())
    if len(SWEPT) > 1:
        raise InputError(
            "a sweep cannot run in a process that was forked from one that has swept: its threads are not there; "
            "allowed: multiprocessing's spawn"
        )


def scheduler_is_here(scheduler: Any) -> bool:
    """Whether it is this machine's own, or the object of a Dask cluster."""
    return scheduler == "" if isinstance(scheduler, str) else hasattr(scheduler, "scheduler_address")


def split_address(scheduler: Any) -> tuple[str, str]:
    """tcp or tls, and the host; two empty texts if it is no address."""
    with suppress(ValueError):  # as of a port that is no number
        parts = urlsplit(scheduler if isinstance(scheduler, str) else "")
        if parts.scheme in ("tcp", "tls") and parts.hostname and parts.port:
            return parts.scheme, parts.hostname
    return "", ""


def slots(slots_per_gpu: int, workers: int) -> list[dict[str, str]]:
    """The environment of each local worker: its own GPU, or its share of the CPU's cores. Raises InputError."""
    slots_per_gpu = whole_number("slots_per_gpu", slots_per_gpu, 1, MOST_WORKERS)
    workers = whole_number("workers", workers, 0, MOST_WORKERS)
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    gpus = [given[k] if given != [""] else str(k) for k in range(torch.cuda.device_count())]
    places = gpus * slots_per_gpu or [""] * CPU_COUNT
    places = (places * workers)[:workers] if workers else places
    threads = str(max(1, CPU_COUNT // len(places)))
    # glibc gives a thread that is not the first an arena of its own, which hands large tensors back to the system every
    # step: with one arena for all a worker takes four fifths of the time (benchmarks/arenas.py)
    shared = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "MALLOC_ARENA_MAX": "1"}
    return [{"CUDA_VISIBLE_DEVICES": gpu, **shared} for gpu in places]


class Workers:
    """Worker processes on this machine, one in each place, which is an environment; `close` kills them.

    Replaces none that died unless `replace_lost` is called now and then, by the thread that made this: if that
    thread ends, the kernel kills its workers.
    """

    def __init__(self, address: str, places: list[dict[str, str]]) -> None:
        self.address, self.places = address, places
        self.folder = TemporaryDirectory(prefix="lowrank-sweep-", ignore_cleanup_errors=True)
        self.processes = [self.start(environment) for environment in places]
        self.started = [time.monotonic()] * len(self.processes)

    def start(self, environment: dict[str, str]) -> subprocess.Popen:
        """One worker that finds the same modules as this process, in a process group that no Ctrl-C reaches."""
        command = [sys.executable, "-P", str(WORKER), str(os.getpid()), self.address, self.folder.name]
        modules = {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        environment = os.environ | modules | environment
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, process_group=0)

    def replace_lost(self) -> None:
        """Starts a worker in each place where one has died."""
        for place, process in enumerate(self.processes):
            if process.poll() is not None and time.monotonic() - self.started[place] > RESTART:
                self.processes[place] = self.start(self.places[place])
                self.started[place] = time.monotonic()

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        self.folder.cleanup()


async def greet(address: str) -> None:
    """Raises OSError, or another kind, if it is no Dask that answers: a client would wait for ever."""
    import dask
    from distributed import Security
    from distributed.comm import connect

    limit = dask.utils.parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"))
    comm = await asyncio.wait_for(connect(address, **Security().get_connection_args("client")), limit)
    await comm.close()


@contextmanager
def connected(scheduler: Any, places: list[dict[str, str]]) -> Iterator[tuple[Any, Callable[[], None]]]:
    """A Dask client, and what has to be called now and then in the same thread.

    The client is that of the given scheduler or, if that is '', of local workers in the `places`, which end with it.
    """
    from distributed import Client, Scheduler, SpecCluster

    if scheduler:
        try:
            if isinstance(scheduler, str):
                asyncio.run(greet(scheduler))
            client = Client(scheduler, set_as_default=False)
        except Exception as error:  # Dask raises many kinds
            reason = str(error) or "it is silent"
            raise InputError(f"scheduler={scheduler!r}: there is no answer from Dask ({reason})") from error
        with client:
            yield client, lambda: None
        return
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # for good: some is said when the cluster has ended
    options = {"host": "127.0.0.1", "port": 0, "dashboard": True, "dashboard_address": "127.0.0.1:0"}
    head = {"scheduler": {"cls": Scheduler, "options": options}, "silence_logs": "CRITICAL"}
    with (  # neither has an interrupted script wait, at its exit, for what it has not ended in time
        SpecCluster(**head, shutdown_on_close=False) as cluster,
        Client(cluster, set_as_default=False) as client,
        closing(Workers(cluster.scheduler_address, places)) as local,
    ):
        yield client, local.replace_lost
