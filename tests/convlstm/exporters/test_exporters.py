"""What export_checkpoint asks of its arguments, whatever the target."""

import os
from pathlib import Path
from typing import Any

import pytest

from convlstm import ConvLSTM, export_checkpoint


@pytest.mark.parametrize(
    ("name", "target", "options", "message"),
    [
        ("model.keras", "onnx", {}, "target is 'onnx'; it needs 'keras' or 'torch'"),
        ("model.h5", "keras", {}, r"model\.h5 does not end in \.keras or \.weights\.h5, which keras reads"),
        ("model.keras", "torch", {}, r"model\.keras does not end in \.pt or \.pth, which torch reads"),
        ("away/model.pt", "torch", {}, "away is no directory, but .* should go there; make it first"),
        ("folder.pt", "torch", {}, r"folder\.pt is a directory; give the name of a file"),
        ("model.pt", "torch", {"frame_size": (4, 4)}, r"frame_size is \(4, 4\), but \.pt files hold none"),
        ("model.weights.h5", "keras", {"frame_size": (4, 4)}, r"but \.weights\.h5 files hold none"),
        ("model.keras", "keras", {}, r"frame_size is None; a \.keras file needs .*frames, \(H, W\)"),
        ("model.keras", "keras", {"frame_size": (4,)}, r"frame_size is \(4,\); a \.keras file needs"),
        ("model.keras", "keras", {"frame_size": 4}, r"frame_size is 4; a \.keras file needs"),
        ("model.keras", "keras", {"frame_size": (4, 0)}, "frame_size is 0; it needs a whole number of 1"),
    ],
)
def test_arguments(name: str, target: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(ValueError, match=message):
        export_checkpoint(ConvLSTM(3, 2, 1), tmp_path / name, target, **options)
    assert os.listdir(tmp_path) == ["folder.pt"]


def test_a_model_without_values_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model is on the meta device"):
        export_checkpoint(ConvLSTM(1, 2, 3, device="meta"), tmp_path / "model.weights.h5", "keras")


def test_a_file_that_stands_there_is_replaced_whole_or_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_text("old")
    with pytest.raises(ValueError, match="peepholes"):
        export_checkpoint(ConvLSTM(3, 2, 1, peephole="channel"), path, "torch")
    assert path.read_text() == "old"
    export_checkpoint(ConvLSTM(3, 2, 1), str(path), "torch")
    assert path.read_bytes() != b"old"
    assert os.listdir(tmp_path) == ["model.pt"]
