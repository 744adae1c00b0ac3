"""One's own clips from end to end, as in the README's two examples, on small stand-ins."""

import contextlib
import io
import json
import os
import shutil
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image
from torch.testing import assert_close

import train
from convlstm.__main__ import main
from convlstm.clips import read_clips, write_clip
from convlstm.hub.checkpoint import read_config

RANDOM = np.random.default_rng(0)
# Seconds instead of minutes; what is left of a command is what the README says.
SMALL = """--preset tiny --steps 2 --validations 1 --batch-size 2 --device cpu --bfloat16 off --name NAME
--model.hidden-channels 4 --model.kernel-size 3"""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def parse(command: str, *more: str) -> train.Config:
    return train.parse([*command.split(), *SMALL.split(), *more])


def run(command: str, *more: str) -> Path:
    return train.main(parse(command, *more))


def make_gifs() -> Path:
    """Six GIFs of a square that flies to the right, in color, of 20 to 25 frames, 20 x 24 pixels."""
    Path("gifs").mkdir()
    for n in range(6):
        frames = np.full((20 + n, 20, 24, 3), (30, 40, 90), np.uint8)
        for t, frame in enumerate(frames):
            frame[5 + n : 11 + n, (2 * t) % 18 : (2 * t) % 18 + 6] = (240, 200, 40)
        write_clip(Path("gifs") / f"clip{n}.gif", frames, 10)
    return Path("gifs")


@pytest.fixture
def gifs(in_a_folder_of_its_own: None) -> Path:
    return make_gifs()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a run on GIFs, one of them damaged, and what the run printed."""
    folder, out = tmp_path_factory.mktemp("gifs"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        bad = make_gifs() / "bad.gif"
        bad.write_bytes((folder / "gifs" / "clip0.gif").read_bytes()[:-9])
        run("--data.clips gifs --data.image-size 16")
        bad.unlink()
    return folder, out.getvalue()


@pytest.fixture
def in_a_copy(trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Work in a copy of the folder with the run on GIFs; what the run printed."""
    monkeypatch.chdir(shutil.copytree(trained[0], tmp_path / "copy"))
    return trained[1]


