"""What a record says is shown as it is written, wherever it goes: it is data, and some come from strangers."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from typing import Any


def as_text(value: Any) -> str:
    """The value for HTML and for Markdown: every character that means something there is written as its number."""
    return re.sub(r"[^\w .,;+/%()-]|_", lambda found: f"&#{ord(found.group())};", str(value))


def as_label(value: Any) -> str:
    """The value for a picture: matplotlib would read what stands between dollar signs as a formula."""
    return str(value).replace("$", r"\$")


def how_many(number: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{number} {noun}{'s' * (number != 1)}"


def html_table(rows: Mapping[str, Iterable[Any]]) -> str:
    """A row for each name, with its cells: what a notebook shows of an object."""
    lines = []
    for name, cells in rows.items():
        texts = "".join(f"<td style='text-align: left'>{html.escape(str(cell))}</td>" for cell in cells)
        lines.append(f"<tr><th style='text-align: left'>{html.escape(name)}</th>{texts}</tr>")
    return f"<table>{''.join(lines)}</table>"
