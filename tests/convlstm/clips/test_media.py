"""GIFs, videos and folders of images, in and out; Pillow and PyAV are the outside readers and writers."""

import os
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from convlstm.clips import check_clip, media, read_clips, write_clip
from convlstm.clips.media import _cut_short

RANDOM = np.random.default_rng(0)
CODECS = {"mp4": "libx264", "avi": "mpeg4", "mov": "libx264", "webm": "libvpx-vp9"}


def noise(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def read_bytes(path: Path, **options: Any) -> np.ndarray:
    """The one clip of a file as bytes, (T, H, W, C)."""
    return np.rint(read_clips(path, **options)[0].transpose(0, 2, 3, 1) * 255).astype(np.uint8)


def write_film(path: Path, frames: np.ndarray, fps: int = 10) -> None:
    with av.open(str(path), "w") as video:
        stream: Any = video.add_stream(CODECS[path.suffix[1:]], rate=fps)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        video.mux(stream.encode())


def moving_square(frames: int = 12, height: int = 32, width: int = 48) -> np.ndarray:
    """A video (T, H, W, 3) that codecs keep nearly as it is."""
    video = np.full((frames, height, width, 3), (40, 90, 160), np.uint8)
    for t, picture in enumerate(video):
        picture[8:20, 2 * t : 2 * t + 12] = (220, 200, 60)
    return video


@pytest.mark.parametrize("color", [(), (3,)])
@pytest.mark.parametrize("order", [[0, 1, 2], [0, 0, 1, 2, 2, 2], [0, 0, 0], [0]], ids=str)
def test_a_gif_keeps_its_frames_and_their_times(tmp_path: Path, color: tuple, order: list[int]) -> None:
    colors = noise(256, *color)  # as many as a frame may have
    frames = colors[np.stack([RANDOM.permutation(256).reshape(16, 16) for _ in range(3)])][order]
    path = tmp_path / "a.gif"
    for fps, written in ((10, 10), (12, 12.5), (60, 50), (1e-9, 100 / 65_535)):
        if fps == 1e-9 and len(order) > len(set(order)):
            continue
        assert write_clip(path, frames, fps) == pytest.approx(written)
        with Image.open(path) as image:
            seen: Any = image
            assert (seen.n_frames, seen.info["loop"]) == (len(set(order)), 0)
            assert seen.info["duration"] == round(1000 / written) * order.count(order[0])
            shown = np.asarray(image.convert("RGB" if color else "L"))
            np.testing.assert_array_equal(shown, frames[0])
        np.testing.assert_array_equal(read_bytes(path), frames.reshape(len(order), 16, 16, -1))
    assert os.listdir(tmp_path) == ["a.gif"]


def test_frames_of_more_colors_are_near_and_without_noise(tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :64] / 64
    smooth = np.stack([x, y, (x + y) / 2], axis=-1)
    frames = np.rint(255 * np.stack([smooth, smooth[::-1]])).astype(np.uint8)
    frames[:, 20:40, 20:40] = (200, 30, 90)
    write_clip(tmp_path / "a.gif", frames, 5)
    shown = read_bytes(tmp_path / "a.gif").astype(int)
    assert np.abs(shown - frames).mean() < 5
    flat = shown[:, 20:40, 20:40]
    assert (flat == flat[:, :1, :1]).all()  # one color stays one: dithering would mix two
    assert np.abs(flat - (200, 30, 90)).max() <= 2


@pytest.mark.parametrize(
    ("durations", "comment", "times"),
    [
        ([10, 20, 10], "", [1, 2, 1]),
        ([5, 5, 5, 300], "", [1, 1, 1, 1]),  # held at the end
        ([3, 3, 4, 3], "", [1, 1, 1, 1]),  # 30 frames a second
        ([10, 0, 10], "", [1, 1, 1]),  # as fast as the viewer can
        ([10, 20, 30], "5/100 s a frame", [2, 4, 6]),
        ([12, 12, 24], "5/100 s a frame", [1, 1, 1]),  # changed since
        ([10, 10, 20], "0/100 s a frame", [1, 1, 1]),
    ],
)
def test_gifs_of_others_come_as_evenly_as_they_last(
    tmp_path: Path, durations: list[int], comment: str, times: list[int]
) -> None:
    frames = noise(len(durations), 6, 5)
    images = [Image.fromarray(frame) for frame in frames]
    milliseconds = [10 * duration for duration in durations]
    path, options = tmp_path / "a.gif", {"comment": comment} if comment else {}
    images[0].save(path, save_all=True, append_images=images[1:], duration=milliseconds, **options)
    np.testing.assert_array_equal(read_bytes(path)[..., 0], np.repeat(frames, times, axis=0))


def test_a_gif_too_large_for_the_memory_is_refused(tmp_path: Path) -> None:
    dark, light = Image.new("L", (100, 100)), Image.new("L", (100, 100), 255)
    # 655.35 s at the pace of 0.01 s: 65,535 frames of 30,000 bytes.
    dark.save(tmp_path / "a.gif", save_all=True, append_images=[light, dark], duration=[655_350, 10, 10])
    with pytest.raises(ValueError, match=r"a.gif is too large: .* more than 1,073,741,824 bytes"):
        read_clips(tmp_path / "a.gif")


def test_a_gif_is_decoded_no_further_than_it_may_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "a.gif", noise(100, 100, 100), 10)
    monkeypatch.setattr(media, "LARGEST", 300_000)  # of 3 MB
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"a.gif is too large: .* more than 300,000 bytes"):
        read_clips(tmp_path / "a.gif")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000


