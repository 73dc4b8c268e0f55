"""The fingerprint of a record stands for what the code computes."""

from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

import lowrank
from lowrank.fingerprint import REFERENCE, code_fingerprint
from lowrank.sweeps.studies import each, grid

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


def train_cases() -> pd.DataFrame:
    """A row for each of CASES: its parameters in words, and its losses."""
    rows = []
    for case in CASES:
        with TemporaryDirectory() as runs:
            record = lowrank.run(log=lambda _: None, runs=runs, **SMALL | GENTLE | case)
        words = " ".join(f"{name}={value}" for name, value in case.items())
        rows.append({"case": words} | {name: record[name] for name in TOLERANCES})
    return pd.DataFrame(rows)


def test_the_code_computes_the_losses_that_its_fingerprint_stands_for():
    """Else its results cannot be compared with those recorded before: `python tests/test_fingerprint.py` says so."""
    kept, found = pd.read_csv(REFERENCE), train_cases()
    assert found.case.tolist() == kept.case.tolist()
    for loss, tolerance in TOLERANCES.items():
        apart = (found[loss] - kept[loss]).abs()
        assert apart.max() < tolerance, f"{loss} of {found.case[apart.idxmax()]}"


def test_every_option_shows_in_the_losses_that_the_fingerprint_stands_for():
    kept = pd.read_csv(REFERENCE)
    scaled = kept[list(TOLERANCES)] / pd.Series(TOLERANCES)
    for k in range(len(kept)):
        apart = (scaled.drop(index=k) - scaled.loc[k]).abs().max(axis=1)
        assert apart.min() > 0.5, f"{kept.case[k]} is not told from {kept.case[apart.idxmin()]}"


def test_code_that_differs_from_its_revision_has_no_fingerprint_of_its_own():
    assert code_fingerprint("abc+dirty") == code_fingerprint("abc") + "+dirty"


if __name__ == "__main__":
    train_cases().to_csv(REFERENCE, index=False, float_format="%.7g")
