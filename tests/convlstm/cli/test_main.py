"""python -m convlstm: its commands, how it ends, and its errors, each of one line."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import convlstm
from convlstm.__main__ import main
from convlstm.hub import pretrained


def test_help_names_the_commands_and_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    options = {"rollout": "--horizon", "evaluate": "--json", "import": "--source", "export": "--form"}
    for command, option in options.items():
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        assert option in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    out = capsys.readouterr().out
    assert all(f"\n    {command} " in out for command in (*options, "list"))


def test_the_version_and_the_help_where_there_is_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"convlstm {convlstm.__version__}\n"
    assert main([]) == 2
    assert "\n    rollout " in capsys.readouterr().err


@pytest.mark.slow
def test_as_a_command() -> None:
    command = [sys.executable, "-m", "convlstm", "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("name ")


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrained, "list_models", interrupt)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "python -m convlstm: interrupted\n"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "rollout nowhere clips.npy",
            "no folder nowhere, and none of the names moving_mnist_mini",
        ),
        ("rollout layer clips.npy", "model is a ConvLSTM layer, which forecasts no frames"),
        ("rollout run nowhere.npy", "nowhere.npy does not exist"),
        ("rollout run odd.npy", "which patches of 4 x 4 do not divide"),
        ("rollout run clips.npy --horizon 0", "--horizon is 0; it needs a whole number of 1 or more"),
        ("rollout run clips.npy --sharpen -1", "sharpen is -1.0; it needs a finite number, at least 0"),
        ("rollout run clips.npy --device abacus", "abacus"),
        ("rollout run clips.npy -o out.avi", "out.avi does not end in .gif or .mp4"),
        ("rollout run clips.gif -o clips.gif", "clips.gif is the file of the clips"),
        # A layout that was guessed is named, since it may be wrong.
        (
            "rollout run ntwh.npy",
            "ntwh.npy has 4 frames a clip, read as TNHW; it needs 10 or more, or another",
        ),
        ("rollout run ntwh.npy --layout TNHW", "has 4 frames a clip, read as TNHW; it needs 10 or more\n"),
        (
            "evaluate nowhere clips.npy",
            "no folder nowhere, and none of the names moving_mnist_mini",
        ),
        ("evaluate run clips.npy", "clips.npy has 14 frames a clip, read as TNHW; it needs 20 or more, or "),
        ("evaluate run clips.npy --horizon 2 --batch-size -1", "batch_size is -1; it needs a"),
        ("evaluate run clips.npy --horizon 2 --sequences 5", "sequences is 5; the source has 4"),
        (
            "evaluate run clips.npy --horizon 2 --thresholds 5",
            "thresholds is 5.0; it needs a finite number",
        ),
        (
            "evaluate run clips.npy --value-range 60 0",
            "value_range is 60 to 0; it needs the lower number first",
        ),
        ("evaluate run clips.npy --horizon 2 --json no/out.json", "no is no directory"),
        (
            "evaluate run clips.npy --horizon 2 --json clips.npy",
            "clips.npy is the file of the clips; give",
        ),
        (
            "export nowhere",
            "no folder nowhere, and none of the names moving_mnist_mini",
        ),
        ("export layer", "model is a ConvLSTM layer, which forecasts no frames"),
        ("export run -o model.h5", "model.h5; its name needs to end in .onnx for 'onnx', .pt2 for 'program'"),
        ("export run --size 8", "size is [8]; it needs two numbers of pixels, H and W"),
        ("import nowhere.pth", "nowhere.pth is no file"),
        ("import clips.npy -o clips.npy", "--output clips.npy is a file; it needs a directory"),
        ("import clips.npy --option batch_first", "--option is 'batch_first'; it needs NAME=VALUE"),
    ],
)
def test_errors_are_one_line(command: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("clips.gif").touch()
    np.save("odd.npy", np.zeros((14, 4, 17, 12), np.uint8))
    np.save("ntwh.npy", np.load("clips.npy").swapaxes(0, 1))
    before = sorted(os.listdir())
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(os.listdir()) == before


def test_a_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    assert main(["export", "run"]) == 2
    assert capsys.readouterr().err.endswith(
        'error: ONNX export needs onnxruntime, which is not installed: pip install "convlstm[export]"\n'
    )
