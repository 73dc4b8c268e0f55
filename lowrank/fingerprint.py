"""A fingerprint of what the training code computes: records that share it may be compared, whatever their revision.

reference.csv holds the losses of short runs, at least one for every option that changes a result, and its hash is the
fingerprint. tests/test_fingerprint.py trains them again: a change that moves or renames code keeps the fingerprint,
one that changes a loss fails there until

    python -m lowrank.fingerprint

writes the new losses, and with them a new fingerprint. bfloat16 is left out, as processors round it differently.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from .sweeps.studies import each, grid

REFERENCE = Path(__file__).with_name("reference.csv")
# How far losses may lie apart on another processor. An option changes more: with test losses, which have hardly moved
# from ln 10 after three steps, little is a lot.
TOLERANCES = {"train_loss": 2e-4, "test_loss": 5e-6, "fit_loss": 5e-6}
SMALL = {"dataset": "digits", "width": 4, "epochs": 1, "batch_size": 448, "rank_rule": "useful"}
# A fast rate would blow the last bit up, within ten steps, to more than an option changes.
GENTLE = {"learning_rate": 0.1, "precision": "float32", "augment": True}
FOLDED = ["tt", "tucker", "tucker_tt", "cp", "ring"]
DECAYS = ["plain", "compression", "frobenius", "none"]
CASES: list[dict[str, Any]] = [
    *grid(decomp=["dense", "separable", "bottleneck"], recipe=["2018", "fast"]),
    *grid(decomp=FOLDED, dims=[3, 5], recipe=["2018"]),
    *grid(decomp=FOLDED, dims=[2, 4], recipe=["fast"]),
    *grid(decomp=FOLDED, rank_rule=["root", "uniform"], budget=[0.5]),
    *grid(decomp=FOLDED, rank_rule=["original"], rank_scale=[0.5], init=["decompose"]),
    *each([{"decomp": "tt", "budget": 0.2}], *grid(decay=DECAYS, weight_decay=[1.0])),
    *each([{"decomp": "separable"}], *grid(schedule=["cosine", "constant"]), {"momentum": 0.5}, {"learning_rate": 0.2}),
    *each([{"decomp": "separable"}], {"label_smoothing": 0.1}, {"augment": False}, {"validation": 0.1}, {"seed": 1}),
]


def code_fingerprint(revision: str = "") -> str:
    """12 hex digits, and "+dirty" if the revision says that the code is not the one that was tested."""
    return reference_hash() + ("+dirty" if revision.endswith("+dirty") else "")


@cache
def reference_hash() -> str:
    return hashlib.sha256(REFERENCE.read_bytes()).hexdigest()[:12]


def train_cases() -> pd.DataFrame:
    """A row for each of CASES: its parameters in words, and its losses."""
    from .experiment import run  # which names its code by the hash of what this makes

    rows = []
    for case in CASES:
        with TemporaryDirectory() as runs:
            record = run(log=lambda _: None, runs=runs, **SMALL | GENTLE | case)
        words = " ".join(f"{name}={value}" for name, value in case.items())
        rows.append({"case": words} | {name: record[name] for name in TOLERANCES})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    train_cases().to_csv(REFERENCE, index=False, float_format="%.7g")