def test_a_lack_of_memory_is_no_damage() -> None:
    with pytest.raises(MemoryError), media._naming_damage(Path("a.gif"), "GIF"):
        raise MemoryError


@pytest.mark.parametrize(("color", "fps"), [((), 5), ((3,), 29.97)])
def test_an_mp4_is_what_pyav_reads(tmp_path: Path, color: tuple, fps: float) -> None:
    frames = moving_square(height=31, width=47)
    frames = frames if color else frames[..., 0]
    path = tmp_path / "a.mp4"
    assert write_clip(path, frames, fps) == pytest.approx(fps)
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.frames) == ("h264", "yuv420p", 12)
        assert float(stream.average_rate or 0) == pytest.approx(fps)
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
    clip = read_bytes(path)
    np.testing.assert_array_equal(clip, shown if color else shown[..., :1])
    assert clip.shape == (12, 32, 48, 3 if color else 1)
    wanted = frames.reshape(12, 31, 47, -1)
    assert np.abs(clip[:, :31, :47].astype(int) - wanted).mean() < 6
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_an_mp4_keeps_fine_detail(tmp_path: Path) -> None:
    frames = noise(8, 64, 64)
    write_clip(tmp_path / "a.mp4", frames, 10)
    error = np.square(read_bytes(tmp_path / "a.mp4")[..., 0] - frames.astype(float)).mean()
    assert 10 * np.log10(255**2 / error) > 35  # dB; 37.3, and 30.7 at x264's default


@pytest.mark.parametrize("suffix", CODECS)
def test_films_whole_and_cut_short(tmp_path: Path, suffix: str) -> None:
    path, part = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    square = moving_square()
    write_film(path, square)
    assert np.abs(read_bytes(path).astype(int) - square).mean() < 8
    assert read_clips(path, frames=5, channels=1, size=(16, 16)).shape == (1, 5, 1, 16, 16)
    write_film(path, noise(30, 64, 64, 3))
    data = path.read_bytes()
    for share in (0.3, 0.6):
        part.write_bytes(data[: int(share * len(data))])
        with pytest.raises(ValueError, match=rf"b.{suffix} is (a damaged video|cut short)"):
            read_clips(part)


@pytest.mark.parametrize(
    ("frames", "announced", "length", "cut_short"),
    [
        (12, 20, 0.48, False),  # eight are not shown: it was cut without being encoded anew
        (50, 50, 9.0, False),  # the sound goes on
        (50, 90, 3.6, True),
        (50, 0, 3.6, True),  # it does not say how many frames it has
        (50, 0, 2.1, False),
        (1, 1, 0.04, False),
    ],
)
def test_a_film_that_ends_too_early(frames: int, announced: int, length: float, cut_short: bool) -> None:
    assert _cut_short([t / 25 for t in range(frames)], announced, length) == cut_short


