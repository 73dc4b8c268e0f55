"""What several test files need."""

import os
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the networks are small: a second thread would mostly wait


@pytest.fixture(scope="session")
def cifar10_jpeg() -> Path:
    """The archive of CIFAR-10 as 60,000 JPEG files."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10-jpeg.tar.xz"
    archive = Path(os.environ.get("LOWRANK_CIFAR10_JPEG", beside))
    if not archive.is_file():
        pytest.skip(f"{archive} is missing; LOWRANK_CIFAR10_JPEG names another place")
    return archive


@pytest.fixture(scope="session")
def forks():
    """Makes processes that start in a moment: they are forks of one that has imported torch."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["lowrank.sweeps.driver", "lowrank.experiment", "torchvision"])
    return context


@pytest.fixture(scope="session")
def execute():
    """Executes one notebook after another in the same kernel: each of its own would import torch anew."""
    from lowrank.lab.figures import run_notebook, running_kernel

    with running_kernel() as kernel:
        yield partial(run_notebook, kernel)


@pytest.fixture(scope="session")
def cluster():
    """A cluster that others started; its one worker is a thread of this process."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        yield cluster


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The cache of data and kernels, empty."""
    monkeypatch.setenv("LOWRANK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def seeded() -> None:
    """The same random numbers every time, whatever ran before."""
    import torch

    torch.manual_seed(0)


@pytest.fixture
def nothing_registered():
    """Takes out again what a test registers."""
    from lowrank.formats import FORMATS
    from lowrank.formats.own import own_formats

    yield
    for decomp in own_formats():
        del FORMATS[decomp]


@pytest.fixture
def start(forks):
    """Calls a function in a process of its own."""

    def start(function, *arguments):
        process = forks.Process(target=function, args=arguments)
        process.start()
        return process

    return start


@pytest.fixture
def shown(monkeypatch) -> list:
    """What explore displays, and what it puts in its place later."""
    from lowrank.lab import controls, explore

    objects = []

    def display(*shown, display_id=False):
        objects.extend(shown)
        return SimpleNamespace(update=objects.append)

    for module in (explore, controls):
        monkeypatch.setattr(module, "display", display)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    return objects
