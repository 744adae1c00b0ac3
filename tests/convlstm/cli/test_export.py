"""python -m convlstm export: what it prints, and what it leaves behind."""

import os
import re
from pathlib import Path

import pytest

from convlstm.__main__ import main
from tests.convlstm.exporters.test_export import needs_free_sizes


@needs_free_sizes
def test_what_was_written_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "run", "-o", "step.pt2", "--form", "step", "--size", "8", "8"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "run: StackedForecaster\n"
        f"step.pt2: {Path('step.pt2').stat().st_size / 1e6:.2f} MB\n"
        "  in   frame       batch x 1 x 4*rows x 4*columns\n"
        "  in   h0          batch x 3 x rows x columns\n"
        "  in   c0          batch x 3 x rows x columns\n"
        "  out  next_frame  batch x 1 x 4*rows x 4*columns\n"
    )
    assert re.search(r"\n  differs from the network by \d\.\de-\d\d at most\n$", out)
    assert sorted(os.listdir()) == ["clips.npy", "layer", "run", "step.pt2"]


def test_a_layer_goes_to_keras_and_torch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "layer", "-o", "a.keras", "--format", "keras", "--size", "8", "6"]) == 0
    assert main(["export", "layer", "-o", "a.pt"]) == 0
    assert re.fullmatch(r"(layer: ConvLSTM\na\.(keras|pt): 0\.0\d MB\n){2}", capsys.readouterr().out)
