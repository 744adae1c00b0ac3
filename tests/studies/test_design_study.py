"""The design study: its rows are settings that train.py takes, and its table tells a change from none."""

import dataclasses
import json
from pathlib import Path

import train
from benchmarks.timing import read_measured
from convlstm.core.files import METRICS
from convlstm.core.saving import save_checkpoint
from convlstm.models.forecaster import build
from convlstm.training.settings import provenance
from studies import design_study
from studies.study import MACHINE, Row, Study

TINY = ("--preset", "tiny")


def finished_run(folder: Path, row: Row, mse: float, speed: float, machine: str = "an abacus") -> None:
    """Write what a finished run leaves."""
    config = dataclasses.replace(train.parse([*TINY, *row.arguments]), steps=4)
    run = folder / "runs" / row.name
    run.mkdir(parents=True)
    save_checkpoint(run, build(config.model), {"validation": {"mse": mse}} | provenance(config))
    lines = ({"step": step, "train/sequences_per_second": speed} for step in (10, 20))
    (run / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "rollout.gif").touch()
    (folder / f"{row.name}-{MACHINE}").write_text(json.dumps({"machine": machine, "jobs": 2, "threads": 1}))


def test_every_row_is_one_that_train_takes() -> None:
    study = design_study.STUDY
    baseline = study.settings(design_study.BASELINES[0])
    for row in study.rows:
        config = study.settings(row)
        assert config.data.digits == "mnist"
        assert 10_000 % config.batch_size == 0
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
    lines = design_study.table(Study(rows, TINY), tmp_path).splitlines()
    assert lines[0] == read_measured("design-study").splitlines()[0]
    assert "Baselines: mean 91.0, spread 2.0." in lines
    assert lines[-1].startswith("an abacus")
    cells = {line.split(" | ")[0].lstrip("| "): line.split(" | ")[1:] for line in lines}
    assert cells["lower"][-3:] == ["88.5", "-2.5", "40 |"]
    assert cells["like it"][-3:] == ["89.5", "none", "40 |"]
    assert "not trained" not in cells


def test_seeds_of_a_change_are_a_line(tmp_path: Path) -> None:
    study = Study((*design_study.BASELINES, Row("better", "lower", ("--lr", "1e-3"))), TINY)
    repeated = study.repeated(3)
    assert [row.name for row in repeated.rows[3:]] == ["better", "better-seed-1", "better-seed-2"]
    assert [repeated.settings(row).seed for row in repeated.rows] == [0, 1, 2, 0, 1, 2]
    for row, mse in zip(repeated.rows, (90.0, 91.0, 92.0, 85.0, 86.0, 87.0), strict=True):
        finished_run(tmp_path, row, mse, 25.0, "an abacus" if row.seed else "a sand tray")
    lines = design_study.table(study.repeated(9), tmp_path).splitlines()
    assert lines[-2:] == [
        "a sand tray; runs at a time: 2, threads of each: 1.",
        "an abacus; runs at a time: 2, threads of each: 1.",
    ]
    assert len([line for line in lines if line.startswith("| lower | ")]) == 1
    lines = [line for line in lines if line.startswith("|")]
    assert lines[-1].endswith("| 86.0 (3 seeds: 85.0 to 87.0) | -5.0 | 40 |")
    assert lines[-2].endswith("| 91.0 (3 seeds: 90.0 to 92.0) |  | 40 |")
