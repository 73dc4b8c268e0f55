"""Where trials run: a scheduler that is safe to reach, workers with a GPU or cores each, a cluster left as it is."""

import os
import socket

import dask
import distributed  # noqa: F401, else what a test sets back in dask's settings takes those of distributed with it
import pytest
import torch
from trials import run_here, runs_of, trained

from lowrank.errors import InputError
from lowrank.sweeps import cluster as cluster_room
from lowrank.sweeps.cluster import check_scheduler, slots
from lowrank.sweeps.driver import sweep

pytestmark = pytest.mark.usefixtures("data_without_loading")


def test_a_cluster_that_others_started_is_used_and_left_running(tmp_path, cluster):
    for seed in (0, 1):
        table, _ = run_here(tmp_path, seed, scheduler=cluster)
        assert table["status"].tolist() == ["done"]


@pytest.mark.parametrize(
    "address", ["tls://far.example:8786", "tcp://127.0.0.1:8786", "tcp://localhost:8786", "tcp://[::1]:1"]
)
def test_a_scheduler_here_or_behind_tls_is_accepted(address, monkeypatch):
    monkeypatch.setattr(cluster_room, "check_certificate", lambda scheduler: None)
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


@pytest.mark.parametrize(
    ("gpus", "visible", "asked", "places", "threads"),
    [
        (0, "", (1, 0), [""] * 8, "1"),
        (0, "", (1, 3), [""] * 3, "2"),
        (2, "", (1, 0), ["0", "1"], "4"),
        (2, "3,5", (2, 0), ["3", "5", "3", "5"], "2"),
        (2, "3,5", (1, 3), ["3", "5", "3"], "2"),
        (2, "3,5", (1, 1), ["3"], "8"),
    ],
)
def test_each_worker_has_a_gpu_or_its_share_of_the_cores(monkeypatch, gpus, visible, asked, places, threads):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(cluster_room, "CPU_COUNT", 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = slots(*asked)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == places
    assert {each["OMP_NUM_THREADS"] for each in found} == {each["MKL_NUM_THREADS"] for each in found} == {threads}


def test_tls_without_a_certificate_is_refused_and_says_where_it_is_looked_for(tmp_path):
    with pytest.raises(
        InputError, match="^scheduler='tls://127.0.0.1:1': tls needs DASK_DISTRIBUTED__COMM__TLS__CA_FILE,"
    ):
        sweep(runs_of(0), runs=str(tmp_path), scheduler="tls://127.0.0.1:1", log=lambda line: None)


def test_a_certificate_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "cert.pem").write_text("no certificate")
    os.mkfifo(tmp_path / "fifo.pem")
    for file in (*(tmp_path / f"{name}.pem" for name in ("nowhere", "cert", "fifo")), tmp_path, "a\0b"):
        parts = ("ca-file", "client.key", "client.cert")
        told = dask.config.set({f"distributed.comm.tls.{part}": str(file) for part in parts})
        with (
            told,
            pytest.raises(
                InputError, match="^scheduler='tls://127.0.0.1:1': tls needs DASK_.*CLIENT__CERT [(].* told are "
            ) as no,
        ):
            check_scheduler("tls://127.0.0.1:1", insecure=False)
        assert str(file) in str(no.value)


def test_a_scheduler_that_does_not_answer_is_named_in_one_line(tmp_path):
    soon = dask.config.set({"distributed.comm.timeouts.connect": "200ms"})
    with soon, pytest.raises(InputError, match="^scheduler='tcp://127.0.0.1:1': there is no answer"):
        sweep(runs_of(0), runs=str(tmp_path), scheduler="tcp://127.0.0.1:1", log=lambda line: None)


def test_a_process_that_was_forked_from_one_that_has_swept_refuses(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_room, "SWEPT", {os.getppid()})
    with pytest.raises(InputError, match="^a sweep cannot run in a process that was forked .*allowed: .*spawn$"):
        sweep(runs_of(0), runs=str(tmp_path), log=lambda line: None)


@pytest.fixture
def silent():
    """The address of a port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


class Other:
    scheduler_address = 5


@pytest.mark.timeout(60)
def test_what_is_no_scheduler_is_named_in_one_line(tmp_path, silent):
    soon = dask.config.set({"distributed.comm.timeouts.connect": "200ms"})
    others = ("tcp://user@127.0.0.1:1", "tcp://127.0.0.1:1/path?x", "TCP://127.0.0.1:1", " tcp://127.0.0.1:1", Other())
    with soon:
        for other in (silent, *others):
            with pytest.raises(InputError, match="^scheduler=.*: there is no answer from Dask [(].+[)]$"):
                sweep(runs_of(0), runs=str(tmp_path), scheduler=other, log=lambda line: None)
