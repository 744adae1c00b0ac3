"""Clips of every kind in: films, folders of frames, .npz and HDF5; damage is named, whatever it is."""

import argparse
import os
from pathlib import Path
from typing import Any

import h5py
import imageio.v3 as iio
import numpy as np
import pytest
import torch
from PIL import Image

from convlstm.cli.clips import add_clips, source_from
from convlstm.clips import (
    ClipSource,
    find_clips,
    fit,
    guess_layout,
    open_clips,
    read_clips,
    stream_clips,
    write_mp4,
)
from convlstm.clips.films import _cut_short
from convlstm.clips.images import natural_order

RANDOM = np.random.default_rng(0)
CODECS = {"mp4": "libx264", "avi": "mpeg4", "mov": "libx264", "webm": "libvpx-vp9"}


def moving_square(frames: int = 12, height: int = 32, width: int = 48) -> np.ndarray:
    """A film (T, H, W, 3) that codecs keep nearly as it is."""
    film = np.full((frames, height, width, 3), (40, 90, 160), np.uint8)
    for t, picture in enumerate(film):
        picture[8:20, 2 * t : 2 * t + 12] = (220, 200, 60)
    return film


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "a.mp4"
    iio.imwrite(path, moving_square(), plugin="pyav", codec="libx264", fps=10)
    return path


@pytest.mark.parametrize("suffix", CODECS)
def test_films(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    iio.imwrite(path, moving_square(), plugin="pyav", codec=CODECS[suffix], fps=10)
    clip = read_clips(path)
    assert clip.shape == (1, 12, 3, 32, 48)
    assert np.abs(clip[0].transpose(0, 2, 3, 1) * 255 - moving_square()).mean() < 8
    assert read_clips(path, frames=5, channels=1, size=(16, 16)).shape == (1, 5, 1, 16, 16)


@pytest.mark.parametrize("suffix", CODECS)
def test_a_film_cut_short_is_refused(tmp_path: Path, suffix: str) -> None:
    whole, part = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    film = RANDOM.integers(0, 256, (30, 64, 64, 3), dtype=np.uint8)
    iio.imwrite(whole, film, plugin="pyav", codec=CODECS[suffix], fps=10)
    data = whole.read_bytes()
    for share in (0.3, 0.6):
        part.write_bytes(data[: int(share * len(data))])
        with pytest.raises(ValueError, match=rf"b.{suffix} is (a damaged film|cut short)"):
            read_clips(part)


def test_a_film_cut_without_being_encoded_anew_is_whole() -> None:
    times = [t / 25 for t in range(50)]
    assert not _cut_short(times, 50, 2.0)
    assert not _cut_short(times, 50, 9.0)  # the sound goes on
    assert not _cut_short(times, 90, 2.0)  # 40 frames before the cut are in the file, and are not shown
    assert _cut_short(times, 90, 3.6)
    assert _cut_short(times, 0, 3.6)
    assert not _cut_short(times, 0, 2.1)
    assert not _cut_short([0.0], 1, 0.04)


def test_damaged_films(film: Path) -> None:
    data = film.read_bytes()
    film.write_bytes(data[:40])
    with pytest.raises(ValueError, match=r"a.mp4 is a damaged film"):
        read_clips(film)
    film.write_bytes(data[:32] + bytes(len(data) - 32))
    with pytest.raises(
        ValueError, match=r"a.mp4 (is a damaged film|has no video|has no frames|is cut short)"
    ):
        read_clips(film)
    film.write_bytes(b"")
    with pytest.raises(ValueError, match=r"a.mp4 is empty"):
        read_clips(film)


def test_without_pyav_the_error_names_the_command(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ImportError, match=r'pip install "convlstm\[video\]"'):
        read_clips(film)


@pytest.mark.parametrize(("colour", "fps"), [((), 5), ((3,), 29.97)])
def test_an_mp4_that_was_written_is_read(tmp_path: Path, colour: tuple, fps: float) -> None:
    frames = moving_square(height=31, width=47)
    frames = frames if colour else frames[..., 0]
    written = write_mp4(tmp_path / "a.mp4", frames, fps)
    assert written == pytest.approx(fps, rel=1e-4)
    assert iio.immeta(tmp_path / "a.mp4", plugin="pyav")["fps"] == pytest.approx(fps, rel=1e-4)
    clip = read_clips(tmp_path / "a.mp4")
    assert clip.shape == (1, 12, 3 if colour else 1, 32, 48)
    assert np.abs(clip[0, :, 0, :31, :47] * 255 - frames.reshape(12, 31, 47, -1)[..., 0]).mean() < 6
    assert os.listdir(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((0, 4, 4), np.uint8), "an MP4 needs one or more"),
        (np.zeros((2, 4, 4), np.float32), "they need uint8"),
    ],
)
def test_an_mp4_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, frames: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_mp4(tmp_path / "a.mp4", frames, 5)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", ["png", "pgm", "tiff"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_folders_of_frames_are_exact_and_in_natural_order(tmp_path: Path, suffix: str, kind: type) -> None:
    frames = RANDOM.integers(0, np.iinfo(kind).max + 1, (11, 6, 5)).astype(kind)
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"frame{t}.{suffix}")
    (tmp_path / "notes.txt").write_text("not a frame")
    wanted = frames.astype(np.float32) / np.float32(np.iinfo(kind).max)
    np.testing.assert_array_equal(read_clips(tmp_path)[0, :, 0], wanted)
    assert read_clips(tmp_path, frames=3).shape == (1, 3, 1, 6, 5)


