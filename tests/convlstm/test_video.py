"""Clips in and GIFs out: every layout and type, and a clear refusal of what is no clip."""

import os
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from convlstm.video import read_clips, write_gif

RANDOM = np.random.default_rng(0)


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


@pytest.mark.parametrize(
    ("shape", "layout", "clips"),
    [
        ((5, 7, 6), None, (1, 5, 1, 7, 6)),
        ((5, 7, 6, 3), None, (1, 5, 3, 7, 6)),
        ((5, 7, 6, 1), None, (1, 5, 1, 7, 6)),
        ((5, 4, 7, 6), None, (4, 5, 1, 7, 6)),
        ((4, 5, 7, 6), "NTHW", (4, 5, 1, 7, 6)),
        ((4, 5, 3, 7, 6), None, (4, 5, 3, 7, 6)),
        ((4, 5, 7, 6, 3), None, (4, 5, 3, 7, 6)),
        ((7, 6, 5), "hwt", (1, 5, 1, 7, 6)),
    ],
)
def test_layouts(tmp_path: Path, shape: tuple, layout: str | None, clips: tuple) -> None:
    array = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    read = read_clips(save(tmp_path / "a.npy", array), layout)
    assert read.shape == clips
    assert read.dtype == np.float32
    assert read.flags.c_contiguous
    # One value followed by hand from the file to the result.
    place = {"N": clips[0] - 1, "T": 2, "C": clips[2] - 1, "H": 6, "W": 4}
    guessed = {3: "THW", 4: "THWC" if shape[-1] in (1, 3) else "TNHW"}
    axes = (layout or guessed.get(len(shape)) or ("NTCHW" if shape[2] == 3 else "NTHWC")).upper()
    assert (
        read[tuple(place[axis] for axis in "NTCHW")] == np.float32(array[tuple(place[a] for a in axes)]) / 255
    )


@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (np.array([[[0, 255]]], np.uint8), [0, 1]),
        (np.array([[[0, 65535]]], np.uint16), [0, 1]),
        (np.array([[[False, True]]]), [0, 1]),
        (np.array([[[0.25, 1.0]]], np.float64), [0.25, 1]),
        (np.array([[[0.25, 1.0]]], np.float16), [0.25, 1]),
    ],
)
def test_values_come_as_pixels_in_0_1(tmp_path: Path, array: np.ndarray, wanted: list[float]) -> None:
    np.testing.assert_array_equal(read_clips(save(tmp_path / "a.npy", array)).ravel(), wanted)


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    array = np.zeros((4, 5, 6, 7), np.float32)
    array[:, 3:] = 9.0  # out of range: reading these clips would raise
    path = save(tmp_path / "a.npy", array)
    assert read_clips(path, first=3).shape == (3, 4, 1, 6, 7)
    with pytest.raises(ValueError, match="has values from 0 to 9; scale floats"):
        read_clips(path)