def test_a_folder_of_gifs_to_a_network_and_its_rollout(
    in_a_copy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path("runs/NAME")
    assert len(iio.imread(path / "rollout.gif", index=None)) == 30
    scores = json.loads((path / "test-clips-1.json").read_text())
    assert scores["set"] == "Test, clips of gifs, 1 of 1 sequences"
    assert scores["StackedForecaster"]["sequences"] == 1
    assert "clips of gifs, on cpu" in in_a_copy
    assert "copy last frame" in in_a_copy
    assert in_a_copy.count("gifs: 1 of 7 files cannot be read and are left out: bad.gif (") == 1
    rollout = ["rollout", "runs/NAME"]
    assert main([*rollout, "gifs", "--size", "16", "16", "--horizon", "5", "-o", "out.mp4"]) == 0
    assert read_clips("out.mp4").shape[1] == 15
    assert "gifs: 3 clips of 15 frames" in capsys.readouterr().out
    assert main([*rollout, "gifs/clip2.gif", "-o", "out.gif"]) == 0  # 20 x 24: patches divide it
    assert len(iio.imread("out.gif", index=None)) == 20


@pytest.fixture(scope="module")
def radar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on ten events of rain that drifts: 16-bit PGMs in hundredths of mm/h.

    An eleventh event, damaged, came later.
    """
    folder = tmp_path_factory.mktemp("radar")
    for n in range(10):
        event = folder / "radar" / f"event{n}"
        event.mkdir(parents=True)
        rain = np.rint(RANDOM.gamma(0.5, 400, (16, 32))).clip(0, 6000).astype(np.uint16)
        for t in range(8):
            Image.fromarray(rain[:, t : t + 24]).save(event / f"{5 * t:04}.pgm")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        physical = "--data.value-range 0 60 --data.stored 0 6000 --data.unit mm/h"
        run(f"--data.clips radar --data.size 16 24 {physical} --context 4 --horizon 3")
    (folder / "radar" / "event10").mkdir()
    (folder / "radar" / "event10" / "0.pgm").write_bytes(b"P5 16 24 65535\n")
    return folder


DAMAGED = "radar: 1 of 11 files cannot be used and are left out: radar/event10/0.pgm is a damaged"


def test_radar_is_scored_in_mm_per_hour(
    radar: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The README's example: trained on events, scored in mm/h on those kept for the test."""
    monkeypatch.chdir(radar)
    config = train.settings.settings_of(train.Config, Path("runs/NAME"))
    data, source = config.data, train.make_source(config, "test")
    assert (data.value_range, data.stored, data.unit, data.size) == ((0, 60), (0, 6000), "mm/h", (16, 24))
    assert (source.value_range, source.unit) == ((0.0, 60.0), "mm/h")
    assert source.batch([0]).shape == (1, 7, 1, 16, 24)
    kept = read_config(Path("runs/NAME"))["test_clips"]
    assert kept["of"] == str(Path("radar").resolve())
    [held_out] = kept["names"]
    command = ["--context", "4", "--horizon", "3", "--thresholds", "0.5", "2", "5"]
    command += ["--json", str(tmp_path / "scores.json")]
    # The meaning of the values is known from the training, and what was trained on is left out.
    report = tmp_path / "report.html"
    assert main(["evaluate", "runs/NAME", "radar", *command, "--report", str(report)]) == 0
    out = capsys.readouterr().out
    for words in (
        "Values as in training: stored 0 to 6000, value-range 0 to 60, unit mm/h.",
        DAMAGED,
        "9 of 10 clips were trained or validated on and are left out",
        "CSI at 0.5 mm/h",
        "MAE per pixel in mm/h",
    ):
        assert words in out
    frames = [np.asarray(Image.open(f)) for f in sorted((Path("radar") / held_out).iterdir())]
    last, truth = (np.stack(part).astype(float) / 100 for part in ([frames[3]] * 3, frames[4:7]))
    found = json.loads((tmp_path / "scores.json").read_text())
    assert (found["sequences"], found["unit"], found["value_range"]) == (1, "mm/h", [0.0, 60.0])
    copied = next(scores for scores in found["baselines"] if scores["name"] == "copy last frame")
    for scores, threshold in zip(copied["thresholds"], (0.5, 2, 5), strict=True):
        hits = ((last >= threshold) & (truth >= threshold)).sum()
        either = ((last >= threshold) | (truth >= threshold)).sum()
        assert (scores["threshold"], scores["hits"]) == (threshold, hits)
        assert scores["csi"]["mean"] == pytest.approx(hits / either, abs=1e-12)
    assert copied["metrics"]["mae_physical"]["mean"] == pytest.approx(abs(last - truth).mean(), rel=1e-5)
    assert "MAE per pixel in mm/h" in report.read_text()
    # Where all that is asked for was trained on, there is nothing to report.
    seen = next(f"radar/event{n}" for n in range(10) if f"event{n}" != held_out)
    for clips, message in (
        ([seen], "1 of 1 clips were trained or validated on"),
        (["radar", "--strict"], "event10/0.pgm is a damaged image"),
    ):
        assert main(["evaluate", "runs/NAME", *clips, *command]) == 2
        assert message in capsys.readouterr().err


def test_rollouts_on_radar_read_values_as_in_training(
    radar: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(radar)
    command = ["rollout", "runs/NAME", "radar", "--context", "4", "--horizon", "3", "--count", "11"]
    command += ["--size", "16", "24", "-o"]
    nowcast, same, other = (str(tmp_path / f"{name}.gif") for name in ("nowcast", "same", "other"))
    assert main([*command, nowcast]) == 0  # on the clips of the training, too
    out = capsys.readouterr().out
    assert "Values as in training: stored 0 to 6000, value-range 0 to 60, unit mm/h." in out
    assert DAMAGED in out
    assert "radar: 10 clips of 7 frames" in out
    assert main([*command, same, "--stored", "0", "6000"]) == 0
    assert main([*command, other, "--stored", "0", "600"]) == 0
    assert "Values as in training: value-range 0 to 60, unit mm/h." in capsys.readouterr().out
    assert Path(nowcast).read_bytes() == Path(same).read_bytes() != Path(other).read_bytes()
    assert main([*command, nowcast, "--strict"]) == 2
    assert "event10/0.pgm is a damaged image" in capsys.readouterr().err
    # What is beyond the clips that are shown is not looked at.
    assert main([*command, nowcast, "--strict", "--count", "2"]) == 0


@pytest.mark.usefixtures("in_a_copy")
def test_rollouts_of_clips_are_cut_to_the_shortest_and_what_does_not_fit_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    frames = np.full((12, 20, 24), 80, np.uint8) + np.arange(12, dtype=np.uint8)[:, None, None]
    write_clip("gifs/a.gif", frames, 10)
    write_clip("gifs/b.gif", frames[:9], 10)
    assert main(["rollout", "runs/NAME", "gifs", "--size", "16", "16", "-o", "out.gif"]) == 0
    out = capsys.readouterr().out
    assert "gifs: 1 of 4 files cannot be used and are left out: gifs/b.gif has 9 frames a clip" in out
    assert "gifs: 3 clips of 12 frames" in out
    assert len(iio.imread("out.gif", index=None)) == 20
    for arguments, message in (
        (["--size", "18", "16"], "frames of 18 x 16 pixels, which patches of 4 x 4 do not divide"),
        (["--size", "0", "16"], "size is 0; it needs a whole number of 1 or more"),
        (["--stored", "3", "3"], "stored is 3 to 3; it needs two different numbers"),
    ):
        assert main(["rollout", "runs/NAME", "gifs", *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.usefixtures("in_a_copy")
def test_a_run_whose_clips_have_changed_is_not_resumed_nor_scored() -> None:
    os.remove(Path("gifs") / read_config(Path("runs/NAME"))["test_clips"]["names"][0])
    for option in ("--resume", "--score"):
        with pytest.raises(ValueError, match="gifs has changed since the run began, so that its test"):
            train.main(train.parse([option, "runs/NAME", "--device", "cpu"]))


@pytest.mark.usefixtures("in_a_folder_of_its_own")
def test_color_and_an_array_of_clips(capsys: pytest.CaptureFixture[str]) -> None:
    np.save("clips.npy", RANDOM.integers(0, 256, (5, 9, 3, 12, 16), dtype=np.uint8))  # (N, T, C, H, W)
    path = run("--data.clips clips.npy --data.size 12 16 --context 3 --horizon 3 --model.channels 3")
    assert read_config(path)["training"]["data"]["clips"] == "clips.npy"
    assert "clips.npy: read as NTCHW; if its axes" in capsys.readouterr().out
    [number] = map(int, read_config(path)["test_clips"]["names"])
    command = ["evaluate", "runs/NAME", "clips.npy", "--context", "3", "--horizon", "2"]
    assert main([*command, "--json", "scores.json"]) == 0
    truth = np.load("clips.npy")[number].astype(float) / 255
    [copied, *_] = json.loads(Path("scores.json").read_text())["baselines"]
    assert copied["metrics"]["mse"]["mean"] == pytest.approx(
        ((truth[3:5] - truth[2]) ** 2).sum() / 2, rel=1e-6
    )
    assert main(["rollout", "runs/NAME", "clips.npy", "--context", "3", "-o", "out.gif"]) == 0


@pytest.mark.usefixtures("no_gifs")
def test_a_resumed_run_on_clips_is_the_run(gifs: Path, state_of, train_until) -> None:
    settings = "--data.clips gifs --data.image-size 16 --context 4 --horizon 4"
    more = ["--steps", "3", "--validations", "3", "--name"]
    whole = run(settings, *more, "whole")
    train_until(2, parse(settings, *more, "parts"))
    parts = train.main(train.parse(["--resume", "runs/parts", "--device", "cpu"]))
    assert_close(state_of(parts), state_of(whole), rtol=0, atol=0)
    assert train.main(train.parse(["--score", "runs/parts", "--device", "cpu"])) == parts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--data.clips none", "none does not exist; it needs a video"),
        (
            "--data.clips gifs --context 40",
            "no clip that can be used: 6 of 6 files have fewer than the 50 frames",
        ),
        ("--data.clips two", "clips in two: 2 can be used, but train, val, test need one each at least"),
        ("--data.clips bad --data.strict", "bad.gif is a damaged GIF"),
    ],
)
def test_clips_that_cannot_be_trained_on(gifs: Path, arguments: str, message: str) -> None:
    for name in ("two", "bad"):
        Path(name).mkdir()
    for n in range(2):
        os.link(gifs / f"clip{n}.gif", Path("two") / f"clip{n}.gif")
    (Path("bad") / "bad.gif").write_bytes((gifs / "clip0.gif").read_bytes()[:-9])
    with pytest.raises((ValueError, OSError), match=message):
        run(arguments)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("data", "model", "message"),
    [
        ({"image_size": 18}, {}, "data.image_size is 18, which patches of 4 x 4 do not divide; it needs"),
        ({"size": (16, 18)}, {}, r"data.size is \(16, 18\), which patches of 4 x 4 do not divide; it needs"),
        ({"size": (0, 16)}, {}, r"data.size is \(0, 16\); it needs 1 pixel or more"),
        ({"size": (16, 16), "clips": None}, {}, r"data.size is \(16, 16\), but is of clips alone"),
        ({}, {"channels": 2}, "model.channels is 2; clips are read as gray or color: it needs 1 or 3"),
    ],
)
def test_settings_that_do_not_go_together(data: dict, model: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train.Config(
            data=train.DataConfig(**{"clips": Path("gifs"), **data}),
            model=train.StackedForecasterConfig(hidden_channels=(4,), **model),
        )
