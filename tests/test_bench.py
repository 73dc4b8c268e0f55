"""The benchmark of the layers compares what it says, and writes it down."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest
import torch

PATH = Path(__file__).resolve().parent.parent / "benchmarks" / "layers.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_layers", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def one_thread():
    """Two would wait for each other where others work on the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def parameters(layer):
    return sum(parameter.numel() for parameter in layer.parameters())


def test_all_layers_do_the_same_job_with_as_many_parameters(bench):
    layers = bench.contestants(64)
    x = torch.randn(2, 64, 4, 4)
    for (name, budget), layer in layers.items():
        y = layer(x)
        assert y.shape == x.shape and y.isfinite().all(), name
        if 0 < budget < 1 and not name.startswith("tntorch tucker"):  # whose core is a train of full rank
            allowed = 9 * 64 + budget * 64**2
            assert parameters(layer) == pytest.approx(allowed, rel=0.15), name


def test_both_tables_are_printed_and_written_with_the_machine(bench, tmp_path, monkeypatch, capsys):
    results = tmp_path / "made" / "results"
    for name, value in {"IMAGES": {32: 2}, "BATCH": 2, "THREADS": 1, "WARM_UP": 0, "RESULTS": results}.items():
        monkeypatch.setattr(bench, name, value)
    try:
        bench.main(rounds=2)
    finally:
        torch.set_flush_denormal(False)
    printed = capsys.readouterr().out
    layers, contraction = (pd.read_csv(results / f"{name}-{bench.machine()}.csv") for name in ("layers", "contraction"))
    assert all(layer in printed for layer in layers.layer) and "they break even at m = " in printed
    for table in (layers, contraction):
        assert set(table.machine) == {bench.machine()} and set(table.threads) == {1}
        assert (table.ratio > 0).all()