@pytest.mark.parametrize(
    ("array", "layout", "message"),
    [
        (np.zeros((4, 5), np.uint8), None, "has 2 axes"),
        (np.zeros((0, 5, 5), np.uint8), None, "there is nothing in it"),
        (np.zeros((4, 5, 5), np.int32), None, "values of type int32"),
        (np.zeros((4, 5, 5), np.complex64), None, "values of type complex64"),
        (np.full((4, 5, 5), np.nan), None, "not finite"),
        (np.full((4, 5, 5), -0.5), None, "values from -0.5 to -0.5"),
        (np.zeros((4, 5, 5), np.uint8), "TH", "layout is 'TH'; it needs T, H and W"),
        (np.zeros((4, 5, 5), np.uint8), "THWT", "layout is 'THWT'"),
        (np.zeros((4, 5, 5), np.uint8), "TNHW", "names 4 axes, but .* has 3"),
        (np.zeros((2, 4, 4, 5, 5), np.uint8), "NTCHW", "has 4 channels"),
        (np.array([[["a"]]]), None, "values of type <U1"),
    ],
)
def test_arrays_that_are_no_clips(
    tmp_path: Path, array: np.ndarray, layout: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_clips(save(tmp_path / "a.npy", array), layout)


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_files_that_are_no_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none.npy is no file"):
        read_clips("none.npy")
    Path("empty.npy").touch()
    with pytest.raises(ValueError, match=r"empty.npy is empty"):
        read_clips("empty.npy")
    Path("text.npy").write_text("hello, world")
    with pytest.raises(ValueError, match=r"neither a \.npy array nor a GIF"):
        read_clips("text.npy")
    np.save("objects.npy", np.array([[[Hostile()]]], dtype=object))
    with pytest.raises(ValueError, match="objects instead of numbers"):
        read_clips("objects.npy")
    assert not Path("executed").exists()
    save(Path("whole.npy"), np.zeros((4, 50, 50), np.uint8))
    Path("part.npy").write_bytes(Path("whole.npy").read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"part.npy is damaged"):
        read_clips("part.npy")
    write_gif("whole.gif", RANDOM.integers(0, 256, (4, 50, 50), dtype=np.uint8), 5)
    Path("part.gif").write_bytes(Path("whole.gif").read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"part.gif is a damaged GIF"):
        read_clips("part.gif")


@pytest.mark.parametrize("colour", [(), (3,)])
def test_a_gif_comes_back_exactly(tmp_path: Path, colour: tuple[int, ...]) -> None:
    levels = np.array([0, 80, 170, 255], np.uint8)  # 64 colours at most, so that one palette holds them
    frames = levels[RANDOM.integers(0, 4, (6, 9, 8, *colour))]
    path = tmp_path / "a.gif"
    assert write_gif(path, frames, 10) == 10
    clip = read_clips(path)
    wanted = frames[:, None] if not colour else frames.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(clip[0] * 255, wanted, atol=1e-4)
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        assert image.info["duration"] == 100


def test_all_gray_levels_survive(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    frames = np.stack([ramp, ramp[::-1]])
    write_gif(tmp_path / "a.gif", frames, 5)
    np.testing.assert_allclose(read_clips(tmp_path / "a.gif")[0, :, 0] * 255, frames, atol=1e-4)


@pytest.mark.parametrize(
    ("fps", "written"), [(5, 5), (10, 10), (12, 12.5), (30, 100 / 3), (60, 50), (1000, 50), (0.5, 0.5)]
)
def test_frame_rates_are_rounded_to_hundredths(tmp_path: Path, fps: float, written: float) -> None:
    frames = RANDOM.integers(0, 256, (3, 8, 8), dtype=np.uint8)
    assert write_gif(tmp_path / "a.gif", frames, fps) == pytest.approx(written)
    assert iio.immeta(tmp_path / "a.gif")["duration"] == pytest.approx(1000 / written)


@pytest.mark.parametrize(
    ("name", "frames", "fps", "message"),
    [
        ("a.mp4", np.zeros((2, 4, 4), np.uint8), 5, "does not end in .gif"),
        ("none/a.gif", np.zeros((2, 4, 4), np.uint8), 5, "is no directory"),
        ("a.gif", np.zeros((2, 4, 4), np.uint8), 0, "fps is 0"),
        ("a.gif", np.zeros((2, 4, 4), np.uint8), float("nan"), "fps is nan"),
        ("a.gif", np.zeros((0, 4, 4), np.uint8), 5, "needs one frame"),
        ("a.gif", np.zeros((2, 4, 4), np.float32), 5, "they need uint8"),
        ("a.gif", np.zeros((2, 4, 4, 4), np.uint8), 5, "they need uint8"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(
    tmp_path: Path, name: str, frames: np.ndarray, fps: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_gif(tmp_path / name, frames, fps)
    assert os.listdir(tmp_path) == []


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.gif"
    path.write_text("old")

    def fail(file: Path, *_, **__) -> None:
        file.write_text("half")
        raise OSError("no space left on device")

    monkeypatch.setattr(iio, "imwrite", fail)
    with pytest.raises(OSError, match="no space"):
        write_gif(path, np.zeros((2, 4, 4), np.uint8), 5)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.gif"]
