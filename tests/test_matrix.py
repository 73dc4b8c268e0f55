"""Whatever is asked for trains and is recorded, or is refused in one line."""

import itertools
import math
import re
from collections import Counter

import numpy as np
import pytest

import lowrank
from lowrank import experiment, files, initial, optimiser
from lowrank.config import DECOMPS, INGREDIENTS
from lowrank.data.dataset import assemble_data
from lowrank.errors import InputError
from lowrank.formats import PLAIN, uses_dims
from lowrank.layers import Decomposed

TINY = 1e-9
FORMS = [
    {"decomp": decomp, "dims": dims, "width": width}
    for decomp in DECOMPS
    for dims in (range(2, 10) if uses_dims(decomp) else [2, 5, 9])
    for width in [1, 2, 3, 8, 16]
]
OPTIONS = {
    "size": [{"rank_scale": TINY}, {"rank_scale": 1.0}, {"budget": 1.0}],
    "precision": ["float32", "bfloat16", "auto"],
    "decay": ["plain", "compression", "frobenius", "none"],
    "recipe": [{"recipe": "2018"}, *({"recipe": "fast", "without": each} for each in ["nothing", *INGREDIENTS])],
    "schedule": ["triangle", "cosine", "constant"],
    "init": ["random", "decompose", "decompose_rescaled"],
    "rank_rule": ["auto", "useful", "root", "uniform", "original"],
    "validation": [0.0, 0.5],
    "label_smoothing": [0.0, 0.99],
    "augment": [True, False],
}


def pairs(row):
    return list(itertools.combinations([(name, str(value)) for name, value in row.items()], 2))


def covering():
    """Every form with a value of every option, chosen so that each pair of values comes about as often as any other."""
    seen = Counter()
    for form in FORMS:
        row = dict(form)
        for name, values in OPTIONS.items():
            rows = [row | {name: value} for value in values]
            row = max(rows, key=lambda row: sum(1 / (1 + seen[pair]) for pair in pairs(row)))
        seen.update(pairs(row))
        yield row


def parameters_of(row):
    """As `lowrank.run` takes them."""
    size = {} if row["decomp"] in PLAIN else row["size"]
    return {name: row[name] for name in row if name != "size"} | size | row["recipe"]


@pytest.fixture
def networks(monkeypatch):
    """Those that are built, on a few images instead of any dataset.

    Nothing waits for git or the disk, and what repeats itself until it is good enough, at the start, hardly does.
    """
    built, build, draws = [], experiment.build, np.random.default_rng(0)
    train, test = (draws.integers(0, 256, (count, 3, 32, 32)) for count in (8, 4))
    data = assemble_data(train, np.arange(8) % 2, test, np.arange(4) % 2, "ab")
    monkeypatch.setattr(experiment, "load_data", lambda dataset, device: data)
    monkeypatch.setattr(experiment, "build", lambda *given: built.append(build(*given)) or built[-1])
    monkeypatch.setattr(experiment, "revision", lambda: "")
    monkeypatch.setattr(files, "flush", lambda *_: None)
    monkeypatch.setattr(optimiser, "SAMPLES", 1)
    descend = initial.descend
    monkeypatch.setattr(initial, "descend", lambda cores, loss, steps: descend(cores, loss, min(steps, 2)))
    return built


def run(runs, **parameters):
    """The record, or the line of a refusal."""
    try:
        return lowrank.run(lambda line: None, runs=str(runs), dataset="digits", epochs=1, batch_size=8, **parameters)
    except InputError as refusal:
        return str(refusal)


def test_every_form_trains_with_every_pair_of_options_and_its_record_counts_what_torch_counts(networks, tmp_path):
    trained = set()
    for row in covering():
        record = run(tmp_path / row["decomp"], **parameters_of(row))
        if isinstance(record, str):  # the ranks of 2019 end early
            assert row["rank_rule"] == "original" and re.fullmatch("budget=1.0: the largest .* or less", record), row
            continue
        network = networks[-1]
        cores = [core for layer in network.modules() if isinstance(layer, Decomposed) for core in layer.cores]
        assert record["status"] == "done" and record["parameters"] == count(network.parameters()), row
        assert row["decomp"] in PLAIN or record["pointwise_parameters"] == count(cores), row
        assert row["size"] != {"budget": 1.0} or row["decomp"] in PLAIN or record["compression"] <= 1, row
        losses = [value for name, value in record.items() if name.endswith("_loss")]
        assert len(losses) == 3 + (row["validation"] > 0) and all(map(math.isfinite, losses)), row
        trained.update(pairs(row))
    assert not every_pair() - trained


def every_pair():
    """Of all values; `dims` has fewer with forms that do not fold."""
    both = {pair for form in FORMS for pair in pairs(form)}
    values = {name: {form[name]: None for form in FORMS} for name in FORMS[0]} | OPTIONS
    for first, second in itertools.combinations(values, 2):
        if second in OPTIONS:
            both.update(((first, str(a)), (second, str(b))) for a in values[first] for b in values[second])
    return both


def count(parameters):
    return sum(parameter.numel() for parameter in parameters)


def test_a_size_that_no_rank_makes_is_refused_in_one_line(networks, tmp_path):
    for form in FORMS:
        plain = form["decomp"] in PLAIN
        for size in [{"budget": TINY}, *[{"rank_scale": TINY}] * plain]:
            line = run(tmp_path, **form, **size)
            assert isinstance(line, str) and line.startswith(f"{next(iter(size))}=1e-09: ") and "allowed" in line
            assert "\n" not in line
    assert not list(tmp_path.iterdir())
