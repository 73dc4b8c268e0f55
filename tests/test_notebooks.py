"""The notebooks as people run them: through papermill, with good and bad parameters."""

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest
from papermill import PapermillExecutionError

from lowrank.config import Config

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["-p", "dataset", "digits", "-p", "width", "4", "-p", "epochs", "2", "-p", "batch_size", "256"]


def papermill(notebook, output, *parameters, folder=ROOT):
    command = [sys.executable, "-m", "papermill", str(ROOT / "notebooks" / notebook), str(output), *parameters]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def outputs(notebook: Path) -> list[dict]:
    return [output for cell in json.loads(notebook.read_text())["cells"] for output in cell.get("outputs", [])]


def test_the_parameters_cell_is_config_word_for_word():
    cells = json.loads((ROOT / "notebooks" / "train.ipynb").read_text())["cells"]
    (cell,) = (cell for cell in cells if "parameters" in cell["metadata"].get("tags", []))
    stated = [line.split("  # ") for line in "".join(cell["source"]).splitlines()]
    assert [doc for _, doc in stated] == [each.metadata["doc"] for each in fields(Config)]
    assert not any("=" in doc for _, doc in stated), "papermill --help-notebook drops comments with ="
    namespace = {}
    exec("\n".join(line for line, _ in stated), namespace)
    assert {name: namespace[name] for name in namespace["__annotations__"]} == {
        each.name: each.default for each in fields(Config)
    }
    assert {name: kind.__name__ for name, kind in namespace["__annotations__"].items()} == {
        each.name: each.metadata["kinds"][0].__name__ for each in fields(Config)
    }


def test_train_leaves_a_row_a_picture_and_a_quiet_notebook(tmp_path):
    runs, output = tmp_path / "runs", tmp_path / "out.ipynb"
    parameters = [*SMALL, "-p", "decomp", "tucker", "-p", "budget", "0.3", "-p", "runs", str(runs)]
    done = papermill("train.ipynb", output, *parameters, folder=ROOT / "notebooks")
    assert done.returncode == 0, done.stderr
    (row,) = pd.read_csv(runs / "results.csv").to_dict("records")
    assert (row["decomp"], row["dims"], row["epochs"], row["status"]) == ("tucker", 3, 2, "done")
    assert 0.25 < row["compression"] <= 0.3
    assert (runs / row["run"] / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(pd.read_csv(runs / row["run"] / "history.csv")) == 2
    shown = outputs(output)
    assert sum("image/png" in each.get("data", {}) for each in shown) == 1
    assert not [each for each in shown if each.get("name") == "stderr"]
    text = "".join("".join(each.get("text", "")) for each in shown)
    assert text.count("\nepoch ") == 2 and "%|" not in text
    assert str(ROOT) not in json.dumps(shown) and str(Path.home()) not in json.dumps(shown)


def check_failed_notebook(folder: Path, line: str) -> None:
    """It holds one line as error, and stands alone."""
    assert [path.name for path in folder.iterdir()] == ["out.ipynb"]
    (error,) = (each for each in outputs(folder / "out.ipynb") if each["output_type"] == "error")
    assert len(error["traceback"]) == 1 and line in error["traceback"][0]


def test_a_refusal_is_one_line_exit_1_and_nothing_but_the_failed_notebook(tmp_path):
    line = "InputError: weight_decay='5e-4' is of type str; allowed: float"
    parameters = [*SMALL, "-p", "runs", str(tmp_path / "runs"), "-y", "{weight_decay: 5e-4}"]
    done = papermill("train.ipynb", tmp_path / "out.ipynb", *parameters)
    assert done.returncode == 1
    assert line in done.stderr
    check_failed_notebook(tmp_path, line)


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        ({"dimz": 3}, "InputError: dimz=3: there is no such parameter; did you mean dims?"),
        ({"budget": 0.001}, "InputError: budget=0.001: the smallest tt"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(execute, tmp_path, parameters, line):
    asked = {"dataset": "digits", "runs": str(tmp_path / "runs")} | parameters
    with pytest.raises(PapermillExecutionError, match=re.escape(line)):
        execute(ROOT / "notebooks" / "train.ipynb", tmp_path / "out.ipynb", cwd=ROOT, **asked)
    check_failed_notebook(tmp_path, line)


def test_a_network_of_torchvision_on_a_folder_of_images_becomes_smaller(execute, tmp_path):
    output, asked = tmp_path / "out.ipynb", {"steps": 1, "decomp": "bottleneck", "budget": 0.2}
    execute(ROOT / "notebooks" / "compress-your-own.ipynb", output, cwd=tmp_path, **asked)
    shown = outputs(output)
    assert not [each for each in shown if each.get("name") == "stderr"]
    assert sum("image/png" in each.get("data", {}) for each in shown) == 1
    tables = ["".join(each["data"]["text/html"]) for each in shown if "text/html" in each.get("data", {})]
    counts = re.findall(r">([\d,]+)</td>", tables[-1])  # the column of parameters
    trained, decomposed, trained_on = (int(count.replace(",", "")) for count in counts)
    assert decomposed == trained_on < 0.21 * trained
    assert list(tmp_path.iterdir()) == [output], "images that it made stay nowhere"


@pytest.mark.parametrize("notebook", sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb")))
def test_notebooks_are_committed_without_outputs_and_name_the_kernel(notebook):
    content = json.loads((ROOT / "notebooks" / notebook).read_text())
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in content["cells"])
