"""Where the figures of the benchmarks go, and what they depend on besides what is measured."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """The processor's name and instruction set, fit for a file's: hosts hide the model behind one name for all."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.*)$", info.read_text(), re.MULTILINE) if info.exists() else None
    name = found[1] if found else platform.processor() or platform.machine()
    described = f"{name} {torch.backends.cpu.get_cpu_capability()}"
    return re.sub(r"[^a-z0-9]+", "-", described.lower()).strip("-")


def store(table: pd.DataFrame, name: str, packages: tuple[str, ...], **setting: object) -> None:
    """The table as results/<name>-<machine>.csv, with the setting, the machine and the versions as columns."""
    host = {"machine": machine(), "load": round(os.getloadavg()[0], 1), "python": platform.python_version()}
    versions = {package.replace("-", "_"): version(package) for package in packages}
    path = RESULTS / f"{name}-{machine()}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    table.assign(**setting, **host, **versions).to_csv(path, index=False, float_format="%.4f")
    print(f"\nbenchmarks/results/{path.name} holds this table.\n")
