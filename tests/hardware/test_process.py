"""What a process that trains asks for: no denormal numbers, and memory that is kept instead of asked for anew."""

import platform
import resource
from statistics import median

import pytest
import torch

from lowrank.hardware import process
from lowrank.hardware.process import best_device, tune_process


def count_faults(action) -> int:
    """The pages that the system has to find meanwhile."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    action()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_that_was_given_back_is_taken_again_without_page_faults():
    tune_process()
    pages = 2**25 // resource.getpagesize()  # of 32 MiB
    faults = [count_faults(lambda: torch.ones(2**23)) for _ in range(9)]
    assert median(faults) < pages / 10, faults  # the first of them, and some that find their place taken, are new


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor rounds none")
def test_denormal_numbers_become_zero():
    torch.set_flush_denormal(False)  # as a process begins
    tiny = torch.tensor([1e-39])
    assert (tiny * 0.5).item() > 0
    tune_process()
    try:
        assert (tiny * 0.5).item() == 0
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize(("there", "kind"), [(True, "cuda"), (False, "cpu")])
def test_the_best_device_is_a_gpu_if_there_is_one(monkeypatch, there, kind):
    monkeypatch.setattr(process.torch.cuda, "is_available", lambda: there)
    assert best_device() == torch.device(kind)
