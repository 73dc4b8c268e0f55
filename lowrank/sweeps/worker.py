"""A worker process of a sweep on this machine: what `cluster.Workers` starts. Imports nothing of lowrank.

    python -P worker.py <process id of the driver> <address of its scheduler> <folder for Dask's files>

It never outlives the driver. Where that is killed, the kernel kills this process too (PR_SET_PDEATHSIG), even while it
imports or computes in C code; a driver that was killed before the kernel knew of this is no longer the parent.
"""

import asyncio
import ctypes
import logging
import os
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1


def follow_driver(driver: int) -> None:
    """Has this process end when the driver does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != driver:
        sys.exit()
    if sys.platform != "linux":
        threading.Thread(target=watch_driver, args=[driver], daemon=True).start()


def watch_driver(driver: int) -> None:
    while os.getppid() == driver:
        time.sleep(0.5)
    os._exit(1)


async def serve(address: str, folder: str) -> None:
    """Runs trials, one at a time, until the scheduler is gone."""
    from distributed import Worker

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    options = {"host": "127.0.0.1", "nthreads": 1, "memory_limit": 0, "dashboard": False, "local_directory": folder}
    async with Worker(address, **options) as worker:
        await worker.finished()


if __name__ == "__main__":
    follow_driver(int(sys.argv[1]))
    asyncio.run(serve(*sys.argv[2:]))
