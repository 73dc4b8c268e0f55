"""Runs and networks that are small enough for a test."""

import lowrank
from lowrank.config import Config

SMALL = {"dataset": "digits", "width": 4, "batch_size": 256, "precision": "float32", "augment": True}


def quiet(_: str) -> None:
    pass


def run(runs, log=quiet, **parameters):
    return lowrank.run(log=log, runs=str(runs), **{**SMALL, "epochs": 1, **parameters})


def networks(**parameters):
    config = Config(**{**SMALL, **parameters}).fitted(1500)
    return config, lowrank.build(config, classes=10)
