"""python -m convlstm rollout: from a checkpoint and clips to a GIF, or one line that says what is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from convlstm import ConvLSTM, StackedForecaster, StackedForecasterConfig, save_checkpoint
from convlstm.__main__ import main
from convlstm.clips import write_gif


@pytest.fixture(autouse=True)
def _a_checkpoint_and_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint("run", StackedForecaster(StackedForecasterConfig(hidden_channels=(3,), kernel_size=3)))
    clips = np.random.default_rng(0).integers(0, 256, (14, 4, 16, 12), dtype=np.uint8)  # (T, N, H, W)
    np.save("clips.npy", clips)


@pytest.mark.parametrize(("horizon", "frames"), [(2, 12), (4, 14), (30, 40)])
def test_a_gif_for_any_horizon(horizon: int, frames: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollout", "run", "clips.npy", "--horizon", str(horizon), "-o", "out.gif"]) == 0
    assert len(iio.imread("out.gif", index=None)) == frames
    assert (
        f"out.gif: 3 clips, 10 context and {horizon} forecast frames, 5 frames per s"
        in capsys.readouterr().out
    )


def test_a_rollout_is_sharpened_as_asked() -> None:
    for strength in ("0", "1", "3"):
        output = ["-o", f"{strength}.gif"]
        assert main(["rollout", "run", "clips.npy", "--sharpen", strength, *output]) == 0
    assert main(["rollout", "run", "clips.npy", "-o", "plain.gif"]) == 0
    files = {name: Path(f"{name}.gif").read_bytes() for name in ("plain", "0", "1", "3")}
    assert files["plain"] == files["0"]
    assert len(set(files.values())) == 3


def test_a_clip_that_ends_with_the_context_has_no_truth() -> None:
    assert main(["rollout", "run", "clips.npy", "--context", "14", "--horizon", "2", "-o", "out.gif"]) == 0
    with_truth = ["rollout", "run", "clips.npy", "--context", "12", "--horizon", "2", "-o", "with_truth.gif"]
    assert main(with_truth) == 0
    assert iio.imread("out.gif", index=0).shape[0] < iio.imread("with_truth.gif", index=0).shape[0]


@pytest.mark.parametrize(
    ("fps", "message", "duration"),
    [
        ("12", "12.5 frames per second (not 12: a GIF counts hundredths of a second)", 80),
        ("60", "50 frames per second (not 60: viewers slow down frames of less than 2 hundredths", 20),
        ("1e-3", "0.001526 frames per second (not 0.001: a frame of a GIF lasts 655.35 s at most)", 655_350),
    ],
)
def test_a_frame_rate_that_a_gif_cannot_have_is_said(
    fps: str, message: str, duration: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rollout", "run", "clips.npy", "--fps", fps, "--horizon", "2", "-o", "out.gif"]) == 0
    assert message in capsys.readouterr().out
    assert iio.immeta("out.gif")["duration"] == duration


def test_how_the_clips_were_read_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    np.save("more.npy", np.load("clips.npy").swapaxes(0, 1))  # (N, T, H, W)
    write_gif("a.gif", np.load("clips.npy")[:, 0], 5)
    for clips, said in (
        (["clips.npy"], "clips.npy read as TNHW: 3 clips of 12 frames\n"),
        (["more.npy", "--layout", "nthw", "--count", "9"], "more.npy read as NTHW: 4 clips of 12 frames\n"),
        (["a.gif"], "a.gif: 1 clip of 12 frames\n"),
    ):
        assert main(["rollout", "run", *clips, "--horizon", "2", "-o", "out.gif"]) == 0
        assert capsys.readouterr().out.startswith(said)


def test_a_layout_that_was_guessed_is_named_where_it_may_be_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    np.save("more.npy", np.load("clips.npy").swapaxes(0, 1))  # (N, T, H, W)
    assert main(["rollout", "run", "more.npy"]) == 2
    error = "more.npy has 4 frames a clip, read as TNHW; it needs 10 or more"
    assert capsys.readouterr().err.endswith(f"{error}, or another layout\n")
    assert main(["rollout", "run", "more.npy", "--layout", "TNHW"]) == 2
    assert capsys.readouterr().err.endswith(f"{error}\n")


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("convlstm.models.rollouts.rollout", interrupt)
    assert main(["rollout", "run", "clips.npy"]) == 130
    assert capsys.readouterr().err == "python -m convlstm: interrupted\n"


def test_a_gif_is_read_as_clips() -> None:
    main(["rollout", "run", "clips.npy", "-o", "first.gif"])
    iio.imwrite("gray.gif", np.load("clips.npy")[:, 0], duration=100, loop=0)
    assert main(["rollout", "run", "gray.gif", "-o", "out.gif"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "clips.npy", "--horizon", "0"], "--horizon is 0; it needs 1 or more"),
        (["run", "clips.npy", "--context", "0"], "--context is 0; it needs 1 or more"),
        (
            ["run", "clips.npy", "--context", "15"],
            "clips.npy has 14 frames a clip, read as TNHW; it needs 15 or",
        ),
        (["run", "clips.npy", "--fps", "0"], "fps is 0.0"),
        (["run", "clips.npy", "--sharpen", "-1"], "sharpen is -1.0; it needs a number from 0 to 1,000"),
        (["run", "clips.npy", "--sharpen", "nan"], "sharpen is nan; it needs a finite number"),
        (["run", "clips.npy", "-o", "out.avi"], "out.avi does not end in .gif or .mp4"),
        (["run", "clips.npy", "-o", "nowhere/out.gif"], "nowhere is no directory"),
        (["nowhere", "clips.npy"], "nowhere is no checkpoint"),
        (["layer", "clips.npy"], "model is a ConvLSTM layer, which forecasts no frames"),
        (["run", "nowhere.npy"], "nowhere.npy is no file"),
        (["run", "empty.npy"], "empty.npy is empty"),
        (["run", "truncated.npy"], "truncated.npy is damaged"),
        (["run", "negative.npy"], "negative.npy is damaged"),
        (["run", "rgba.npy"], "rgba.npy has 4 channels (RGBA: leave out the fourth)"),
        (["run", "odd.npy"], "which patches of 4 x 4 do not divide"),
        (["run", "clips.npy", "--device", "abacus"], "abacus"),
        (["run", "clips.npy", "--layout", "XY"], "layout is 'XY'"),
        (["run", "clips.npy", "--device", "cpu:x"], "device is 'cpu:x'"),
        (["run", "same.gif", "-o", "same.gif"], "same.gif is the file of the clips"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty.npy").touch()
    Path("truncated.npy").write_bytes(Path("clips.npy").read_bytes()[:500])
    Path("negative.npy").write_bytes(Path("clips.npy").read_bytes().replace(b"(14, ", b"(-1, "))
    np.save("rgba.npy", np.zeros((14, 16, 12, 4), np.uint8))
    np.save("odd.npy", np.zeros((14, 4, 17, 12), np.uint8))
    save_checkpoint("layer", ConvLSTM(1, 2, 3))
    before = sorted(os.listdir())
    assert main(["rollout", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert sorted(os.listdir()) == before


def test_as_a_command() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "convlstm", "rollout", "--help"], capture_output=True, text=True, check=True
    )
    assert "CHECKPOINT" in result.stdout.upper()
    assert "--horizon" in result.stdout
