"""python -m convlstm rollout: from a checkpoint and clips to a GIF, or one line that says what is wrong."""

import os
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from convlstm import ConvLSTM, StackedForecaster, StackedForecasterConfig
from convlstm.__main__ import main
from convlstm.clips import write_clip
from convlstm.core.saving import save_checkpoint


@pytest.fixture(autouse=True)
def _a_checkpoint_and_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint("run", StackedForecaster(StackedForecasterConfig(hidden_channels=(3,), kernel_size=3)))
    clips = np.random.default_rng(0).integers(0, 256, (14, 4, 16, 12), dtype=np.uint8)  # (T, N, H, W)
    np.save("clips.npy", clips)


def test_a_gif_for_any_context_and_horizon(capsys: pytest.CaptureFixture[str]) -> None:
    heights = {}
    for context, horizon in ((10, 2), (12, 4), (14, 2)):
        lengths = ["--context", str(context), "--horizon", str(horizon)]
        assert main(["rollout", "run", "clips.npy", *lengths, "-o", "out.gif"]) == 0
        frames = iio.imread("out.gif", index=None)
        assert len(frames) == context + horizon
        heights[context] = frames.shape[1]
        said = f"out.gif: 3 clips, {context} context and {horizon} forecast frames, 5 frames per second\n"
        assert said in capsys.readouterr().out
    assert heights[14] < heights[12] == heights[10]  # the clips end with the context: there is no truth


def test_a_rollout_is_sharpened_as_asked() -> None:
    assert main(["rollout", "run", "clips.npy", "-o", "plain.gif"]) == 0
    assert main(["rollout", "run", "clips.npy", "--sharpen", "3", "-o", "sharp.gif"]) == 0
    assert Path("plain.gif").read_bytes() != Path("sharp.gif").read_bytes()


def test_a_frame_rate_that_a_gif_cannot_have_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollout", "run", "clips.npy", "--fps", "12", "--horizon", "2", "-o", "out.gif"]) == 0
    assert "12.5 frames per second (the nearest to 12 that is possible in GIF)" in capsys.readouterr().out
    assert iio.immeta("out.gif")["duration"] == 80


def test_how_the_clips_were_read_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    np.save("more.npy", np.load("clips.npy").swapaxes(0, 1))  # (N, T, H, W)
    write_clip("a.gif", np.load("clips.npy")[:, 0], 5)
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "clips.npy", "--horizon", "0"], "--horizon is 0; it needs a whole number of 1 or more"),
        (["run", "clips.npy", "--fps", "0"], "fps is 0.0"),
        (["run", "clips.npy", "--sharpen", "-1"], "sharpen is -1.0; it needs a finite number, at least 0"),
        (["run", "clips.npy", "-o", "out.avi"], "out.avi does not end in .gif or .mp4"),
        (["run", "clips.npy", "-o", "nowhere/out.gif"], "nowhere is no directory"),
        (["nowhere", "clips.npy"], "nowhere is no checkpoint"),
        (["layer", "clips.npy"], "model is a ConvLSTM layer, which forecasts no frames"),
        (["run", "nowhere.npy"], "nowhere.npy is no file"),
        (["run", "truncated.npy"], "truncated.npy is damaged"),
        (["run", "rgba.npy"], "rgba.npy has 4 channels (RGBA: leave out the fourth)"),
        (["run", "odd.npy"], "which patches of 4 x 4 do not divide"),
        (["run", "clips.npy", "--device", "abacus"], "abacus"),
        (["run", "clips.npy", "--layout", "XY"], "layout is 'XY'"),
        (["run", "same.gif", "-o", "same.gif"], "same.gif is the file of the clips"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("truncated.npy").write_bytes(Path("clips.npy").read_bytes()[:500])
    np.save("rgba.npy", np.zeros((14, 16, 12, 4), np.uint8))
    np.save("odd.npy", np.zeros((14, 4, 17, 12), np.uint8))
    save_checkpoint("layer", ConvLSTM(1, 2, 3))
    before = sorted(os.listdir())
    assert main(["rollout", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert sorted(os.listdir()) == before
