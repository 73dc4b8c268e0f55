"""Evidence grows: what belongs to a study counts, whoever ran it, and what does not is named."""

import base64
import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

import lowrank
from lowrank.config import Config
from lowrank.lab import analysis
from lowrank.sweeps.plan import plan_runs
from lowrank.sweeps.studies import STUDIES

STUDY = "cp"  # of 4 settings with 2 seeds at the scale `smoke`


def made_up(run, **measured):
    """A record of one run of a study, as the table holds it."""
    config = Config.of(run).fitted(1500)
    accuracy = 0.5 + 0.01 * config.dims + 0.001 * config.seed
    row = asdict(config) | {"run": config.run_id("pixels"), "status": "done", "test_accuracy": accuracy}
    sizes = {"seconds": 36.0, "parameters": 1000, "multiply_adds": 5000, "test_loss": 1.0}
    source = {"data": "f00", "code": "c0de", "revision": "abc", "torch": "2.11", "device": "cpu"}
    return row | sizes | source | measured


def table_of(study=STUDY, scale="smoke", seeds=0, **measured):
    return pd.DataFrame(made_up(run, **measured) for run in plan_runs(study, scale, seeds))


def joined(*tables):
    return pd.concat(tables, ignore_index=True)


def test_a_setting_counts_once_it_has_all_its_seeds():
    table = table_of()
    whole = analysis.evidence(table, STUDY)
    assert (whole.scale, whole.settings, whole.missing, whole.found, len(whole.table)) == ("smoke", 4, 0, 8, 8)
    part = analysis.evidence(table.drop(index=0), STUDY)
    assert (part.missing, len(part.table)) == (1, 6)
    assert "1 of 4 settings have not all their seeds yet" in part.method()


@pytest.mark.parametrize("rows", [0, 1])
def test_a_study_without_a_whole_setting_says_what_is_missing_and_raises_nothing(rows):
    table = table_of().iloc[:rows] if rows else table_of().iloc[:0]
    none = analysis.evidence(table, STUDY, scale="smoke")
    assert not none and none.table.empty and none.missing == 4
    assert f"Not answered yet: {rows} of 8 runs" in none.gap


def test_every_study_at_every_scale_tolerates_an_empty_table():
    empty = table_of().iloc[:0]
    for study in STUDIES:
        assert not analysis.evidence(empty, study)
        assert analysis.evidence(empty, study).scale == "cpu"


def test_more_seeds_than_asked_are_used():
    found = analysis.evidence(table_of(seeds=5), STUDY)
    assert len(found.table) == 20 and found.found == 20 and found.looks == analysis.LOOKS
    assert "looks (Bonferroni)" in found.method()
    assert analysis.evidence(table_of(seeds=3), STUDY).looks == 1


def test_runs_of_another_revision_count_if_code_and_data_are_the_same():
    table = table_of()
    table.loc[::2, "revision"] = "another"
    assert len(analysis.evidence(table, STUDY).table) == 8


@pytest.mark.parametrize("source", [{"code": "other"}, {"code": "c0de+dirty"}, {"data": "other"}, {"code": ""}])
def test_other_code_or_data_is_left_out_and_said_unless_asked_for(source):
    ours = table_of()
    table = joined(ours, table_of().assign(**source, test_accuracy=0.0).query("dims == 2"))
    found = analysis.evidence(table, STUDY)
    assert len(found.table) == 8 and (found.table.test_accuracy > 0).all()
    assert sum(found.others.values()) == 4 and "Left out: 4 runs of training code" in found.method()
    assert len(analysis.evidence(table.assign(seed=range(12)), STUDY, mixed=True).table) == 12


def test_older_records_without_a_fingerprint_count_by_their_revision():
    table = table_of().drop(columns="code")
    assert len(analysis.evidence(table, STUDY).table) == 8
    table.loc[table.dims == 2, "revision"] = "older"
    assert len(analysis.evidence(table, STUDY).table) == 4


