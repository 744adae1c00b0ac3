"""Clips in arrays and in folders, as arrays and as sources; what is no clip is named, whatever is wrong."""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from einops import rearrange
from PIL import Image

from convlstm.clips import ClipSource, find_clips, fit, open_clips, read_clips, write_clip
from convlstm.clips.reading import _stretches

RANDOM = np.random.default_rng(0)


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


@pytest.mark.parametrize(
    ("shape", "layout", "axes"),
    [
        ((5, 7, 6), None, "t h w -> 1 t 1 h w"),
        ((5, 7, 6, 3), None, "t h w c -> 1 t c h w"),
        ((5, 7, 6, 1), None, "t h w c -> 1 t c h w"),
        ((5, 4, 7, 6), None, "t n h w -> n t 1 h w"),
        ((4, 5, 7, 6), "NTHW", "n t h w -> n t 1 h w"),
        ((4, 5, 3, 7, 6), None, "n t c h w -> n t c h w"),
        ((4, 5, 7, 6, 3), None, "n t h w c -> n t c h w"),
        ((7, 6, 5), "hwt", "h w t -> 1 t 1 h w"),
    ],
)
def test_layouts(tmp_path: Path, shape: tuple, layout: str | None, axes: str) -> None:
    array = np.asfortranarray(RANDOM.integers(0, 256, shape, dtype=np.uint8))
    read = read_clips(save(tmp_path / "a.npy", array), layout)
    np.testing.assert_array_equal(read, rearrange(array, axes) / np.float32(255))
    assert read.dtype == np.float32
    assert read.flags.c_contiguous


@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (np.array([[[0, 255]]], np.uint8), [0, 1]),
        (np.array([[[0, 65535]]], ">u2"), [0, 1]),
        (np.array([[[False, True]]]), [0, 1]),
        (np.array([[[0.25, 1.0]]], np.float64), [0.25, 1]),
        (np.array([[[0.25, 1.0]]], np.float16), [0.25, 1]),
    ],
)
def test_values_come_as_pixels_in_0_1(tmp_path: Path, array: np.ndarray, wanted: list[float]) -> None:
    np.testing.assert_array_equal(read_clips(save(tmp_path / "a.npy", array)).ravel(), wanted)


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    array = np.zeros((4, 5, 6, 7), np.float32)
    array[:, 3:], array[3:] = 9.0, 9.0  # out of range: reading these would raise
    path = save(tmp_path / "a.npy", array)
    assert read_clips(path, first=3, frames=3).shape == (3, 3, 1, 6, 7)
    with pytest.raises(ValueError, match="has values from 0 to 9; scale floats to"):
        read_clips(path)
    with pytest.raises(ValueError, match="first is 0"):
        read_clips(path, first=0)