def test_jpeg_and_float_tiff(tmp_path: Path) -> None:
    for name in ("jpeg", "tiff"):
        (tmp_path / name).mkdir()
    Image.fromarray(moving_square(1)[0]).save(tmp_path / "jpeg" / "0.jpg", quality=95)
    assert (
        np.abs(read_clips(tmp_path / "jpeg")[0, 0].transpose(1, 2, 0) * 255 - moving_square(1)[0]).mean() < 4
    )
    rain = np.array([[0.0, 12.5], [30.0, 99.0]], np.float32)
    Image.fromarray(rain).save(tmp_path / "tiff" / "0.tif")
    np.testing.assert_array_equal(
        read_clips(tmp_path / "tiff", stored=(0, 60))[0, 0, 0],
        np.array([[0, 12.5 / 60], [0.5, 1]], np.float32),
    )


def test_a_pgm_keeps_its_values_whatever_its_highest_is(tmp_path: Path) -> None:
    (tmp_path / "0.pgm").write_bytes(
        b"P5 # rain\n# 0.01 mm/h\n2 2\n4095\n" + bytes([0, 0, 0, 9, 1, 0, 15, 255])
    )
    np.testing.assert_array_equal(
        read_clips(tmp_path, stored=(0, 6000))[0, 0, 0] * 6000, np.array([[0, 9], [256, 4095]], np.float32)
    )


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"0.png": b""}, r"0.png is empty"),
        ({"0.png": b"\x89PNG\r\n"}, r"0.png is a damaged image"),
        ({"0.png": "cut"}, r"0.png is a damaged image"),
        ({"0.pgm": b"P5 4 4 255\n123"}, r"0.pgm is a damaged image"),
        ({"0.png": ("L", 6, 5), "1.png": ("L", 6, 6)}, r"frame 2 is 6 x 6 pixels, the first 5 x 6"),
        ({"0.png": ("L", 6, 5), "1.png": ("RGB", 6, 5)}, r"frame 2 has 3 channel\(s\) of uint8, the first 1"),
        ({"0.png": ("L", 6, 5), "1.png": ("I;16", 6, 5)}, r"frame 2 has 1 channel\(s\) of uint16"),
        (
            {"0.png": ("RGBA", 6, 5)},
            r"0.png has an alpha channel \(RGBA\) with transparent pixels; it needs 1 or 3",
        ),
        ({"0.png": ("LA", 6, 5)}, r"0.png has an alpha channel \(LA\)"),
    ],
)
def test_folders_that_are_no_clip(tmp_path: Path, images: dict, message: str) -> None:
    for name, made in images.items():
        if isinstance(made, bytes):
            (tmp_path / name).write_bytes(made)
        elif made == "cut":
            Image.fromarray(RANDOM.integers(0, 256, (64, 64), dtype=np.uint8)).save(tmp_path / name)
            (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:2000])
        else:
            Image.new(made[0], made[1:]).save(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        read_clips(tmp_path)


@pytest.mark.parametrize(
    "header", [b"P2 5 4 # of rain\n6000\n", b"P5\n# mm/h\n5 # across\n4\n6000\n", b"P2\n#\n5 4\n6000 "]
)
def test_every_kind_of_pgm_keeps_its_values(tmp_path: Path, header: bytes) -> None:
    values = RANDOM.integers(0, 6001, (4, 5))
    plain = b"\n".join(b" ".join(b"%d" % v for v in row) for row in values.tolist()) + b"# end\n"
    body = plain if header.startswith(b"P2") else values.astype(">u2").tobytes()
    (tmp_path / "0.pgm").write_bytes(header + body)
    np.testing.assert_allclose(read_clips(tmp_path, stored=(0, 6000))[0, 0, 0], values / 6000, rtol=1e-6)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"P5 2 2 0\n" + bytes(4), "of 0 to 0; it needs"),
        (b"P5 2 2 70000\n" + bytes(16), "of 0 to 70000; it needs"),
        (b"P5 0 2 255\n", "2 x 0 pixels"),
        (b"P5 2 2 255\n" + bytes(3), "0.pgm is a damaged image"),
        (b"P2 2 2 255\n1 2 3", r"0.pgm is a damaged image \(3 values of 4\)"),
        (b"P2 2 2 255\n1 2 3 x", "0.pgm is a damaged image"),
        (b"P2 2 1 255\n1 300", r"0.pgm is a damaged image \(values from 1 to 300\)"),
    ],
)
def test_a_pgm_that_is_none(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "0.pgm").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_clips(tmp_path)


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_an_image_of_several_pages_is_no_frame(tmp_path: Path, suffix: str) -> None:
    pages = [Image.fromarray(RANDOM.integers(0, 256, (8, 8), dtype=np.uint8)) for _ in range(3)]
    pages[0].save(tmp_path / f"0{suffix}", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=f"0{suffix} has 3 pages; it needs one"):
        read_clips(tmp_path)


