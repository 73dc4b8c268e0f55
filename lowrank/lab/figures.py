"""Executes the analysis notebooks from the committed records: figures/, ready to be shared.

    python -m lowrank.lab.figures          figures/<notebook>.ipynb, its pictures as PNG, PDF and SVG, and index.html

A shared notebook holds static pictures and text: no warnings, no widgets, no scripts, nothing of this machine.
"""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
import papermill
from jupyter_client import AsyncKernelManager
from jupyter_client.utils import run_sync
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from ..paths import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[1-9]*-*.ipynb"), key=lambda path: int(path.stem.partition("-")[0]))
ENDINGS = {"image/png": "png", "application/pdf": "pdf", "image/svg+xml": "svg"}
FRESH = "get_ipython().reset(); __import__('os').chdir({cwd!r})"
KERNEL = "c.InlineBackend.figure_formats = {'png', 'pdf', 'svg'}\n"
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>lowrank: questions and answers</title>
<style>
:root {{ --text: #222; --page: #FFF; --faint: #666; --edge: #DDD; --link: #0072B2 }}
@media (prefers-color-scheme: dark) {{
  :root {{ --text: #DDD; --page: #161616; --faint: #999; --edge: #3A3A3A; --link: #7CC4F0 }}
  img {{ filter: brightness(.88) }}
}}
body {{ max-width: 62rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 sans-serif; overflow-wrap: break-word }}
body {{ color: var(--text); background: var(--page) }}
a {{ color: var(--link) }}
h1 {{ font-size: 1.6rem; line-height: 1.25 }}
h2 {{ font-size: 1.1rem; margin: 0 0 .5rem }}
.faint {{ color: var(--faint); font-size: .875rem }}
section {{ border-top: 1px solid var(--edge); padding: 1rem 0 }}
section p {{ margin: .5rem 0 }}
.pictures {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(17rem, 45%), 1fr)) }}
figure {{ margin: 0 }}
img {{ width: 100%; aspect-ratio: 8 / 5; object-fit: contain; background: #FFF; border: 1px solid var(--edge) }}
</style>
<h1>How accurate does a network stay when its weights are tensor decompositions?</h1>
<p class="faint">From the project <a href="../README.md">lowrank</a>. A picture opens in full when it is clicked.</p>
{answers}
<section><h2>Pictures</h2>
<div class="pictures">
{thumbnails}
</div></section>
</html>
"""
ORIGIN = "*From the project [lowrank](../README.md): [{name}](../notebooks/{name}.ipynb), executed on its records.*"


def main() -> None:
    folder = ROOT / "figures"
    with drawing_kernel() as kernel:
        shared = {notebook.stem: execute(kernel, notebook, folder) for notebook in NOTEBOOKS}
    (folder / "index.html").write_text(page(shared))
    print(f"{len(shared)} notebooks, their pictures and index.html are in figures/")


@contextmanager
def drawing_kernel() -> Iterator[AsyncKernelManager]:
    """A running kernel that shows every picture in three formats, none of which carries a date."""
    with TemporaryDirectory() as scratch:
        config = Path(scratch, "profile_default", "ipython_kernel_config.py")
        config.parent.mkdir()
        config.write_text(KERNEL)
        with running_kernel(IPYTHONDIR=scratch, SOURCE_DATE_EPOCH="0") as kernel:
            yield kernel


@contextmanager
def running_kernel(**variables: str) -> Iterator[AsyncKernelManager]:
    """A kernel for one notebook after another, with these environment variables: each of its own imports torch anew."""
    kernel = AsyncKernelManager(kernel_name="python3")
    with environment(**variables):
        run_sync(kernel.start_kernel)(extra_arguments=["--HistoryManager.hist_file=:memory:"])
    try:
        yield kernel
    finally:
        run_sync(kernel.shutdown_kernel)(now=True)


def run_notebook(kernel: AsyncKernelManager, notebook: Path, executed: Path, cwd: Path, **parameters: Any) -> None:
    """Execute a notebook into the file `executed`, without the variables that others have left in the kernel.

    Raises papermill.PapermillExecutionError if a cell raises.
    """
    client = kernel.client()
    client.start_channels()
    run_sync(client.wait_for_ready)()
    run_sync(client.execute_interactive)(FRESH.format(cwd=str(cwd)), silent=True)
    client.stop_channels()
    papermill.execute_notebook(notebook, executed, parameters, progress_bar=False, km=kernel)


def execute(kernel: AsyncKernelManager, notebook: Path, folder: Path, **parameters: Any) -> nbformat.NotebookNode:
    """Execute a notebook into `folder`, its pictures beside it in three formats; returns what is shared."""
    with TemporaryDirectory() as scratch:
        executed = Path(scratch, notebook.name)
        run_notebook(kernel, notebook, executed, notebook.parent, **parameters)
        shared = clean_notebook(nbformat.read(executed, as_version=4))
    shared.cells[0].source += "\n\n" + ORIGIN.format(name=notebook.stem)
    folder.mkdir(exist_ok=True)
    keep_pictures(shared, folder, notebook.stem)
    nbformat.write(shared, folder / notebook.name)
    return shared


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Environment variables for the processes that start meanwhile."""
    before = dict(os.environ)
    os.environ |= variables
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before


def clean_notebook(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without what papermill and the kernel note of this machine and this day."""
    notebook.metadata = {name: notebook.metadata[name] for name in ("kernelspec", "language_info")}
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def pictures(notebook: nbformat.NotebookNode) -> list[Mapping[str, Any]]:
    """The data of every output that is a picture."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output.data for output in outputs if "image/png" in output.get("data", {})]


def keep_pictures(notebook: nbformat.NotebookNode, folder: Path, name: str) -> None:
    """Each picture as three files; in the notebook only its PNG stays."""
    for old in folder.glob(f"{name}-*"):
        old.unlink()
    for number, data in enumerate(pictures(notebook), start=1):
        for kind, ending in ENDINGS.items():
            content = data[kind] if kind == "image/png" else data.pop(kind)
            file = folder / f"{name}-{number}.{ending}"
            file.write_bytes(content.encode() if ending == "svg" else base64.b64decode(content))


def page(shared: Mapping[str, nbformat.NotebookNode]) -> str:
    """Every question with its answer, then all pictures, small."""
    answers = [section(name, notebook) for name, notebook in shared.items()]
    return PAGE.format(answers="\n".join(answers), thumbnails="\n".join(thumbnails(shared)))


def section(name: str, notebook: nbformat.NotebookNode) -> str:
    """A question, its answer, and the way to its pictures and its notebook."""
    links = [f'<a href="{name}.ipynb">the notebook</a>']
    if pictures(notebook):
        links.insert(0, f'<a href="#{name}">its pictures</a>')
    return (
        f"<section><h2>{html.escape(question(notebook))}</h2>\n{as_html(answer(notebook))}"
        f'<p class="faint">{" · ".join(links)}</p></section>'
    )


def thumbnails(shared: Mapping[str, nbformat.NotebookNode]) -> Iterator[str]:
    """Each picture, small: a click opens it."""
    for name, notebook in shared.items():
        for number, heading in enumerate(headings(notebook), start=1):
            image, text = f"{name}-{number}", html.escape(f"{question(notebook)} {number}: {heading}")
            anchor = f' id="{name}"' if number == 1 else ""
            small = f'<img src="{image}.png" alt="{text}" loading="lazy">'
            said = f'{text} <a href="{image}.svg">SVG</a> <a href="{image}.pdf">PDF</a>'
            said = f'<figcaption class="faint">{said}</figcaption>'
            yield f'<figure{anchor}><a href="{image}.png">{small}</a>{said}</figure>'


def as_html(markdown: str) -> str:
    """Markdown as HTML; HTML inside of it, such as a record may hold, stays text."""
    return MarkdownWithMath(renderer=IPythonRenderer(escape=True)).render(markdown)


def first_line(cell: nbformat.NotebookNode) -> str:
    """The heading that a cell begins with, as plain text."""
    return cell.source.partition("\n")[0].lstrip("# ").replace("`", "")


def question(notebook: nbformat.NotebookNode) -> str:
    """The heading of a notebook."""
    return first_line(notebook.cells[0])


def headings(notebook: nbformat.NotebookNode) -> list[str]:
    """The heading above each picture."""
    found, heading = [], ""
    for cell in notebook.cells:
        heading = first_line(cell) if cell.cell_type == "markdown" and cell.source.startswith("#") else heading
        found += [heading for _ in pictures(nbformat.from_dict({"cells": [cell]}))]
    return found


def answer(notebook: nbformat.NotebookNode) -> str:
    """The first sentence that a notebook computes."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return next(output.data["text/markdown"] for output in outputs if "text/markdown" in output.get("data", {}))


if __name__ == "__main__":
    main()