def test_damage_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "a.gif", noise(3, 5, 4), 5)
    data = (tmp_path / "a.gif").read_bytes()
    for length in range(0, len(data), 7):
        (tmp_path / "a.gif").write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"a.gif is a damaged GIF"):
            read_clips(tmp_path / "a.gif")
    (tmp_path / "a.mp4").touch()
    monkeypatch.setitem(sys.modules, "av", None)
    for call in (read_clips, lambda path: check_clip(path, 5)):
        with pytest.raises(ImportError, match=r'pip install "convlstm\[video\]"'):
            call(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("name", "frames", "fps", "message"),
    [
        ("a.avi", noise(2, 4, 4), 5, "does not end in .gif or .mp4"),
        ("folder.gif", noise(2, 4, 4), 5, "is a directory"),
        ("a.gif", noise(2, 4, 4), 0, "fps is 0"),
        ("a.gif", noise(0, 4, 4), 5, r"\(0, 4, 4\); they need .* none of them 0"),
        ("a.gif", noise(1, 1, 70_000), 5, "a GIF has sides of at most 65,535 pixels"),
        ("a.gif", np.zeros((656, 4, 4), np.uint8), 1, "equal frames last at most 655.35 s"),
        ("a.mp4", np.zeros((2, 4, 4), np.float32), 5, "they need uint8"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(
    tmp_path: Path, name: str, frames: np.ndarray, fps: float, message: str
) -> None:
    (tmp_path / "folder.gif").mkdir()
    with pytest.raises(ValueError, match=message):
        write_clip(tmp_path / name, frames, fps)
    assert os.listdir(tmp_path) == ["folder.gif"]


@pytest.mark.parametrize("suffix", ["png", "pgm", "tiff"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_folders_of_frames_are_exact_and_in_natural_order(tmp_path: Path, suffix: str, kind: type) -> None:
    frames = RANDOM.integers(0, np.iinfo(kind).max + 1, (11, 6, 5)).astype(kind)
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"frame{t}.{suffix}")
    (tmp_path / ".hidden.png").touch()
    (tmp_path / "notes.txt").touch()
    wanted = frames.astype(np.float32) / np.float32(np.iinfo(kind).max)
    np.testing.assert_array_equal(read_clips(tmp_path)[0, :, 0], wanted)
    assert len(read_clips(tmp_path, frames=3)[0]) == 3


def test_images_of_every_mode(tmp_path: Path) -> None:
    color = moving_square(1)[0]
    for mode, wanted in (
        ("RGB", color),
        ("L", np.asarray(Image.fromarray(color).convert("L"))[..., None]),
        ("P", color),  # two colors: the palette holds them
        ("RGBA", color),  # nothing in it is transparent
    ):
        image = Image.fromarray(color)
        (image.quantize(16) if mode == "P" else image.convert(mode)).save(tmp_path / "0.png")
        np.testing.assert_array_equal(read_bytes(tmp_path)[0], wanted)
    os.remove(tmp_path / "0.png")
    Image.fromarray(color).save(tmp_path / "0.jpg", quality=95)
    assert np.abs(read_bytes(tmp_path)[0].astype(int) - color).mean() < 4
    os.remove(tmp_path / "0.jpg")
    rain = np.array([[0.0, 12.5], [30.0, 99.0]], np.float32)
    Image.fromarray(rain).save(tmp_path / "0.tif")
    wanted = np.array([[0, 12.5 / 60], [0.5, 1]], np.float32)
    np.testing.assert_array_equal(read_clips(tmp_path, stored=(0, 60))[0, 0, 0], wanted)


@pytest.mark.parametrize(
    "header", [b"P2 5 4 # of rain\n%d\n", b"P5\n# mm/h\n5 # across\n4\n%d\n", b"P2\n#\n5 4\n%d "]
)
@pytest.mark.parametrize("highest", [100, 6000])
def test_a_pgm_keeps_its_values_whatever_its_highest_is(tmp_path: Path, header: bytes, highest: int) -> None:
    values = RANDOM.integers(0, highest + 1, (4, 5))
    plain = b"\n".join(b" ".join(b"%d" % v for v in row) for row in values.tolist()) + b"# end\n"
    body = plain if header.startswith(b"P2") else values.astype(">u2" if highest > 255 else "u1").tobytes()
    (tmp_path / "0.pgm").write_bytes(header % highest + body)
    read = read_clips(tmp_path, stored=(0, highest))[0, 0, 0]
    np.testing.assert_allclose(read, values / highest, rtol=1e-6)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"0.png": b""}, r"0.png is a damaged image \("),
        ({"0.png": "cut"}, "0.png is a damaged image"),
        ({"0.pgm": b"P5 2 2 70000\n" + bytes(16)}, r"0.pgm is a damaged image \(maxval must be"),
        ({"0.png": ("L", 6, 5), "0.jpg": ("L", 6, 5)}, r"has 0.jpg and 0.png; it needs one file"),
        ({"0.png": ("L", 6, 5), "1.png": ("L", 6, 6)}, r"frame 2 has 6 x 6 pixels, .* the first 5 x 6"),
        ({"0.png": ("L", 6, 5), "1.png": ("I;16", 6, 5)}, r"frame 2 has .* 1 channel\(s\) of uint16"),
        ({"0.png": ("RGBA", 6, 5)}, r"0.png has an alpha channel \(RGBA\) with transparent pixels"),
        ({"0.tif": "pages"}, "0.tif has 3 pages; it needs one"),
        ({"0.tif": ("I", 6, 5, 70_000)}, "has values of type int32"),
    ],
)
def test_folders_that_are_no_clip(tmp_path: Path, images: dict, message: str) -> None:
    for name, made in images.items():
        path = tmp_path / name
        if isinstance(made, bytes):
            path.write_bytes(made)
        elif made == "cut":
            Image.fromarray(noise(64, 64)).save(path)
            path.write_bytes(path.read_bytes()[:2000])
        elif made == "pages":
            pages = [Image.fromarray(noise(8, 8)) for _ in range(3)]
            pages[0].save(path, save_all=True, append_images=pages[1:])
        else:
            Image.new(made[0], made[1:3], *made[3:]).save(path)
    with pytest.raises(ValueError, match=message):
        read_clips(tmp_path)
