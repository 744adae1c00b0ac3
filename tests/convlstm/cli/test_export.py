"""python -m convlstm export: what it prints, what it leaves behind, and its errors."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from convlstm import ConvLSTM, EncoderForecaster, EncoderForecasterConfig
from convlstm.__main__ import main
from convlstm.core.saving import save_checkpoint
from tests.convlstm.exporters.test_export import needs_free_sizes

SMALL: Any = {"hidden_channels": (3,), "kernel_size": 3, "patch_size": 2}


@pytest.fixture(autouse=True)
def _checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint("run", EncoderForecaster(EncoderForecasterConfig(**SMALL)))
    save_checkpoint("layer", ConvLSTM(3, 2, 1))


@needs_free_sizes
def test_what_was_written_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "run", "-o", "step.pt2", "--form", "step", "--size", "8", "8"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "run: EncoderForecaster\n"
        f"step.pt2: {Path('step.pt2').stat().st_size / 1e6:.2f} MB\n"
        "  in   h0          batch x 3 x rows x columns\n"
        "  in   c0          batch x 3 x rows x columns\n"
        "  out  next_frame  batch x 1 x 2*rows x 2*columns\n"
    )
    assert re.search(r"\n  differs from the network by \d\.\de-\d\d at most\n$", out)
    assert sorted(os.listdir()) == ["layer", "run", "step.pt2"]


def test_a_layer_goes_to_keras_and_torch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "layer", "-o", "a.keras", "--format", "keras", "--size", "8", "6"]) == 0
    assert main(["export", "layer", "-o", "a.pt"]) == 0
    assert re.fullmatch(r"(layer: ConvLSTM\na\.(keras|pt): 0\.0\d MB\n){2}", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "-o", "model.h5"],
            "model.h5; its name needs to end in .onnx for 'onnx', .pt2 for 'program'",
        ),
        (["run", "--size", "8"], "size is [8]; it needs two numbers of pixels, H and W"),
        (["run", "-o", "a.pt2", "--size", "9", "8"], "which patches of 2 x 2 do not divide"),
        (["run", "-o", "a.pt"], "model is a EncoderForecaster; torch.nn has layers for a ConvRNN"),
        (["layer"], "model is a ConvLSTM layer, which forecasts no frames"),
        (["nowhere"], "nowhere is no checkpoint"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert sorted(os.listdir()) == ["layer", "run"]


def test_a_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    assert main(["export", "run"]) == 2
    assert capsys.readouterr().err.endswith(
        'error: ONNX export needs onnxruntime, which is not installed: pip install "convlstm[export]"\n'
    )