@pytest.mark.parametrize(
    ("array", "layout", "message"),
    [
        (np.zeros((4, 5), np.uint8), None, "has 2 axes"),
        (np.zeros((0, 5, 5), np.uint8), None, "there is nothing in it"),
        (np.zeros((4, 5, 5), np.int32), None, "values of type int32"),
        (np.full((4, 5, 5), np.nan), None, r"no numbers \(nan\)"),
        (np.zeros((4, 5, 5), np.uint8), "TH", "layout is 'TH'; it needs each of T, H and W once"),
        (np.zeros((4, 5, 5), np.uint8), "TNHW", "layout is 'TNHW', 4 axes, but .* has 3"),
        (np.zeros((4, 5, 5, 4), np.uint8), None, r"has 4 channels .*read as THWC; it needs 1 or 3"),
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


def test_objects_are_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("objects.npz", np.array([[[Hostile()]]], dtype=object))
    with pytest.raises(ValueError, match=r"is damaged .*: Object arrays"):
        read_clips("objects.npz")
    assert not Path("executed").exists()
    np.load("objects.npz", allow_pickle=True)["arr_0"]  # and the trap works
    assert Path("executed").exists()


def test_files_that_are_no_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none.npy does not exist"):
        read_clips("none.npy")
    for name in ("text.npy", "text.npz", "text.h5", "text.gif", "text.mp4", "text.txt"):
        for content in ("", "hello, world"):
            Path(name).write_text(content)
            with pytest.raises(ValueError, match=f"{name} (is empty|is a? ?damaged|begins with|ends as no)"):
                read_clips(name)
    Path("directory").mkdir()
    with pytest.raises(FileNotFoundError, match="directory has no clips in it; it needs a video"):
        read_clips("directory")
    write_clip("a.gif", np.zeros((2, 4, 4), np.uint8), 5)
    with pytest.raises(ValueError, match=r"layout and variable are of arrays, and a.gif is none"):
        read_clips("a.gif", "THW")


@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_arrays_with_names(tmp_path: Path, suffix: str) -> None:
    rain = RANDOM.integers(0, 256, (4, 3, 6, 5), dtype=np.uint8)  # (T, N, H, W)
    path = tmp_path / f"a.{suffix}"
    if suffix == "npz":
        np.savez(path, rain=rain, times=np.arange(4))
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("radar/rain", data=rain, compression="gzip")
            file["times"], file["nothing"] = np.arange(4), h5py.Empty("f4")
    wanted = rain.transpose(1, 0, 2, 3).astype(np.float32) / 255
    np.testing.assert_array_equal(read_clips(path)[:, :, 0], wanted)
    array = open_clips(path, variable="rain" if suffix == "npz" else "radar/rain")
    assert (array.layout, array.shape) == ("TNHW", (3, 4, 1, 6, 5))
    np.testing.assert_array_equal(array.frames(2, slice(1, 4, 2))[:, 0], rain[1::2, 2])
    with pytest.raises(ValueError, match=r"variable is 'snow', which .* does not have; it has .*rain"):
        read_clips(path, variable="snow")
    part = tmp_path / f"b.{suffix}"
    part.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"b.{suffix} is damaged or cut short"):
        read_clips(part)
    for names, which in ((("a", "b"), "2: a, b"), ((), "none")):
        arrays: dict[str, Any] = {name: np.zeros((3, 4, 4)) for name in names}
        np.savez(tmp_path / "c.npz", **arrays, times=np.zeros(3))
        with pytest.raises(ValueError, match=f"has {which} with three axes or more; name the one"):
            read_clips(tmp_path / "c.npz")


def test_a_folder_of_clips(tmp_path: Path) -> None:
    for number, frames in ((10, 7), (2, 5)):
        np.save(tmp_path / f"clip{number}.npy", np.full((frames, 8, 6), number / 20, np.float32))
    (tmp_path / "deep" / "frames").mkdir(parents=True)
    for t in range(6):
        Image.new("L", (6, 8), 255).save(tmp_path / "deep" / "frames" / f"{t}.png")
    (tmp_path / ".hidden").mkdir()
    np.save(tmp_path / ".hidden" / "a.npy", np.zeros((5, 8, 6)))
    found = [path.relative_to(tmp_path).as_posix() for path in find_clips(tmp_path)]
    assert found == ["clip2.npy", "clip10.npy", "deep/frames"]
    clips = read_clips(tmp_path)
    assert clips.shape == (3, 5, 1, 8, 6)
    np.testing.assert_allclose(clips.mean(axis=(1, 2, 3, 4)), [0.1, 0.5, 1], rtol=1e-6)
    assert read_clips(tmp_path, first=2).shape == (2, 5, 1, 8, 6)
    np.save(tmp_path / "clip11.npy", np.zeros((5, 9, 6), np.float32))
    with pytest.raises(ValueError, match=r"go together need one size"):
        read_clips(tmp_path)
    assert read_clips(tmp_path, size=(4, 4)).shape == (4, 5, 1, 4, 4)


def test_large_frames_are_stacked_few_at_a_time() -> None:
    for size, frames, lengths in (((1, 8, 8), 20, [16, 4]), ((3, 2160, 3840), 3, [2, 1])):
        frames = [np.zeros(size, np.uint8)] * frames
        assert [len(stretch) for stretch in _stretches(Path("video.mp4"), iter(frames))] == lengths


def test_frames_that_cover_a_size_are_cropped_at_the_center() -> None:
    frames = np.zeros((2, 1, 8, 16), np.uint8)
    frames[..., 4:12] = 200  # the middle square
    np.testing.assert_array_equal(fit(frames, (8, 8)), np.full((2, 1, 8, 8), 200))
    np.testing.assert_array_equal(fit(frames, (4, 4))[..., 1:-1], np.full((2, 1, 4, 2), 200))
    assert fit(frames, (4, 4)).dtype == np.uint8
    fine = np.tile(np.array([0, 60000], np.uint16), (1, 1, 8, 4))  # stripes: antialiased they are gray
    small = fit(fine, (2, 2))
    assert small.dtype == np.uint16
    assert np.abs(small.astype(int) - 30000).max() < 6000


def test_gray_and_color() -> None:
    color = np.array([[255, 0, 0], [0, 255, 0], [10, 10, 10]], np.uint8).reshape(3, 3, 1, 1)
    np.testing.assert_array_equal(fit(color, channels=1).ravel(), [76, 150, 10])
    gray = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    np.testing.assert_array_equal(fit(gray, channels=3), gray.repeat(3, axis=1))


def test_a_source_of_an_array(tmp_path: Path) -> None:
    array = RANDOM.integers(0, 256, (12, 4, 8, 6), dtype=np.uint8)  # time first
    path = save(tmp_path / "a.npy", array)
    source = ClipSource(path, 5)
    assert (len(source), source.layout, source.value_range, source.unit) == (4, "TNHW", (0.0, 1.0), "")
    np.testing.assert_array_equal(source.batch([3, 1]).numpy(), read_clips(path)[[3, 1], :5])
    assert [s.batch([1]).shape[1] for s in (source.longer(7), source.longer(20), source)] == [7, 12, 5]
    # A mapped array is scaled without a warning.
    assert ClipSource(path, 5, size=(4, 3)).batch([0]).shape == (1, 5, 1, 4, 3)


def test_a_source_of_a_folder_in_physical_units(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    stored = RANDOM.integers(0, 256, (5, 8, 6)).astype(np.uint16) * 10
    for t in range(5):
        Image.fromarray(stored[t]).save(tmp_path / "frames" / f"{t}.pgm")
    (tmp_path / "rain").mkdir()
    for t in range(5):  # floats are physical: as fractions, light rain would be a cloudburst
        Image.fromarray(np.full((8, 6), 0.6, np.float32)).save(tmp_path / "rain" / f"{t}.tif")
    write_clip(tmp_path / "z.gif", np.zeros((12, 32, 48, 3), np.uint8), 5)
    save(tmp_path / "a.npy", np.full((9, 8, 6), 30, np.float32))
    rain: dict[str, Any] = {"channels": 1, "size": (8, 6), "value_range": (0, 60), "unit": "mm/h"}
    source = ClipSource(tmp_path, 5, **rain)
    assert (len(source), source.layout, source.unit) == (4, None, "mm/h")
    batch = source.batch([0, 1, 2, 3])
    assert batch.shape == (4, 5, 1, 8, 6)
    assert batch[0].unique().tolist() == [0.5]
    np.testing.assert_allclose(batch[1, :, 0], stored * np.float32(1 / 65535), rtol=1e-6)
    np.testing.assert_allclose(batch[2], 0.01, rtol=1e-6)
    with pytest.raises(ValueError, match=r"frames has 5 frames a clip; it needs 6 or more"):
        ClipSource(tmp_path, 6, **rain)
