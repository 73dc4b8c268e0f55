"""Executes the analysis notebooks from the committed records: figures/, ready to be shared.

    python -m lowrank.figures          figures/<notebook>.ipynb, its pictures as PNG, PDF and SVG, and index.html

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
from nbconvert.filters import markdown2html

from .paths import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]-*.ipynb"))[1:]  # 0-start-here trains
FORMATS = {"image/png": "png", "application/pdf": "pdf", "image/svg+xml": "svg"}
KERNEL = "c.InlineBackend.figure_formats = {'png', 'pdf', 'svg'}\n"
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>lowrank</title>
<style>
body {{ max-width: 50rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 sans-serif }}
body {{ color: #222; background: white }} a {{ color: #0072B2 }}
img {{ width: 100% }} section {{ margin-top: 4rem }}
</style>
<h1>How accurate does a network stay when its weights are tensor decompositions?</h1>
{sections}
</html>
"""


def main() -> None:
    folder = ROOT / "figures"
    shared = {notebook.stem: execute(notebook, folder) for notebook in NOTEBOOKS}
    (folder / "index.html").write_text(page(shared, folder))
    print(f"{len(shared)} notebooks, their pictures and index.html are in figures/")


def execute(notebook: Path, folder: Path, **parameters: Any) -> nbformat.NotebookNode:
    """Execute a notebook into `folder`, its pictures beside it in three formats; returns what is shared."""
    with TemporaryDirectory() as scratch:
        config = Path(scratch, "profile_default", "ipython_kernel_config.py")
        config.parent.mkdir()
        config.write_text(KERNEL)
        executed = Path(scratch, notebook.name)
        with environment(IPYTHONDIR=scratch, SOURCE_DATE_EPOCH="0"):  # pictures carry no date
            papermill.execute_notebook(notebook, executed, parameters, progress_bar=False, cwd=notebook.parent)
        shared = cleaned(nbformat.read(executed, as_version=4))
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


def cleaned(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
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
        for kind, ending in FORMATS.items():
            content = data[kind] if kind == "image/png" else data.pop(kind)
            file = folder / f"{name}-{number}.{ending}"
            file.write_bytes(content.encode() if ending == "svg" else base64.b64decode(content))


def page(shared: Mapping[str, nbformat.NotebookNode], folder: Path) -> str:
    return PAGE.format(sections="\n".join(section(name, notebook) for name, notebook in shared.items()))


def section(name: str, notebook: nbformat.NotebookNode) -> str:
    """A question, its answer and its pictures; no tag that the answer holds is one."""
    question = notebook.cells[0].source.lstrip("# ")
    lines = [f"<section><h2>{html.escape(question)}</h2>", markdown2html(answer(notebook).replace("<", "&lt;"))]
    for number in range(1, len(pictures(notebook)) + 1):
        image, text = f"{name}-{number}", f"{html.escape(question)} Figure {number}"
        lines.append(f'<a href="{image}.pdf"><img src="{image}.png" alt="{text}"></a>')
    return "\n".join([*lines, f'<p><a href="{name}.ipynb">the notebook</a></p></section>'])


def answer(notebook: nbformat.NotebookNode) -> str:
    """The first sentence that a notebook computes."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return next(output.data["text/markdown"] for output in outputs if "text/markdown" in output.get("data", {}))


if __name__ == "__main__":
    main()
