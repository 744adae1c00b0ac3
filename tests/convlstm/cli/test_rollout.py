"""python -m convlstm rollout: from a checkpoint and clips to a GIF."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from convlstm.__main__ import main
from convlstm.clips import write_clip


def test_a_gif_for_any_context_and_horizon(capsys: pytest.CaptureFixture[str]) -> None:
    heights = {}
    for context, horizon in ((2, 2), (12, 4), (14, 2)):
        command = f"rollout run clips.npy --context {context} --horizon {horizon} -o out.gif"
        assert main(command.split()) == 0
        frames = iio.imread("out.gif", index=None)
        assert len(frames) == context + horizon
        heights[context] = frames.shape[1]
        printed = f"out.gif: 3 clips, {context} context and {horizon} forecast frames, 5 frames per second\n"
        assert printed in capsys.readouterr().out
    assert heights[14] < heights[12] == heights[2]  # the clips end with the context: there is no truth


def test_options_that_change_the_gif(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["rollout", "run", "clips.npy", "--context", "2", "--horizon", "2", "-o", "out.gif"]
    gifs = []
    for options in ((), ("--sharpen", "3"), ("--fps", "12")):
        assert main([*command, *options]) == 0
        gifs.append(Path("out.gif").read_bytes())
    assert len(set(gifs)) == 3
    assert "12.5 frames per second (the nearest to 12 that is possible in GIF)" in capsys.readouterr().out
    assert iio.immeta("out.gif")["duration"] == 80


def test_how_the_clips_were_read_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    np.save("nthw.npy", np.load("clips.npy").swapaxes(0, 1))
    write_clip("a.gif", np.load("clips.npy")[:, 0], 5)
    for clips, printed in (
        ("clips.npy", "clips.npy read as TNHW: 3 clips of 4 frames\n"),
        ("nthw.npy --layout nthw --count 9", "nthw.npy read as NTHW: 4 clips of 4 frames\n"),
        ("a.gif", "a.gif: 1 clip of 4 frames\n"),
    ):
        assert main(["rollout", "run", *clips.split(), "--context", "2", "--horizon", "2"]) == 0
        assert capsys.readouterr().out.startswith(printed)