def test_another_precision_never_enters_by_accident():
    open_one = pd.DataFrame(made_up(run) for run in plan_runs(STUDY, "cpu"))
    half, full = (open_one.assign(precision=name) for name in ("bfloat16", "float32"))
    found = analysis.evidence(joined(half, full.iloc[:3]), STUDY)
    assert set(found.table.precision) == {"bfloat16"} and len(found.table) == len(half)
    assert "Left out: 3 runs" in found.method() and "in float32" in found.method()
    fixed = table_of()  # whose scale names its precision
    assert len(analysis.evidence(fixed.assign(precision="bfloat16"), STUDY).table) == 0


def test_a_diverged_run_is_not_missing_and_is_counted():
    table = table_of()
    table.loc[0, ["status", "test_accuracy"]] = ["diverged", np.nan]
    found = analysis.evidence(table, STUDY)
    assert (found.missing, found.diverged, len(found.table)) == (0, 1, 7)
    assert "Diverged, without an accuracy and not in the means: 1 run." in found.method()
    failed = table.assign(status=table.status.replace("diverged", "failed"))
    assert analysis.evidence(failed, STUDY).missing == 1


def test_one_large_setting_does_not_hide_a_whole_smaller_scale_and_both_are_said():
    cpu = pd.DataFrame(made_up(run, precision="bfloat16") for run in plan_runs(STUDY, "cpu"))
    gpu = pd.DataFrame(made_up(run) for run in plan_runs(STUDY, "gpu")).iloc[:5]
    found = analysis.evidence(joined(cpu, gpu, table_of()), STUDY)
    assert found.scale == "cpu" and found.missing == 0
    assert {"the scale `gpu`": 5, "the scale `smoke`": 8}.items() <= found.others.items()
    assert analysis.evidence(joined(cpu, gpu), STUDY, scale="gpu").scale == "gpu"


def test_a_plain_network_belongs_whatever_its_record_says_of_modes():
    table = table_of("shoot-out")
    table.loc[table.decomp.isin(["dense", "separable", "bottleneck"]), "dims"] = 6
    assert analysis.evidence(table, "shoot-out").missing == 0


def test_a_decomposition_that_is_not_known_here_belongs_nowhere():
    table = joined(table_of(), table_of().iloc[:1].assign(decomp="kronecker"))
    assert len(analysis.evidence(table, STUDY).table) == 8


def test_the_ledger_has_a_row_for_every_study():
    ledger = analysis.ledger(table_of())
    assert list(ledger.index) == list(STUDIES)
    row = ledger.loc[STUDY]
    assert (row["settings"], row["settings missing"], row["runs"], row["n"]) == (4, 0, 8, "2")
    assert (row["data"], row["code"], row["diverged"]) == ("f00", "c0de", 0)
    assert row["hours (no timing: other work ran beside)"] == pytest.approx(0.08)
    assert ledger.loc["weight-decay", "settings missing"] > 0


def test_what_the_test_images_add_is_read_from_the_records(tmp_path):
    rng = np.random.default_rng(0)
    rows = table_of().assign(decomp=np.repeat(["cp", "tt"], 4)).to_dict("records")
    for row in rows:
        known = rng.random(400) < 0.6
        row |= {"test_accuracy": known.mean(), "correct": base64.b64encode(np.packbits(known).tobytes()).decode()}
        (tmp_path / row["run"]).mkdir()
        (tmp_path / row["run"] / "record.json").write_text(json.dumps(row))
    table = lowrank.results(tmp_path)
    sides = [table[table.decomp == decomp] for decomp in ("cp", "tt")]
    assert set(map(len, analysis.known_images(tmp_path, table).values())) == {400}
    assert 0 <= analysis.share_of_test_set(tmp_path, *sides) < 0.05
    (tmp_path / rows[0]["run"] / "record.json").write_text(json.dumps(rows[0] | {"correct": ""}))
    assert len(analysis.known_images(tmp_path, table)) == 7
    assert np.isnan(analysis.share_of_test_set(tmp_path, sides[0].iloc[:0], sides[1]))
