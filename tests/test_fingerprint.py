"""The fingerprint of a record stands for what the code computes."""

import pandas as pd

from lowrank import fingerprint


def test_the_code_computes_the_losses_that_its_fingerprint_stands_for():
    """Else its results cannot be compared with those recorded before: `python -m lowrank.fingerprint` says so."""
    kept, found = pd.read_csv(fingerprint.REFERENCE), fingerprint.train_cases()
    assert found.case.tolist() == kept.case.tolist()
    for loss, tolerance in fingerprint.TOLERANCES.items():
        apart = (found[loss] - kept[loss]).abs()
        assert apart.max() < tolerance, f"{loss} of {found.case[apart.idxmax()]}"


def test_every_option_shows_in_the_losses_that_the_fingerprint_stands_for():
    kept = pd.read_csv(fingerprint.REFERENCE)
    scaled = kept[list(fingerprint.TOLERANCES)] / pd.Series(fingerprint.TOLERANCES)
    for k in range(len(kept)):
        apart = (scaled.drop(index=k) - scaled.loc[k]).abs().max(axis=1)
        assert apart.min() > 0.5, f"{kept.case[k]} is not told from {kept.case[apart.idxmin()]}"


def test_code_that_differs_from_its_revision_has_no_fingerprint_of_its_own():
    assert fingerprint.code_fingerprint("abc+dirty") == fingerprint.code_fingerprint("abc") + "+dirty"
