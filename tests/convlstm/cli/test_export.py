"""python -m convlstm export: what it says, what it leaves behind, and its errors."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from convlstm import (
    EncoderForecaster,
    EncoderForecasterConfig,
    StackedForecaster,
    StackedForecasterConfig,
    export_onnx,
    save_checkpoint,
)
from convlstm.__main__ import main
from tests.convlstm.exporters.test_export import needs_free_sizes

SMALL: Any = {"cell": "rnn", "hidden_channels": (3,), "kernel_size": 3, "patch_size": 2}


class _OneSize(StackedForecaster):
    """A network with a weight for each pixel, as those that were imported may have."""

    def __init__(self, config: StackedForecasterConfig):
        super().__init__(config)
        self.mask = torch.nn.Parameter(torch.rand(8, 12))

    def _to_patches(self, frames: Tensor) -> Tensor:
        return super()._to_patches(frames * self.mask)


@needs_free_sizes
def test_a_size_that_cannot_be_free_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _OneSize(StackedForecasterConfig(**SMALL))
    monkeypatch.setattr("convlstm.hub.pretrained.from_pretrained", lambda _: model)
    path = str(tmp_path / "model.pt2")
    assert main(["export", "any", "-o", path, "--form", "step", "--size", "8", "12"]) == 0
    out = capsys.readouterr().out
    assert "in   frame       batch x 1 x 8 x 12\n" in out
    assert "frames of this size only" in out
    frames = torch.export.load(path).module()(torch.rand(5, 1, 8, 12), torch.zeros(5, 3, 4, 6))[0]
    assert frames.shape == (5, 1, 8, 12)


@needs_free_sizes
def test_the_command_says_what_it_wrote(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torchvision", None)  # as if it were not installed
    # Peepholes are split into constants, which the exporter speaks of.
    save_checkpoint("run", EncoderForecaster(EncoderForecasterConfig(**SMALL | {"cell": "lstm"})))
    assert main(["export", "run", "-o", "step.onnx", "--form", "step", "--size", "8", "8"]) == 0
    out = capsys.readouterr().out
    size = Path("step.onnx").stat().st_size / 1e6
    assert out.startswith(
        "run: EncoderForecaster, one step (its first states: --form encode)\n"
        f"step.onnx: {size:.2f} MB, ONNX, opset 18\n"
        "  in   h0          batch x 3 x rows x columns\n"
        "  in   c0          batch x 3 x rows x columns\n"
        "  out  next_frame  batch x 1 x 2*rows x 2*columns\n"
    )
    assert re.search(r"differs from the network by \d\.\de-\d\d at most\n", out)
    assert re.search(
        r"a batch of 1 of 8 x 8 pixels takes [\d.]+ ms in onnxruntime, [\d.]+ ms in torch \(medians", out
    )
    assert sorted(os.listdir()) == ["run", "step.onnx"]
    assert not [r for r in caplog.records if r.levelname == "WARNING"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "model.pth"], "--output model.pth ends in neither .onnx (for onnxruntime) nor .pt2"),
        (["-o", "nowhere/model.onnx"], "nowhere is no directory"),
        (["-o", "run.onnx"], "run.onnx is a directory"),
        (["--context", "0"], "context is 0"),
        (["--horizon", "-1"], "horizon is -1"),
        (["--size", "0", "8"], "size is 0"),
        (["--size", "9", "8"], "which patches of 2 x 2 do not divide"),
        (["--form", "encode", "--context", "1"], "encode needs 2 or more"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint("run", StackedForecaster(StackedForecasterConfig(**SMALL)))
    Path("run.onnx").mkdir()
    before = sorted(os.listdir())
    assert main(["export", "run", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert sorted(os.listdir()) == before


def test_a_package_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    monkeypatch.chdir(tmp_path)
    assert main(["export", "run"]) == 2
    assert capsys.readouterr().err.endswith(
        'error: ONNX export needs onnxruntime, which is not installed: pip install "convlstm[export]"\n'
    )
    with pytest.raises(ImportError, match="ONNX export needs onnxruntime"):
        export_onnx(StackedForecaster(StackedForecasterConfig(**SMALL)), "model.onnx")


def test_numbers_that_differ_are_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint("run", StackedForecaster(StackedForecasterConfig(**SMALL)))
    monkeypatch.setattr("convlstm.exporters.program.TOLERANCE", -1.0)  # which nothing is within
    assert main(["export", "run", "-o", "model.pt2", "--form", "step", "--size", "12", "8"]) == 2
    assert "error: the exported next_frame differs from the network's by" in capsys.readouterr().err
    assert os.listdir() == ["run"]
