"""An evaluation as one self-contained page that opens from disk: tables, curves, animated rollouts."""

from convlstm.report.examples import FURTHER, example_rollouts
from convlstm.report.frames import Shown
from convlstm.report.page import render_report, write_report
from convlstm.report.training import Run, read_run

__all__ = [
    "FURTHER",
    "Run",
    "Shown",
    "example_rollouts",
    "read_run",
    "render_report",
    "write_report",
]
