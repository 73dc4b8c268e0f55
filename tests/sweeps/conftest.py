"""Data that takes no time to read."""

import pytest
from trials import pixels

from lowrank.sweeps import plan


@pytest.fixture
def data_without_loading(monkeypatch):
    monkeypatch.setattr(plan, "read_data", pixels)
