"""Windows of clips as a source: what folders of clips and arrays share.

Letters: B batch, N clips, T time, C channels, H W pixels.
"""

import hashlib
import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from convlstm.clips import fit, stored_values, unit_range
from datasets.digits import SPLITS
from datasets.source import check_indices


class Recording(Protocol):
    """Clips of one length whose frames can be read a part at a time."""

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """(N, T, C, H, W)."""
        ...

    def frames(self, clip: int, times: slice) -> NDArray:
        """Return frames of one clip, (T, C, H, W), as stored."""
        ...


class Windows:
    """All windows of so many frames, clip after clip; see `VideoFolder` for the arguments.

    Attributes:
        value_range: the physical values that 0 and 1 stand for.
        unit: of the physical values, such as "mm/h".
        length: frames of a window.
    """

    def __init__(
        self,
        *,
        length: int,
        step: int | None,
        stride: int,
        size: tuple[int, int] | int | None,
        channels: int,
        value_range: tuple[float, float],
        unit: str,
        stored: tuple[float, float] | None,
    ) -> None:
        for name, value in (
            ("length", length),
            ("step", length if step is None else step),
            ("stride", stride),
        ):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value}; it needs an integer of 1 or more")
        if channels not in (1, 3):
            raise ValueError(f"channels is {channels}; it needs 1 (gray) or 3 (colour)")
        size = (size, size) if isinstance(size, int) else size
        if size is not None and (len(size) != 2 or any(not isinstance(n, int) or n < 1 for n in size)):
            raise ValueError(
                f"size is {size}; it needs a height and a width in pixels, 1 or more, or one for both"
            )
        for name, ends in (("value_range", value_range), ("stored", stored)):
            if ends is not None and not (
                len(ends) == 2 and all(map(math.isfinite, ends)) and ends[0] != ends[1]
            ):
                raise ValueError(
                    f"{name} is {ends}; it needs two different finite numbers, for black and white"
                )
        if value_range[0] > value_range[1]:
            raise ValueError(f"value_range is {value_range}; it needs the lower value first")
        self.value_range = (float(value_range[0]), float(value_range[1]))
        self.unit = unit
        self.length = length
        self._step, self._stride = length if step is None else step, stride
        self._size = None if size is None else (size[0], size[1])
        self._channels = channels
        self._stored = stored
        self._recordings: list[tuple[str, Recording, Sequence[int]]] = []
        self._ends: list[int] = []

    @property
    def _span(self) -> int:
        """The frames of a recording from the first of a window to the last."""
        return (self.length - 1) * self._stride + 1

    def _windows_of(self, frames: int) -> int:
        return max(0, (frames - self._span) // (self._step * self._stride) + 1)

    def _keep(self, recordings: Iterable[tuple[str, Recording, Sequence[int]]]) -> None:
        """Take these as the recordings: a name, for errors, the recording, and which of its clips."""
        self._recordings = list(recordings)
        counts = (
            len(clips) * self._windows_of(recording.shape[1]) for _, recording, clips in self._recordings
        )
        self._ends = list(accumulate(counts))

    def __len__(self) -> int:
        """The number of windows."""
        return self._ends[-1] if self._ends else 0

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
        name, recording, clips = self._recordings[place]
        number -= self._ends[place - 1] if place else 0
        clip, window = divmod(number, self._windows_of(recording.shape[1]))
        start = window * self._step * self._stride
        frames = recording.frames(clips[clip], slice(start, start + self._span, self._stride))
        frames = fit(frames, self._size, self._channels)
        return unit_range(name, frames, stored_values(frames.dtype, self._stored, self.value_range))


def split_by_hash(
    names: Sequence[str], split: str | None, fractions: tuple[float, float, float], what: str
) -> list[str]:
    """Return the names in one split, in their order.

    The names are ranked by their sha256: the first so many validate, the next test, the others train. A split
    has its share, rounded, but one name at least. So a split depends on the names alone; where names come or
    go, some at the borders move.

    Args:
        names: all of them, each once.
        split: "train", "val" or "test", None for all.
        fractions: the shares of train, val and test; they sum to 1. A share of 0 makes no split.
        what: the names are of, such as "clips in DIR", for errors.

    Raises:
        ValueError: an unknown split, shares that do not sum to 1, or too few names.
    """
    if split is None:
        return list(names)
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it needs one of {', '.join(SPLITS)}, or None")
    if len(fractions) != 3 or min(fractions) < 0 or not math.isclose(sum(fractions), 1) or fractions[0] == 0:
        raise ValueError(
            f"fractions are {fractions}; they need three shares that sum to 1, such as 0.8 0.1 0.1"
        )
    val, test = (max(1, round(share * len(names))) if share else 0 for share in fractions[1:])
    if val + test >= len(names):
        wanted = [name for name, share in zip(SPLITS, fractions, strict=True) if share]
        raise ValueError(
            f"{what}: {len(names)} can be used, but {', '.join(wanted)} need one each at least and none in "
            "common; add more, or cut long ones into several files"
        )
    if fractions[SPLITS.index(split)] == 0:
        raise ValueError(f"split is {split!r}, whose share in fractions {fractions} is 0")
    ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    chosen = {"val": ranked[:val], "test": ranked[val : val + test], "train": ranked[val + test :]}[split]
    return [name for name in names if name in set(chosen)]