def test_no_frame_is_missed_or_read_twice(tmp_path: Path) -> None:
    for name in ("0.png", "0.pgm"):
        Image.new("L", (8, 8)).save(tmp_path / name)
    with pytest.raises(ValueError, match=r"has 0.pgm and 0.png, two files for one frame"):
        read_clips(tmp_path)
    (tmp_path / "0.pgm").unlink()
    (tmp_path / "1.png").symlink_to("nowhere.png")
    with pytest.raises(ValueError, match=r"1.png is a damaged image"):
        read_clips(tmp_path)


def test_an_hdf5_variable_without_a_shape_is_passed_over(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["nothing"], file["rain"] = h5py.Empty("f4"), np.ones((4, 8, 6), np.uint8)
    assert read_clips(tmp_path / "a.h5").shape == (1, 4, 1, 8, 6)


def test_an_opaque_alpha_channel_is_left_out(tmp_path: Path) -> None:
    Image.new("RGBA", (6, 5), (255, 0, 0, 255)).save(tmp_path / "0.png")
    np.testing.assert_array_equal(read_clips(tmp_path)[0, 0, :, 0, 0], [1, 0, 0])


@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_arrays_with_names(tmp_path: Path, suffix: str) -> None:
    rain = RANDOM.integers(0, 256, (4, 3, 6, 5), dtype=np.uint8)  # (T, N, H, W)
    path = tmp_path / f"a.{suffix}"
    if suffix == "npz":
        np.savez(path, rain=rain, times=np.arange(4))
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("radar/rain", data=rain, compression="gzip")
            file["times"] = np.arange(4)
    assert guess_layout(path) == "TNHW"
    np.testing.assert_array_equal(
        read_clips(path)[:, :, 0], rain.transpose(1, 0, 2, 3).astype(np.float32) / 255
    )
    name = "rain" if suffix == "npz" else "radar/rain"
    array = open_clips(path, variable=name)
    assert array.shape == (3, 4, 1, 6, 5)
    np.testing.assert_array_equal(array.frames(2, slice(1, 4, 2))[:, 0], rain[1::2, 2])
    with pytest.raises(
        ValueError, match=rf"variable is 'snow', which .*a.{suffix} does not have; it has .*rain"
    ):
        read_clips(path, variable="snow")
    part = tmp_path / f"b.{suffix}"
    part.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"b.{suffix} is damaged or cut short"):
        read_clips(part)


