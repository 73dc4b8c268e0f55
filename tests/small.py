"""Runs, networks and folded weights that are small enough for a test."""

from hypothesis import strategies as st

import lowrank
from lowrank.config import Config
from lowrank.formats import fold

SMALL = {"dataset": "digits", "width": 4, "batch_size": 256, "precision": "float32", "augment": True}
foldings = st.builds(
    fold,
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(2, 7),
    st.sampled_from([1, 9, 49]),
    st.sampled_from(["useful", "original"]),
)


def quiet(_: str) -> None:
    pass


def run(runs, log=quiet, **parameters):
    return lowrank.run(log=log, runs=str(runs), **{**SMALL, "epochs": 1, **parameters})


def networks(**parameters):
    config = Config(**{**SMALL, **parameters}).fitted(1500)
    return config, lowrank.build(config, classes=10)
