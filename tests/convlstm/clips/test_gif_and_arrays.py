"""Clips in and GIFs out: every layout and type, and a clear refusal of what is no clip."""

import os
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from convlstm.clips import check_gif, read_clips, write_gif

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
        (np.array([[[0, 65535]]], ">u2"), [0, 1]),
        (np.array([[[False, True]]]), [0, 1]),
        (np.array([[[0.25, 1.0]]], np.float64), [0.25, 1]),
        (np.array([[[0.25, 1.0]]], np.float16), [0.25, 1]),
    ],
)
def test_values_come_as_pixels_in_0_1(tmp_path: Path, array: np.ndarray, wanted: list[float]) -> None:
    np.testing.assert_array_equal(read_clips(save(tmp_path / "a.npy", array)).ravel(), wanted)


def test_an_array_in_fortran_order(tmp_path: Path) -> None:
    array = RANDOM.random((5, 4, 7, 6), dtype=np.float32)
    read = read_clips(save(tmp_path / "a.npy", np.asfortranarray(array)))
    np.testing.assert_array_equal(read[:, :, 0], array.transpose(1, 0, 2, 3))


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    array = np.zeros((4, 5, 6, 7), np.float32)
    array[:, 3:] = 9.0  # out of range: reading these clips would raise
    path = save(tmp_path / "a.npy", array)
    assert read_clips(path, first=3).shape == (3, 4, 1, 6, 7)
    with pytest.raises(ValueError, match="has values from 0 to 9; scale floats to"):
        read_clips(path)


