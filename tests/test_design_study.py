"""The design study: its rows are settings that train.py takes, and its table tells a change from none."""

import dataclasses
import json
from pathlib import Path

import pytest

import train
from benchmarks import design_study
from benchmarks.studies import MACHINE, Row, Study
from convlstm.checkpoint import save_checkpoint
from convlstm.files import METRICS
from convlstm.registry import build
from convlstm.settings import provenance

TINY = ("--preset", "tiny")


def finished_run(folder: Path, row: Row, mse: float, speed: float) -> None:
    """Write what a finished run leaves."""
    config = dataclasses.replace(train.parse([*TINY, *row.arguments]), steps=4)
    run = folder / "runs" / row.name
    run.mkdir(parents=True)
    save_checkpoint(run, build(config.model), {"validation": {"mse": mse}} | provenance(config))
    lines = ({"step": step, "train/sequences_per_second": speed} for step in (10, 20))
    (run / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "rollout.gif").touch()


@pytest.mark.parametrize("row", design_study.STUDY.rows, ids=lambda row: row.name)
def test_every_row_is_one_that_train_takes(row: Row) -> None:
    config = design_study.STUDY.settings(row)
    assert config.data.digits == "mnist"
    assert 10_000 % config.batch_size == 0
    baseline = design_study.STUDY.settings(design_study.BASELINES[0])
    assert (config == baseline) == (row is design_study.BASELINES[0])


def test_a_change_within_the_spread_is_none(tmp_path: Path) -> None:
    rows = (
        *design_study.BASELINES,
        Row("better", "lower", ("--lr", "1e-3")),
        Row("same", "like it", ("--batch-size", "2")),
        Row("missing", "not trained", ("--lr", "2e-3")),
    )
    for row, mse in zip(rows[:-1], (90.0, 91.0, 92.0, 88.5, 89.5), strict=True):
        finished_run(tmp_path, row, mse, speed=25.0)
    (tmp_path / MACHINE).write_text(json.dumps({"machine": "an abacus", "jobs": 2, "threads": 1}))
    lines = design_study.table(Study(rows, TINY), tmp_path).splitlines()
    assert "Baselines: mean 91.0, spread 2.0." in lines
    assert lines[0].startswith("an abacus")
    cells = {line.split(" | ")[0].lstrip("| "): line.split(" | ")[1:] for line in lines}
    assert cells["lower"][0] == "`--lr 1e-3`"
    assert cells["lower"][-3:] == ["88.5", "-2.5", "40 |"]
    assert cells["like it"][-3:] == ["89.5", "none", "40 |"]
    assert "not trained" not in cells


def test_without_a_baseline_there_is_no_table(tmp_path: Path) -> None:
    row = Row("better", "lower", ("--lr", "1e-3"))
    finished_run(tmp_path, row, 88.5, speed=25.0)
    with pytest.raises(FileNotFoundError, match="0 finished baselines; it needs two or more"):
        design_study.table(Study((row,), TINY), tmp_path)
