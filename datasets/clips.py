"""One's own clips, in a folder or in an array. Letters: B batch, N clips, T time, C channels, H W pixels."""

import hashlib
import warnings
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from convlstm.clips import ArrangedArray, find_clips, fit, open_clips, two_values, unit_range
from convlstm.core.checks import choice, positive, shortened
from datasets.cache import CachedClips, decode, default_folder
from datasets.digits import SPLITS
from datasets.source import check_indices


class Clips:
    """Windows of `length` frames of your own clips, clip after clip.

    In a folder, clips are MP4, AVI, MOV and WebM videos; GIFs; .npy, .npz and HDF5 arrays; and folders with
    images in them (PNG, JPEG, PGM, TIFF; 8 and 16 bits), each of which is one clip, in natural order (frame2
    before frame10). They are decoded once, into a cache. Files that cannot be read and clips that are too
    short for one window are named in a warning, and in the attributes.

    An array is (T, H, W), (T, H, W, C), (T, N, H, W) or (N, T, C, H, W). A .npy file is memory-mapped, an
    HDF5 one read a window at a time, a .npz one whole. Its frames are scaled and converted when they are
    asked for.

    Args:
        clips: the path of a folder or of an array's file, or an array.
        split: "train", "val" or "test" for a part of the clips, by a hash of the files' names relative to the
            folder, or of the clips' numbers in the array: all windows of a file are in one split. A tenth
            validates and a tenth tests, one clip each at least. Default: None, all.
        length: frames of a window. Default: 20.
        step: frames from the start of a window to that of the next; fewer than `length` make them overlap.
            Default: `length`.
        stride: every n-th frame of a clip is taken. Default: 1. Length and step count those that are taken.
        size: (H, W) or one number for both, to which frames are scaled, antialiased and in their proportions,
            and then cropped at the center. Default: None, if all have one size.
        channels: 1 (default) for gray, 3 for color; frames are converted.
        value_range: the physical values that 0 and 1 stand for, such as (0, 60). Default: (0.0, 1.0).
        unit: of the physical values, such as "mm/h". Default: "".
        stored: the stored values that stand for the physical ones, such as (0, 6000) for hundredths; what is
            beyond them is clipped. Default: None: 0 to 255 of 8 bits, 0 to 65535 of 16; floats are taken for
            physical values.
        layout: the axes of arrays, a letter each, such as "NTHW". Default: None, guessed from the shape, see
            `convlstm.clips.ArrangedArray`.
        variable: the array's name in .npz and HDF5 files. Default: None, the only one of three axes or more.
        cache: the folder of decoded clips. Default: convlstm/clips in the user's cache folder.
        strict: whether a file in a folder that cannot be read is an error. Default: False.

    Attributes:
        value_range: as given.
        unit: as given.
        names: the files in the split, relative to the folder; of an array, the numbers of the clips.
        layout: the axes of an array; None for a folder.
        unreadable: for the name of each file that cannot be read, why.
        too_short: the frames of each file whose clips are too short.
        report: says both; "" if there are none.

    Raises:
        FileNotFoundError: no such folder or file, or no clips in it.
        ValueError: a damaged array or one that is no clips; no clip that can be used, or too few to split;
            frames of different sizes and no size given; an argument out of its bounds; with `strict`, a file
            that cannot be read.
        OSError: a cache that cannot be written.
        ImportError: videos need PyAV, HDF5 h5py, a size torchvision, and it is not installed.
    """

    def __init__(
        self,
        clips: str | Path | np.ndarray | torch.Tensor,
        split: str | None = None,
        *,
        length: int = 20,
        step: int | None = None,
        stride: int = 1,
        size: tuple[int, int] | int | None = None,
        channels: int = 1,
        value_range: tuple[float, float] = (0.0, 1.0),
        unit: str = "",
        stored: tuple[float, float] | None = None,
        layout: str | None = None,
        variable: str | None = None,
        cache: str | Path | None = None,
        strict: bool = False,
    ) -> None:
        self._length = positive("length", length)
        self._step = self._length if step is None else positive("step", step)
        self._stride = positive("stride", stride)
        self._channels = choice("channels", channels, (1, 3))
        height, width = size if isinstance(size, tuple | list) else (size, size)
        self._size = None if size is None else (positive("size", height), positive("size", width))
        self.value_range, self.unit = two_values("value_range", value_range, ordered=True), unit
        self._stored = None if stored is None else two_values("stored", stored)
        self.layout: str | None = None
        self.unreadable: dict[str, str] = {}
        self.too_short: dict[str, int] = {}
        self.report = ""
        if isinstance(clips, str | Path) and Path(clips).is_dir():
            found = self._in_folder(Path(clips), layout, variable, cache, strict)
            self.names = _split(list(found), split, f"clips in {clips}")
            kept = [(f"{clips}/{name}", found[name]) for name in self.names]
            self._clips = [(name, clips, n) for name, clips in kept for n in range(clips.shape[0])]
        else:
            name = str(clips) if isinstance(clips, str | Path) else "the array"
            if isinstance(clips, str | Path):
                array = open_clips(clips, layout, variable)
            else:
                array = ArrangedArray(name, np.asarray(clips), layout)
            self.layout = array.layout
            if not self._windows_of(array):
                raise ValueError(
                    f"{name} has {array.shape[1]} frames a clip, read as {array.layout}; windows of {length} "
                    f"frames with a stride of {stride} need {self._span} or more, or another layout"
                )
            numbers = [str(n) for n in range(array.shape[0])]
            self.names = _split(numbers, split, f"clips in {name}, read as {array.layout}")
            self._clips = [(name, array, int(n)) for n in self.names]
        self._ends = list(accumulate(self._windows_of(recording) for _, recording, _ in self._clips))

    def _in_folder(
        self, root: Path, layout: str | None, variable: str | None, cache: str | Path | None, strict: bool
    ) -> dict[str, CachedClips]:
        """Decode what is in a folder; return what can be used, by its name."""
        folder = default_folder() if cache is None else Path(cache)
        if folder.resolve().is_relative_to(root.resolve()):
            raise ValueError(
                f"cache is {folder}, inside the folder of the clips {root}; it needs another place"
            )
        paths = {path.relative_to(root).as_posix(): path for path in find_clips(root)}
        settings = {"size": self._size, "channels": self._channels, "layout": layout, "variable": variable}
        decoded, self.unreadable = decode(paths, folder, settings, strict)
        found: dict[str, CachedClips] = {}
        for clips in decoded:
            try:  # whether `batch` would refuse the values
                extremes = np.array([clips.low, clips.high], clips.dtype)
                unit_range(clips.name, extremes, self._stored, self.value_range)
            except ValueError as error:
                if strict:
                    raise
                self.unreadable[clips.name] = str(error)
                continue
            if self._windows_of(clips):
                found[clips.name] = clips
            else:
                self.too_short[clips.name] = clips.shape[1]
        self.report = self._report(len(paths))
        if not found:
            raise ValueError(f"{root} has no clip that can be used: {self.report}")
        if self.report:
            warnings.warn(f"{root}: {self.report}", stacklevel=3)
        sizes = {
            clips.shape[3:]: f"{clips.shape[3]} x {clips.shape[4]} ({name})" for name, clips in found.items()
        }
        if len(sizes) > 1:
            shown = shortened(list(sizes.values()))
            raise ValueError(
                f"{root} has frames of different sizes: {shown}; give a size that all are brought to"
            )
        return found

    def _report(self, files: int) -> str:
        parts = []
        if self.unreadable:
            reasons = [f"{name} ({why})" for name, why in self.unreadable.items()]
            parts.append(
                f"{len(reasons)} of {files} files cannot be read and are left out: {shortened(reasons)}"
            )
        if self.too_short:
            short = [f"{name} ({frames})" for name, frames in self.too_short.items()]
            parts.append(
                f"{len(short)} of {files} files have fewer than the {self._span} frames that a window takes "
                f"and are left out: {shortened(short)}"
            )
        return "; ".join(parts)

    @property
    def _span(self) -> int:
        """The frames of a clip from the first of a window to the last."""
        return (self._length - 1) * self._stride + 1

    def _windows_of(self, recording: ArrangedArray | CachedClips) -> int:
        """Return the number of windows in each of its clips."""
        return max(0, (recording.shape[1] - self._span) // (self._step * self._stride) + 1)

    def __len__(self) -> int:
        """Return the number of windows."""
        return self._ends[-1]

    def batch(
        self, indices: torch.Tensor | Sequence[int], device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """Return the windows with these numbers: float32 of shape (B, T, C, H, W) in [0, 1].

        Args:
            indices: the numbers of the windows, integers of shape (B,), each from 0 to len - 1.
            device: where the result is to be. Default: the CPU.

        Raises:
            ValueError: `indices` is empty, or not integers of shape (B,); values out of range.
            IndexError: a number out of range.
        """
        windows = [self._window(n) for n in check_indices(indices, len(self)).tolist()]
        return torch.from_numpy(np.stack(windows)).to(device)  # (B, T, C, H, W)

    def _window(self, number: int) -> NDArray[np.float32]:
        place = bisect_right(self._ends, number)
        name, recording, clip = self._clips[place]
        number -= self._ends[place - 1] if place else 0
        start = number * self._step * self._stride
        frames = recording.frames(clip, slice(start, start + self._span, self._stride))
        frames = fit(frames, self._size, self._channels)
        return unit_range(name, frames, self._stored, self.value_range)


def _split(names: Sequence[str], split: str | None, what: str) -> list[str]:
    """Return the names in one split, in their order.

    The names are ranked by their sha256: the first tenth validates, the next tests, the others train. A split
    has one name at least. So it depends on the names alone; where names come or go, some at the borders move.

    Args:
        names: all of them, each once.
        split: "train", "val" or "test", None for all.
        what: the names are of, such as "clips in DIR", for errors.

    Raises:
        ValueError: an unknown split, or too few names.
    """
    if split is None:
        return list(names)
    choice("split", split, (*SPLITS, None))
    if len(names) < len(SPLITS):
        raise ValueError(
            f"{what}: {len(names)} can be used, but {', '.join(SPLITS)} need one each at least and none in "
            "common; add more, or cut long ones into several files"
        )
    share = max(1, round(0.1 * len(names)))
    ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    chosen = {"val": ranked[:share], "test": ranked[share : 2 * share], "train": ranked[2 * share :]}
    kept = set(chosen[split])
    return [name for name in names if name in kept]
