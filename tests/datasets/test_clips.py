"""One's own clips: windows, splits by file, the cache, and files that cannot be used, named and counted."""

import errno
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from convlstm.clips import write_clip
from datasets import Clips, Shuffled
from datasets import cache as cache_module
from datasets.clips import _split

RANDOM = np.random.default_rng(0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of ten GIFs of 12 frames; frame t of clip n is of value 20 n + t."""
    (tmp_path / "clips").mkdir()
    for n in range(10):
        frames = np.full((12, 8, 6), 20 * n, np.uint8) + np.arange(12, dtype=np.uint8)[:, None, None]
        write_clip(tmp_path / "clips" / f"clip{n}.gif", frames, 5)
    return tmp_path / "clips"


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    return {"cache": tmp_path / "cache"}


def values(batch: torch.Tensor) -> list[list[int]]:
    """The frames' values as bytes, (B, T)."""
    return (batch[:, :, 0, 0, 0] * 255).round().int().tolist()


def test_windows_and_strides(root: Path, options: dict[str, Any]) -> None:
    source = Clips(root, length=4, **options)
    assert len(source) == 30
    assert (source.value_range, source.unit, source.unreadable, source.too_short) == ((0.0, 1.0), "", {}, {})
    batch = source.batch([0, 1, 2, 3, 29])
    assert batch.shape == (5, 4, 1, 8, 6)
    assert batch.dtype == torch.float32
    assert values(batch) == [[f, f + 1, f + 2, f + 3] for f in (0, 4, 8, 20, 188)]
    overlapping = Clips(root, length=4, step=1, **options)
    assert len(overlapping) == 90
    assert values(overlapping.batch([8, 9])) == [[8, 9, 10, 11], [20, 21, 22, 23]]
    strided = Clips(root, length=4, step=1, stride=3, **options)
    assert len(strided) == 10
    assert values(strided.batch([1])) == [[20, 23, 26, 29]]
    apart = Clips(root, length=2, stride=2, **options)
    assert values(apart.batch([0, 1, 2])) == [[0, 2], [4, 6], [8, 10]]
    with pytest.raises(IndexError, match="indices have 30; they need 0 to 29"):
        source.batch([30])
    source = Clips(root, length=4, size=(5, 5), channels=3, **options)
    alone = source.batch([7])
    assert alone.shape == (1, 4, 3, 5, 5)
    assert torch.equal(source.batch([29, 7, 0])[1], alone[0])


def test_splits_are_by_file_and_disjoint(root: Path, options: dict[str, Any]) -> None:
    splits = {name: Clips(root, name, length=4, step=1, **options) for name in ("train", "val", "test")}
    names = {name: set(source.names) for name, source in splits.items()}
    assert [len(found) for found in names.values()] == [8, 1, 1]
    assert set.union(*names.values()) == {f"clip{n}.gif" for n in range(10)}
    for name, source in splits.items():
        shown = {frame // 20 for window in values(source.batch(range(len(source)))) for frame in window}
        assert {f"clip{n}.gif" for n in shown} == names[name]


def test_a_split_is_a_function_of_the_names_alone() -> None:
    names = [f"{n}.gif" for n in range(40)]
    parts = [_split(names, split, "clips") for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [32, 4, 4]
    assert sorted([name for part in parts for name in part], key=names.index) == names
    for split, part in zip(("train", "val", "test"), parts, strict=True):
        assert set(_split(names[::-1], split, "clips")) == set(part)
    assert len(_split(["a", "b", "c"], "val", "clips")) == 1
    assert _split(names, None, "clips") == names
    for split, message in (
        ("train", "clips: 2 can be used, but train, val, test need one each at least"),
        ("dev", "split is 'dev'; it needs one of"),
    ):
        with pytest.raises(ValueError, match=message):
            _split(["a", "b"], split, "clips")


def test_a_file_is_decoded_once_and_again_when_it_changes(
    root: Path, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "frames").mkdir()
    for t in range(4):
        Image.fromarray(np.full((8, 6), t, np.uint8)).save(root / "frames" / f"{t}.pgm")
    done: list[str] = []
    stream_clips = cache_module.stream_clips

    def stream(path: Path, *rest):
        done.append(path.name)
        return stream_clips(path, *rest)

    monkeypatch.setattr(cache_module, "stream_clips", stream)

    def read(folder: Path, **more: Any) -> tuple[torch.Tensor, list[str]]:
        done.clear()
        source = Clips(folder, length=4, **more, **options)
        return source.batch(range(len(source))), sorted(done)

    before, everything = read(root)
    assert len(everything) == 11
    assert read(root, stride=1, value_range=(0, 60), stored=(0, 100))[1] == []
    assert len(read(root, channels=3)[1]) == 11  # decoded as other settings ask
    # One byte in the middle of a file, whose size and time of change are as they were.
    image = root / "frames" / "2.pgm"
    status = image.stat()
    image.write_bytes(image.read_bytes()[:-20] + b"\xff" + image.read_bytes()[-19:])
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    changed, entries = read(root)
    assert entries == ["frames"]
    assert (changed != before).sum() == 1
    assert read(root)[1] == []
    for array in options["cache"].glob("*.npy"):
        np.load(array)  # an array as numpy knows them
        array.write_bytes(array.read_bytes()[:-1])  # damaged: decoded anew
    assert len(read(root)[1]) == 11
    assert {path.suffix for path in options["cache"].iterdir()} == {".npy", ".json"}  # nothing half-written


def test_the_cache_is_the_users_own(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    Clips(root, length=4)
    assert len(list((tmp_path / "home" / "convlstm" / "clips").glob("*.npy"))) == 10
    with pytest.raises(ValueError, match=r"cache is .*, inside the folder of the clips"):
        Clips(root, length=4, cache=root / "cache")


def test_a_cache_that_cannot_be_written_is_no_fault_of_the_clips(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=rf"cache is {tmp_path / 'file'}, which cannot be written"):
        Clips(root, length=4, cache=tmp_path / "file")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_module, "write_atomically", full)
    with pytest.raises(OSError, match="where nothing more can be written"):
        Clips(root, length=4, cache=tmp_path / "empty")


def test_files_that_cannot_be_read_are_named_and_counted(
    root: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    (root / "zero.mp4").touch()
    (root / "cut.gif").write_bytes((root / "clip0.gif").read_bytes()[:-20])
    np.save(root / "rgba.npy", np.zeros((12, 8, 6, 4), np.uint8))
    np.save(root / "loud.npy", np.full((12, 8, 6), 9.0, np.float32))
    np.save(root / "holes.npy", np.full((12, 8, 6), np.nan, np.float32))
    (root / "frames").mkdir()
    for t, side in enumerate((6, 6, 7)):
        Image.new("L", (side, 8)).save(root / "frames" / f"{t}.png")
    reasons = {
        "zero.mp4": "damaged video",
        "cut.gif": "damaged GIF",
        "rgba.npy": "4 channels (RGBA",
        "loud.npy": "values from 9 to 9",
        "holes.npy": "no numbers (nan)",
        "frames": "frame 3 has 8 x 7 pixels, 1 channel(s) of uint8, the first 8 x 6",
    }
    write_clip(root / "short.gif", np.arange(3, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(6, 2), 5)
    message = r"6 of 17 files cannot be read and are left out: .*, and 1 more; 1 of 17 files have fewer than "
    message += r"the 4 frames that a window takes and are left out: short.gif \(3\)"
    with pytest.warns(UserWarning, match=message):
        source = Clips(root, length=4, **options)
    assert source.too_short == {"short.gif": 3}
    assert source.unreadable.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in source.unreadable[name]
    assert len(source) == 30
    for name in ("cut.gif", "loud.npy"):  # one is not decoded, the other not scaled
        (tmp_path / name).mkdir()
        os.rename(root / name, tmp_path / name / name)
        with pytest.raises(ValueError, match=re.escape(reasons[name])):
            Clips(tmp_path / name, length=4, strict=True, **options)


def test_clips_of_different_kinds_and_sizes(root: Path, options: dict[str, Any]) -> None:
    np.save(root / "array.npy", np.zeros((2, 12, 8, 6), np.uint8))  # (N, T, H, W)
    options["layout"] = "NTHW"  # of the arrays among the files
    assert len(Clips(root, length=12, **options)) == 12
    write_clip(root / "other.gif", RANDOM.integers(0, 256, (12, 10, 10), dtype=np.uint8), 5)
    with pytest.raises(ValueError, match=r"different sizes: .*8 x 6 .*10 x 10 \(other.gif\).*; give a size"):
        Clips(root, length=4, **options)
    assert Clips(root, length=4, size=6, **options).batch([0]).shape == (1, 4, 1, 6, 6)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"stride": 1.5}, "stride is 1.5; it needs a whole number of 1 or more"),
        ({"channels": 2}, r"channels is 2; it needs one of \(1, 3\)"),
        ({"value_range": (1.0, 1.0)}, "value_range is 1 to 1; it needs two different"),
        ({}, "no clip that can be used: 10 of 10 files have fewer than the 20"),
    ],
)
def test_what_is_refused(root: Path, options: dict[str, Any], argument: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Clips(root, **argument, **options)


def test_arrays(tmp_path: Path) -> None:
    array = RANDOM.integers(0, 256, (12, 4, 8, 6), dtype=np.uint8)  # time first
    np.save(tmp_path / "a.npy", array)
    source = Clips(tmp_path / "a.npy", length=6)
    assert (source.layout, len(source)) == ("TNHW", 8)
    np.testing.assert_array_equal(source.batch([3])[0, :, 0], array[6:, 1].astype(np.float32) / 255)
    assert len(Clips(array.swapaxes(0, 1), layout="NTHW", length=6)) == 8
    assert len(Clips(torch.zeros(12, 8, 6), length=6)) == 2
    assert Clips(np.zeros((12, 8, 6, 3), np.uint8), length=6, size=4).batch([0]).shape == (1, 6, 1, 4, 4)
    parts = [Clips(array, split, length=12) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [2, 1, 1]
    found = torch.cat([part.batch(range(len(part))) for part in parts])
    assert len(found.unique(dim=0)) == 4
    kelvin = Clips(np.full((12, 8, 6), 280.0), length=12, value_range=(260, 300), unit="K")
    assert kelvin.batch([0]).unique().tolist() == [0.5]
    rain = Clips(np.full((12, 8, 6), 300, np.uint16), length=12, value_range=(0, 60), stored=(0, 6000))
    assert rain.batch([0]).unique().tolist() == [pytest.approx(0.05)]
    with pytest.raises(ValueError, match="values from 280 to 280; scale floats"):
        Clips(np.full((12, 8, 6), 280.0), length=12).batch([0])
    with pytest.raises(
        ValueError, match=r"has 4 frames a clip, read as TNHW; windows of 6 frames .* need 6 or more"
    ):
        Clips(array.swapaxes(0, 1), length=6)
    with pytest.raises(ValueError, match=r"read as THW: 1 can be used, but train, val, test need one each"):
        Clips(np.zeros((12, 8, 6)), "train", length=6)


def test_shuffling_is_a_function_of_the_seed_and_the_epoch() -> None:
    source = Clips(np.arange(30, dtype=np.uint8).repeat(16).reshape(30, 4, 4), length=3)
    stream = Shuffled(source, seed=0)
    epochs = [[window[0] for window in values(stream.batch(range(n, n + 10)))] for n in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(0, 30, 3)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert values(stream.batch([25, 3])) == [values(stream.batch([n]))[0] for n in (25, 3)]
    assert values(Shuffled(source, seed=1).batch(range(10))) != values(stream.batch(range(10)))
    assert len(Shuffled(source, seed=0, epochs=1)) == 10
    assert (stream.value_range, stream.unit) == ((0.0, 1.0), "")
