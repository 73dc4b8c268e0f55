"""A registered format of one's own."""

import pytest

import lowrank

from .forms import Monarch


@pytest.fixture
def monarch(nothing_registered):
    lowrank.register("monarch", Monarch(blocks=4))
