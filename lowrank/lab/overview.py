"""The table of runs as somebody looks for them: one's own first, then the best published one of each form."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from IPython.display import HTML
from itables.widget import ITable

from ..files import CLAIM
from ..formats import uses_dims
from ..paths import runs_folder
from ..records import SHOWN_AS, results
from .controls import at_controls

YOURS, BEST = "yours", "best of form"
SHOWN_FIRST = [
    "whose", "run", "test_accuracy", "decomp", "dims", "budget", "rank_scale", "parameters", "dataset", "width",
    "epochs", "batch_size", "seed",
]  # fmt: skip
WORDS = {"search": "Filter:", "info": "_START_ to _END_ of _TOTAL_ runs", "lengthMenu": "_MENU_ rows"}
FIT = {"scrollX": True, "style": "font-size: 0.8em", "text_in_header_can_be_selected": False}  # a click sorts


def list_claimed(runs: str | Path) -> set[str]:
    """The runs that were trained for this folder: their claim stays beside the record, and is not committed."""
    return {path.parent.name for path in runs_folder(runs).glob(f"*/{CLAIM}")}


def order_runs(table: pd.DataFrame, yours: set[str]) -> pd.DataFrame:
    """One's own runs, the newest first, then the most accurate published one of each form, then all others.

    Runs that go on from a trained network are not the best of their form, as they had its epochs before their own.
    A column `whose` is added, which says to which of the three a run belongs.
    """
    own = table[table["run"].isin(yours)].sort_values("started", ascending=False)
    ranked = table[~table["run"].isin(yours)].sort_values("test_accuracy", ascending=False)
    best = ranked[ranked.start.fillna("") == ""].drop_duplicates("decomp")
    parts = {YOURS: own, BEST: best, "": ranked[~ranked["run"].isin(best["run"])]}
    return pd.concat([part.assign(whose=whose) for whose, part in parts.items()], ignore_index=True)


def write_cells(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of an ordered table that tell runs apart, as people read them; blank if one does not apply.

    A column that would be blank all the way down is left out.
    """
    frame = pd.DataFrame(table[SHOWN_FIRST]).astype(object)
    for name in ("test_accuracy", "parameters"):
        frame[name] = table[name].map(SHOWN_AS[name], na_action="ignore")
    frame["test_accuracy"] = frame.test_accuracy.fillna(table.status)  # diverged, failed
    frame["dims"] = frame.dims.mask(~table.decomp.map(uses_dims), "")
    for name in ("budget", "rank_scale"):
        frame[name] = frame[name].mask(table[name] == 0, "")
    return frame.fillna("").loc[:, lambda frame: (frame != "").any()]


def show_runs(runs: str | Path = "runs") -> ITable | HTML:
    """The table of runs: in a live notebook all of them, to sort and to filter, elsewhere those that come first."""
    table = order_runs(results(runs), list_claimed(runs))
    frame = write_cells(table)
    if at_controls():
        return ITable(frame, showIndex=False, language=WORDS, order=[], lengthMenu=[10, 25, 100], **FIT)
    first = frame[table.whose != ""]
    rest = f"<p>and {len(frame) - len(first)} more in lowrank.results()</p>" if len(first) < len(frame) else ""
    return HTML(first.to_html(index=False) + rest)
