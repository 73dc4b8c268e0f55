"""A fingerprint of what the training code computes: records that share it may be compared, whatever their revision.

reference.csv holds the losses of short runs, at least one for every option that changes a result, and its hash is the
fingerprint. tests/test_fingerprint.py trains them again: a change that moves or renames code keeps the fingerprint,
one that changes a loss fails there until

    python tests/test_fingerprint.py

writes the new losses, and with them a new fingerprint. bfloat16 is left out, as processors round it differently.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

REFERENCE = Path(__file__).with_name("reference.csv")


def code_fingerprint(revision: str = "") -> str:
    """12 hex digits, and "+dirty" if the revision says that the code is not the one that was tested."""
    return reference_hash() + ("+dirty" if revision.endswith("+dirty") else "")


@cache
def reference_hash() -> str:
    return hashlib.sha256(REFERENCE.read_bytes()).hexdigest()[:12]
