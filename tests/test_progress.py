"""What a person sees of a run and of a sweep: what is done, and the time left at the speed so far."""

from importlib import import_module

from lowrank.progress import in_notebook


def test_a_program_that_imports_ipykernel_is_no_notebook():
    import_module("ipykernel.kernelapp")
    assert not in_notebook()
