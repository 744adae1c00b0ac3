"""One's own clips from end to end, as in the README's two examples, on small stand-ins."""

import json
import os
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
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(command: str, *more: str) -> Path:
    return train.main(train.parse([*command.split(), *SMALL.split(), *more]))


@pytest.fixture
def gifs() -> Path:
    """Six GIFs of a square that flies to the right, in colour, of 20 to 25 frames, 20 x 24 pixels."""
    Path("gifs").mkdir()
    for n in range(6):
        frames = np.full((20 + n, 20, 24, 3), (30, 40, 90), np.uint8)
        for t, frame in enumerate(frames):
            frame[5 + n : 11 + n, (2 * t) % 18 : (2 * t) % 18 + 6] = (240, 200, 40)
        write_clip(Path("gifs") / f"clip{n}.gif", frames, 10)
    return Path("gifs")


def test_a_folder_of_gifs_to_a_network_and_its_rollout(
    gifs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (gifs / "bad.gif").write_bytes((gifs / "clip0.gif").read_bytes()[:-9])
    path = run("--data.clips gifs --data.image-size 16")
    assert path == Path("runs/NAME")
    os.remove(gifs / "bad.gif")
    assert len(iio.imread(path / "rollout.gif", index=None)) == 30
    scores = json.loads((path / "test-clips-1.json").read_text())
    assert scores["set"] == "Test, clips of gifs, 1 of 1 sequences"
    assert scores["StackedForecaster"]["sequences"] == 1
    out = capsys.readouterr().out
    assert "clips of gifs, on cpu" in out
    assert "copy last frame" in out
    assert out.count("gifs: 1 of 7 files cannot be read and are left out: bad.gif (") == 1
    assert (
        main(["rollout", "runs/NAME", "gifs", "--size", "16", "16", "--horizon", "5", "-o", "out.mp4"]) == 0
    )
    assert read_clips("out.mp4").shape[1] == 15
    assert "gifs: 3 clips of 15 frames" in capsys.readouterr().out
    assert (
        main(["rollout", "runs/NAME", "gifs/clip2.gif", "-o", "out.gif"]) == 0
    )  # 20 x 24: patches divide it
    assert len(iio.imread("out.gif", index=None)) == 20


def test_radar_frames_in_mm_per_hour() -> None:
    """16-bit PGMs in hundredths of mm/h, five minutes apart: ten clips of rain that drifts."""
    for n in range(4):
        folder = Path("radar") / f"2024-05-{n + 1:02}"
        folder.mkdir(parents=True)
        rain = np.rint(RANDOM.gamma(0.3, 400, (24, 24 + 20))).astype(np.uint16)
        for t in range(20):
            Image.fromarray(rain[:, t : t + 24]).save(folder / f"{5 * t:04}.pgm")
    physical = "--data.value-range 0 60 --data.stored 0 6000 --data.unit mm/h"
    path = run(f"--data.clips radar --data.size 16 24 {physical} --context 6 --horizon 6")
    data = train.settings.settings_of(train.Config, path).data
    assert (data.value_range, data.stored, data.unit, data.size) == ((0, 60), (0, 6000), "mm/h", (16, 24))
    source = train.make_source(train.settings.settings_of(train.Config, path), "test")
    assert (source.value_range, source.unit) == ((0.0, 60.0), "mm/h")
    assert source.batch([0]).shape == (1, 12, 1, 16, 24)
    command = [
        "rollout",
        "runs/NAME",
        "radar",
        "--stored",
        "0",
        "6000",
        "--size",
        "16",
        "24",
        "--context",
        "6",
    ]
    assert main([*command, "--horizon", "12", "-o", "nowcast.gif"]) == 0
    assert len(iio.imread("nowcast.gif", index=None)) == 18


def test_radar_to_the_scores_of_a_nowcast_in_mm_per_hour(capsys: pytest.CaptureFixture[str]) -> None:
    """The README's example: trained on events, scored in mm/h on those kept for the test."""
    for n in range(10):
        folder = Path("radar") / f"event{n}"
        folder.mkdir(parents=True)
        rain = np.rint(RANDOM.gamma(0.5, 400, (16, 32))).clip(0, 6000).astype(np.uint16)
        for t in range(8):
            Image.fromarray(rain[:, t : t + 16]).save(folder / f"{5 * t:04}.pgm")
    physical = "--data.value-range 0 60 --data.stored 0 6000 --data.unit mm/h"
    path = run(f"--data.clips radar --data.image-size 16 {physical} --context 4 --horizon 3")
    kept = read_config(path)["test_clips"]
    assert kept["of"] == str(Path("radar").resolve())
    [held_out] = kept["names"]
    thresholds = ["--thresholds", "0.5", "2", "5"]
    command = ["--context", "4", "--horizon", "3", *thresholds, "--json", "scores.json"]
    Path("radar/event10").mkdir()
    (Path("radar/event10") / "0.pgm").write_bytes(b"P5 16 16 65535\n")
    capsys.readouterr()
    # The meaning of the values is known from the training, and what was trained on is left out.
    assert main(["evaluate", "runs/NAME", "radar", *command, "--report", "report.html"]) == 0
    out = capsys.readouterr().out
    assert "Values as in training: stored 0 to 6000, value-range 0 to 60, unit mm/h." in out
    assert "radar: 1 of 11 files cannot be used and are left out: radar/event10/0.pgm is a damaged" in out
    assert "9 of 10 clips were trained or validated on and are left out" in out
    assert "CSI at 0.5 mm/h" in out
    assert "MAE per pixel in mm/h" in out
    frames = [np.asarray(Image.open(f)) for f in sorted((Path("radar") / held_out).iterdir())]
    last, truth = (np.stack(part).astype(float) / 100 for part in ([frames[3]] * 3, frames[4:7]))
    found = json.loads(Path("scores.json").read_text())
    assert (found["sequences"], found["unit"], found["value_range"]) == (1, "mm/h", [0.0, 60.0])
    copied = next(scores for scores in found["baselines"] if scores["name"] == "copy last frame")
    for scores, threshold in zip(copied["thresholds"], (0.5, 2, 5), strict=True):
        hits = ((last >= threshold) & (truth >= threshold)).sum()
        either = ((last >= threshold) | (truth >= threshold)).sum()
        assert (scores["threshold"], scores["hits"]) == (threshold, hits)
        assert scores["csi"]["mean"] == pytest.approx(hits / either, abs=1e-12)
    assert copied["metrics"]["mae_physical"]["mean"] == pytest.approx(abs(last - truth).mean(), rel=1e-5)
    assert "MAE per pixel in mm/h" in Path("report.html").read_text()
    # Where all that is asked for was trained on, there is nothing to report.
    seen = next(f"radar/event{n}" for n in range(10) if f"event{n}" != held_out)
    assert main(["evaluate", "runs/NAME", seen, *command]) == 2
    assert "1 of 1 clips were trained or validated on" in capsys.readouterr().err
    assert main(["evaluate", "runs/NAME", "radar", *command, "--strict"]) == 2
    assert "event10/0.pgm is a damaged image" in capsys.readouterr().err
    # So it is with rollouts, of which those on the clips of the training are shown, too.
    command = ["rollout", "runs/NAME", "radar", "--context", "4", "--horizon", "3", "--count", "11"]
    assert main([*command, "-o", "nowcast.gif"]) == 0
    out = capsys.readouterr().out
    assert "Values as in training: stored 0 to 6000, value-range 0 to 60, unit mm/h." in out
    assert "radar: 1 of 11 files cannot be used and are left out: radar/event10/0.pgm is a damaged" in out
    assert "radar: 10 clips of 7 frames" in out
    assert main([*command, "--stored", "0", "6000", "-o", "same.gif"]) == 0
    assert main([*command, "--stored", "0", "600", "-o", "other.gif"]) == 0
    assert "Values as in training: value-range 0 to 60, unit mm/h." in capsys.readouterr().out
    same, other = (Path(f"{name}.gif").read_bytes() for name in ("same", "other"))
    assert Path("nowcast.gif").read_bytes() == same != other
    assert main([*command, "--strict"]) == 2
    assert "event10/0.pgm is a damaged image" in capsys.readouterr().err
    # What is beyond the clips that are shown is not looked at.
    assert main([*command[:-1], "2", "--strict", "-o", "nowcast.gif"]) == 0


def test_rollouts_of_clips_are_cut_to_the_shortest_and_what_does_not_fit_is_said(
    gifs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--data.clips gifs --data.image-size 16")
    frames = np.full((12, 20, 24), 80, np.uint8) + np.arange(12, dtype=np.uint8)[:, None, None]
    write_clip(gifs / "a.gif", frames, 10)
    write_clip(gifs / "b.gif", frames[:9], 10)
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


def test_a_run_whose_clips_have_changed_is_not_resumed_nor_scored(gifs: Path) -> None:
    path = run("--data.clips gifs --data.image-size 16")
    os.remove(gifs / read_config(path)["test_clips"]["names"][0])
    for option in ("--resume", "--score"):
        with pytest.raises(ValueError, match="gifs has changed since the run began, so that its test"):
            train.main(train.parse([option, str(path), "--device", "cpu"]))


def test_colour_and_an_array_of_clips(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_a_resumed_run_on_clips_is_the_run(gifs: Path, monkeypatch: pytest.MonkeyPatch, state_of) -> None:
    arguments = "--data.clips gifs --data.image-size 16 --context 4 --horizon 4"
    whole = run(arguments, "--steps", "4", "--validations", "2", "--name", "whole")
    with monkeypatch.context() as patch:

        def stop(step: int, *_) -> float:
            if step == 3:
                raise KeyboardInterrupt
            return genuine(step, *_)

        genuine = train.linear_decay
        patch.setattr(train, "linear_decay", stop)
        with pytest.raises(KeyboardInterrupt):
            run(arguments, "--steps", "4", "--validations", "2", "--name", "parts")
    parts = train.main(train.parse(["--resume", "runs/parts", "--device", "cpu"]))
    ours, theirs = (state_of(p) for p in (parts, whole))
    assert_close(ours, theirs, rtol=0, atol=0)
    assert train.main(train.parse(["--score", "runs/parts", "--device", "cpu"])) == parts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--data.clips none", "none is no file"),
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
        (
            {"image_size": 18},
            {},
            "data.image_size is 18, which patches of 4 x 4 do not divide; sizes",
        ),
        (
            {"size": (16, 18)},
            {},
            r"data.size is \(16, 18\), which patches of 4 x 4 do not divide; sizes",
        ),
        ({"size": (0, 16)}, {}, r"data.size is \(0, 16\); it needs 1 pixel or more"),
        ({"size": (16, 16), "clips": None}, {}, r"data.size is \(16, 16\), but is of clips alone"),
        ({}, {"channels": 2}, "model.channels is 2; clips are read as gray or colour: it needs 1 or 3"),
    ],
)
def test_settings_that_do_not_go_together(data: dict, model: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train.Config(
            data=train.DataConfig(**{"clips": Path("gifs"), **data}),
            model=train.StackedForecasterConfig(hidden_channels=(4,), **model),
        )