def test_an_array_without_a_name_among_several(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros((3, 4, 4)), b=np.zeros((3, 4, 4)))
    with pytest.raises(ValueError, match=r"has 2: a, b with three axes or more; name the one"):
        read_clips(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match=r"has none with three axes or more"):
        read_clips(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", a=np.zeros((3, 4, 4), object))
    with pytest.raises(ValueError, match=r"a.npz is damaged or cut short: Object arrays cannot be loaded"):
        read_clips(tmp_path / "a.npz")


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
    with pytest.raises(ValueError, match="holds several clips; it needs one"):
        stream_clips(tmp_path)


def test_natural_order() -> None:
    names = ["a10b2", "a2b10", "A2b9", "b1", "a", "3", "10"]
    assert sorted(names, key=natural_order) == ["3", "10", "a", "A2b9", "a2b10", "a10b2", "b1"]


def test_frames_that_cover_a_size_are_cropped_at_the_centre() -> None:
    frames = np.zeros((2, 1, 8, 16), np.uint8)
    frames[..., 4:12] = 200  # the middle square
    np.testing.assert_array_equal(fit(frames, (8, 8)), np.full((2, 1, 8, 8), 200))
    np.testing.assert_array_equal(fit(frames, (4, 4))[..., 1:-1], np.full((2, 1, 4, 2), 200))
    assert fit(frames, (4, 4)).dtype == np.uint8
    fine = np.tile(
        np.array([0, 60000], np.uint16), (1, 1, 8, 4)
    )  # stripes of a pixel: antialiased they are gray
    small = fit(fine, (2, 2))
    assert small.dtype == np.uint16
    assert np.abs(small.astype(int) - 30000).max() < 6000


def test_gray_and_colour() -> None:
    colour = np.array([[255, 0, 0], [0, 255, 0], [10, 10, 10]], np.uint8).reshape(3, 3, 1, 1)
    np.testing.assert_array_equal(fit(colour, channels=1).ravel(), [76, 150, 10])
    gray = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    np.testing.assert_array_equal(fit(gray, channels=3), gray.repeat(3, axis=1))


def test_a_source_reads_what_read_clips_reads_a_clip_at_a_time(tmp_path: Path) -> None:
    array = RANDOM.integers(0, 256, (12, 4, 8, 6), dtype=np.uint8)  # time first
    np.save(tmp_path / "a.npy", array)
    source = ClipSource(tmp_path / "a.npy", 5)
    assert (len(source), source.layout, source.value_range, source.unit) == (4, "TNHW", (0.0, 1.0), "")
    np.testing.assert_array_equal(source.batch([3, 1]).numpy(), read_clips(tmp_path / "a.npy")[[3, 1], :5])
    (tmp_path / "more" / "frames").mkdir(parents=True)
    for t in range(5):
        Image.fromarray(array[t, 0].astype(np.uint16) * 10).save(tmp_path / "more" / "frames" / f"{t}.pgm")
    write_mp4(tmp_path / "more" / "z.mp4", moving_square(), 5)
    np.save(tmp_path / "more" / "a.npy", np.full((9, 8, 6), 30, np.float32))
    rain: dict[str, Any] = {
        "channels": 1,
        "size": (8, 6),
        "stored": None,
        "value_range": (0, 60),
        "unit": "mm/h",
    }
    source = ClipSource(tmp_path / "more", 5, **rain)
    assert (len(source), source.layout, source.unit) == (3, None, "mm/h")
    batch = source.batch([0, 1, 2])
    assert batch.shape == (3, 5, 1, 8, 6)
    assert batch[0].unique().tolist() == [0.5]
    np.testing.assert_allclose(batch[1, :, 0], array[:5, 0] * np.float32(10 / 65535), rtol=1e-6)
    with pytest.raises(ValueError, match=r"a.npy has 9 frames a clip, read as THW; it needs 10 or more"):
        ClipSource(tmp_path / "more", 10, **rain)
    (tmp_path / "more" / "a.npy").unlink()
    with pytest.raises(ValueError, match=r"frames has 5 frames a clip; it needs 10 or more"):
        ClipSource(tmp_path / "more", 10, **rain).batch([0])
    np.save(tmp_path / "more" / "a.npy", np.full((9, 8, 6), 30, np.float32))
    with pytest.raises(ValueError, match=r"clips that go together need one size"):
        ClipSource(tmp_path / "more", 5, **{**rain, "size": None}).batch([0, 2])


def test_float_frames_are_physical_as_float_arrays_are(tmp_path: Path) -> None:
    frames = np.full((4, 8, 6), 0.6, np.float32)  # light rain: as fractions, it would be a cloudburst
    (tmp_path / "rain").mkdir()
    for t in range(4):
        Image.fromarray(frames[t]).save(tmp_path / "rain" / f"{t}.tif")
    np.save(tmp_path / "rain.npy", frames)
    batch = ClipSource(tmp_path, 4, value_range=(0, 60)).batch([0, 1])
    np.testing.assert_allclose(batch, 0.01, rtol=1e-6)


def test_an_image_beside_clips_does_not_hide_them(tmp_path: Path) -> None:
    for n in range(2):
        np.save(tmp_path / f"{n}.npy", np.zeros((4, 8, 6), np.uint8))
    Image.new("L", (8, 6)).save(tmp_path / "cover.png")
    source = ClipSource(tmp_path, 4, strict=False)
    assert len(source) == 2
    assert source.report.startswith("1 of 3 files cannot be used and are left out:")
    with pytest.raises(ValueError, match="has 1 frames a clip; it needs 4 or more"):
        ClipSource(tmp_path, 4)


def test_a_source_of_longer_clips(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", RANDOM.integers(0, 256, (2, 9, 1, 8, 6), dtype=np.uint8))
    source = ClipSource(tmp_path / "a.npy", 5)
    assert [s.batch([1]).shape[1] for s in (source.longer(7), source.longer(20), source)] == [7, 9, 5]


def test_a_mapped_array_is_scaled_without_a_warning(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((3, 16, 12), 51, np.uint8))
    source = ClipSource(tmp_path / "a.npy", 3, size=(8, 6))
    np.testing.assert_allclose(source.batch([0]), 0.2)


def test_the_options_of_a_source(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((5, 2, 8, 6), 3000, np.uint16))
    parser = argparse.ArgumentParser()
    add_clips(parser)
    command = [str(tmp_path / "a.npy"), "--value-range", "0", "60", "--stored", "0", "6000", "--unit", "mm/h"]
    source = source_from(parser.parse_args([*command, "--size", "4", "4"]), torch.nn.Identity(), {}, 5)
    assert (source.value_range, source.unit, len(source)) == ((0, 60), "mm/h", 2)
    assert source.batch([1]).unique().tolist() == [0.5]
    with pytest.raises(
        ValueError, match="--value-range is 60 0; it needs two finite numbers, the lower first"
    ):
        source_from(parser.parse_args([command[0], "--value-range", "60", "0"]), torch.nn.Identity(), {}, 5)
