"""Accuracies at random, as the records of several settings would hold them."""

import numpy as np
import pandas as pd

UNEQUAL_N = (3, 5, 4, 3)


def samples(sizes=UNEQUAL_N, gap=0.01, sd=0.01, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.normal(0.7 + gap * k, sd, n) for k, n in enumerate(sizes)]


def as_table(parts, **columns):
    rows = [{"form": k, "test_accuracy": value} for k, part in enumerate(parts) for value in part]
    return pd.DataFrame(rows).assign(**columns)