@pytest.mark.parametrize(
    ("array", "layout", "message"),
    [
        (np.zeros((4, 5), np.uint8), None, "has 2 axes"),
        (np.zeros((0, 5, 5), np.uint8), None, "there is nothing in it"),
        (np.zeros((4, 5, 5), np.int32), None, "values of type int32"),
        (np.zeros((4, 5, 5), np.uint32), None, "values of type uint32"),
        (np.zeros((4, 5, 5), np.complex64), None, "values of type complex64"),
        (np.full((4, 5, 5), np.nan), None, r"no numbers \(nan\)"),
        (np.full((4, 5, 5), np.inf), None, "values from inf to inf"),
        (np.full((4, 5, 5), 1e300), None, r"values from 1e\+300"),
        (np.full((4, 5, 5), -0.5), None, "values from -0.5 to -0.5"),
        (np.zeros((4, 5, 5), np.uint8), "TH", "layout is 'TH'; it needs each of T, H and W once"),
        (np.zeros((4, 5, 5), np.uint8), "THWT", "layout is 'THWT'"),
        (np.zeros((4, 5, 5), np.uint8), "TNHW", "layout is 'TNHW', 4 axes, but .* has 3"),
        (np.zeros((2, 4, 4, 5, 5), np.uint8), "NTCHW", r"has 4 channels \(RGBA: leave out the fourth\)"),
        (np.zeros((2, 4, 4, 5, 5), np.uint8), None, r"has 4 channels .*read as NTCHW"),
        (np.zeros((2, 4, 5, 5, 4), np.uint8), None, r"has 4 channels .*read as NTHWC"),
        (np.zeros((4, 5, 5, 4), np.uint8), None, r"has 4 channels .*read as THWC; it needs 1 or 3"),
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
    with pytest.raises(
        ValueError, match=r"text.npy begins with b'hello,'.* a \.npy array of clips, or a GIF"
    ):
        read_clips("text.npy")
    Path("directory").mkdir()
    with pytest.raises(FileNotFoundError, match="directory is no file"):
        read_clips("directory")
    with pytest.raises(ValueError, match="first is 0"):
        read_clips(save(Path("whole.npy"), np.zeros((4, 50, 50), np.uint8)), first=0)


def test_objects_are_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("objects.npy", np.array([[[Hostile()]]], dtype=object))
    with pytest.raises(ValueError, match=r"objects.npy holds Python objects \(a pickle\)"):
        read_clips("objects.npy")
    assert not Path("executed").exists()
    np.load("objects.npy", allow_pickle=True)  # and the trap works
    assert Path("executed").exists()


@pytest.mark.parametrize("name", ["whole.npy", "whole.gif"])
def test_a_file_cut_short_is_damaged_wherever_it_is_cut(tmp_path: Path, name: str) -> None:
    frames = RANDOM.integers(0, 256, (3, 5, 4), dtype=np.uint8)
    np.save(tmp_path / "whole.npy", frames)
    write_gif(tmp_path / "whole.gif", frames, 5)
    data = (tmp_path / name).read_bytes()
    assert read_clips(tmp_path / name).shape == (1, 3, 1, 5, 4)
    part = tmp_path / "part"
    for length in range(6, len(data)):
        part.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"part is (damaged|a damaged GIF)"):
            read_clips(part)


def test_a_gif_has_no_layout(tmp_path: Path) -> None:
    write_gif(tmp_path / "a.gif", np.zeros((2, 4, 4), np.uint8), 5)
    with pytest.raises(ValueError, match=r"layout is 'THW', but .* is a GIF"):
        read_clips(tmp_path / "a.gif", "THW")


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


def test_frames_of_256_colours_each_are_exact(tmp_path: Path) -> None:
    frames = np.stack([RANDOM.permutation(RANDOM.choice(2**24, 256, replace=False)) for _ in range(3)])
    frames = np.stack([frames >> 16, frames >> 8 & 255, frames & 255], axis=-1).astype(np.uint8)
    frames = frames.reshape(3, 16, 16, 3)
    write_gif(tmp_path / "a.gif", frames, 5)
    shown = read_clips(tmp_path / "a.gif")[0].transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(np.rint(shown * 255), frames)


def test_frames_of_more_colours_are_near_and_without_noise(tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :64] / 64
    smooth = np.stack([x, y, (x + y) / 2], axis=-1)
    frames = np.rint(255 * np.stack([smooth, smooth[::-1]])).astype(np.uint8)
    frames[:, 20:40, 20:40] = (200, 30, 90)
    write_gif(tmp_path / "a.gif", frames, 5)
    shown = np.rint(read_clips(tmp_path / "a.gif")[0].transpose(0, 2, 3, 1) * 255)
    assert np.abs(shown - frames).mean() < 5
    flat = shown[:, 20:40, 20:40]
    assert (flat == flat[:, :1, :1]).all()  # one colour stays one: dithering would mix two
    assert np.abs(flat - (200, 30, 90)).max() <= 2


@pytest.mark.parametrize(
    "order", [[0, 0, 1, 2, 2, 2, 3], [0, 1, 2, 2, 2], [0, 0, 1, 1, 2, 2], [0, 0, 0, 0], [0]], ids=str
)
@pytest.mark.parametrize("fps", [10, 1000, 0.1])
def test_equal_frames_come_back_as_many(tmp_path: Path, order: list[int], fps: float) -> None:
    frames = RANDOM.integers(0, 256, (4, 6, 5), dtype=np.uint8)[order]
    write_gif(tmp_path / "a.gif", frames, fps)
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == len(set(order))  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_allclose(read_clips(tmp_path / "a.gif")[0, :, 0] * 255, frames, atol=1e-4)


@pytest.mark.parametrize(
    ("durations", "comment", "times"),
    [
        ([10, 20, 10], "", [1, 2, 1]),
        ([5, 5, 5, 300], "", [1, 1, 1, 1]),  # held at the end
        ([6000], "", [1]),
        ([3, 3, 4, 3], "", [1, 1, 1, 1]),  # 30 frames a second
        ([2, 3, 2, 3], "", [1, 1, 1, 1]),  # 40
        ([0, 0, 0], "", [1, 1, 1]),  # as fast as the viewer can
        ([10, 0, 10], "", [1, 1, 1]),
        ([10, 20, 30], "5/100 s a frame", [2, 4, 6]),
        ([12, 12, 24], "5/100 s a frame", [1, 1, 1]),  # changed since
        ([10, 10, 20], "0/100 s a frame", [1, 1, 1]),
        ([10, 10, 20], "9" * 9000, [1, 1, 1]),
    ],
)
def test_gifs_of_others_come_as_evenly_as_they_last(
    tmp_path: Path, durations: list[int], comment: str, times: list[int]
) -> None:
    frames = RANDOM.integers(0, 256, (len(durations), 6, 5), dtype=np.uint8)
    images = [Image.fromarray(frame) for frame in frames]
    milliseconds = [10 * duration for duration in durations]
    path, options = tmp_path / "a.gif", {"comment": comment} if comment else {}
    images[0].save(path, save_all=True, append_images=images[1:], duration=milliseconds, **options)
    clip = read_clips(path)[0, :, 0]
    np.testing.assert_allclose(clip * 255, np.repeat(frames, times, axis=0), atol=1e-4)


def test_a_gif_too_large_for_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dark, light = Image.new("L", (100, 100)), Image.new("L", (100, 100), 255)
    # 655.35 s at the pace of 0.01 s: 65,535 frames of 30,000 bytes.
    dark.save(tmp_path / "a.gif", save_all=True, append_images=[light, dark], duration=[655_350, 10, 10])
    with pytest.raises(ValueError, match=r"a.gif is too large: .* more than 1,073,741,824 bytes"):
        read_clips(tmp_path / "a.gif")
    monkeypatch.setattr("convlstm.clips.gif.LARGEST", 5 * 8 * 8 * 3)
    write_gif(tmp_path / "b.gif", RANDOM.integers(0, 256, (5, 8, 8), dtype=np.uint8), 5)
    assert read_clips(tmp_path / "b.gif").shape == (1, 5, 1, 8, 8)
    write_gif(tmp_path / "b.gif", RANDOM.integers(0, 256, (6, 8, 8), dtype=np.uint8), 5)
    with pytest.raises(ValueError, match=r"b.gif is too large"):
        read_clips(tmp_path / "b.gif")


def test_frames_equal_for_longer_than_a_gif_can_say_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"frames are equal for longer than 655.35 s at 1 frames per second"):
        write_gif(tmp_path / "a.gif", np.zeros((656, 4, 4), np.uint8), 1)
    assert os.listdir(tmp_path) == []


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
        ("a.gif", np.zeros((0, 4, 4), np.uint8), 5, "a GIF needs one or more"),
        ("a.gif", np.zeros((1, 1, 70_000), np.uint8), 5, "65,535 pixels a side"),
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

    def fail(self: Image.Image, file: Path, *_, **__) -> None:
        file.write_text("half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="no space"):
        write_gif(path, np.zeros((2, 4, 4), np.uint8), 5)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.gif"]


def test_whether_a_gif_can_be_written(tmp_path: Path) -> None:
    assert [check_gif(tmp_path / "a.GIF", fps) for fps in (5, 12, 1000, 1e-9, 1e-320)] == [
        20,
        8,
        2,
        65_535,
        65_535,
    ]
    (tmp_path / "b.gif").mkdir()
    with pytest.raises(ValueError, match=r"b.gif is a directory"):
        check_gif(tmp_path / "b.gif", 5)
