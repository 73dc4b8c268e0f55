"""Accuracies at random, as the records of several settings would hold them, and whole records of one."""

from dataclasses import asdict

import numpy as np
import pandas as pd

from lowrank.config import Config

UNEQUAL_N = (3, 5, 4, 3)


def samples(sizes=UNEQUAL_N, gap=0.01, sd=0.01, seed=4):  # seeds 4 and 5 scatter alike in all settings
    rng = np.random.default_rng(seed)
    return [rng.normal(0.7 + gap * k, sd, n) for k, n in enumerate(sizes)]


def as_table(parts, **columns):
    rows = [{"form": k, "test_accuracy": value} for k, part in enumerate(parts) for value in part]
    return pd.DataFrame(rows).assign(**columns)


def runs(accuracies, parameters=10_000, code="abc", data="f00", **settings):
    """Records of one setting, a seed each."""
    return pd.DataFrame(
        asdict(Config(dataset="digits", seed=seed, **settings).fitted(1500))
        | {"parameters": parameters, "test_accuracy": accuracy, "code": code, "revision": "abc", "data": data}
        for seed, accuracy in enumerate(accuracies)
    )
