"""The clips of a file or folder as a numbered source, read as they are asked for.

Letters: B batch, N clips, T time, C channels, H W pixels.
"""

from collections.abc import Collection, Sequence
from copy import copy
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convlstm.clips.arrays import ArrangedArray
from convlstm.clips.fitting import fit
from convlstm.clips.reading import ARRAYS, find_clips, is_array, kind_of, open_clips, read_clips, stream_clips
from convlstm.clips.values import stored_values, unit_range

__all__ = ["ClipSource"]

NAMED = 5  # files that a report names; the others are counted


class ClipSource:
    """The first frames of every clip: what `convlstm.evaluate` asks of its clips, in constant memory.

    Args:
        path: a file or folder, as for `read_clips`.
        length: frames of each clip, from the first on.
        layout: of arrays, as for `read_clips`.
        variable: as for `read_clips`, as the next three.
        channels: 1, 3 or None.
        size: (H, W) or None.
        stored: two stored values or None.
        value_range: the physical values that 0 and 1 stand for; floats are taken for such. Default: (0, 1).
        unit: of the physical values, such as "mm/h". Default: "".
        strict: whether a file in a folder that cannot be read, or is too short, is an error (default); else
            it is left out. All are tried at once.
        first: at most so many clips, from the first on; files beyond are not looked at. None (default) for
            all.
        held_out: a folder or file, and the names of the clips in it that may be scored on (files by their
            path in the folder, clips of an array by their number): others in it are left out. None (default)
            for all.

    Attributes:
        layout: the axes that an array was read as; None for other files and for folders.
        value_range: as given.
        unit: as given.
        report: what was left out, in words; "" if nothing was.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `read_clips`, some as clips are asked for; clips that are too short; none is left.
        ImportError: see `read_clips`.
    """

    def __init__(
        self,
        path: str | Path,
        length: int,
        *,
        layout: str | None = None,
        variable: str | None = None,
        channels: int | None = None,
        size: tuple[int, int] | None = None,
        stored: tuple[float, float] | None = None,
        value_range: tuple[float, float] = (0.0, 1.0),
        unit: str = "",
        strict: bool = True,
        first: int | None = None,
        held_out: tuple[Path, Collection[str]] | None = None,
    ):
        self.value_range, self.unit = value_range, unit
        self._length, self._channels, self._size, self._stored = length, channels, size, stored
        self._most, self._guessed = length, layout is None
        path = Path(path)
        kind = kind_of(path)
        self._clips: list[tuple[Path, ArrangedArray | None, int]] = []
        files = find_clips(path) if path.is_dir() else [path]
        folder = kind == "folder" or len(files) > 1  # images may lie beside other clips, such as a cover
        if not folder and kind not in ARRAYS and (layout, variable) != (None, None):
            stream_clips(path, layout, variable)  # raises: there is nothing of the kind to name
        unfit: list[str] = []
        tried = 0
        for file in files:
            if first is not None and len(self._clips) >= first:
                break
            tried += 1
            try:
                array = open_clips(file, layout, variable) if kind in ARRAYS or is_array(file) else None
                if array is not None:
                    self._check_length(file, array.shape[1], f", read as {array.layout}")
                if folder:
                    self._read(file, array, 0)
            except (ValueError, OSError) as error:
                if strict or not folder:
                    raise
                unfit.append(str(error))
                continue
            self._clips += [(file, array, n) for n in range(1 if array is None else array.shape[0])]
        self._clips = self._clips[:first]
        found = len(self._clips)
        if held_out is not None:
            self._clips = [clip for clip in self._clips if _may_be_scored(clip[0], clip[2], *held_out)]
        parts = []
        if unfit:
            parts.append(f"{len(unfit)} of {tried} files cannot be used and are left out: {_some(unfit)}")
        if seen := found - len(self._clips):
            parts.append(f"{seen} of {found} clips were trained or validated on and are left out")
        self.report = "; ".join(parts)
        if not self._clips:
            raise ValueError(f"{path} has no clip that can be used: {self.report}")
        self.layout = self._clips[0][1].layout if kind in ARRAYS and self._clips[0][1] else None

    def longer(self, most: int) -> "ClipSource":
        """Return the same clips with so many frames where they have as many."""
        source = copy(self)
        source._most = max(most, self._length)
        return source

    def __len__(self) -> int:
        """The number of clips."""
        return len(self._clips)

    def batch(self, indices: Sequence[int], device: torch.device | str = "cpu", /) -> Tensor:
        """Return the clips with these numbers: float32 (B, T, C, H, W) in [0, 1], on `device`.

        All are cut to the length of the shortest.
        """
        clips = [self._read(*self._clips[n]) for n in indices]
        for n, clip in zip(indices, clips, strict=True):
            if clip.shape[1:] != clips[0].shape[1:]:
                first, other = self._clips[indices[0]][0], self._clips[n][0]
                raise ValueError(
                    f"{other} has frames of (C, H, W) = {clip.shape[1:]}, {first} of {clips[0].shape[1:]}; "
                    "clips that go together need one size and number of channels"
                )
        shortest = min(map(len, clips))
        return torch.from_numpy(np.stack([clip[:shortest] for clip in clips])).to(device)

    def _read(self, path: Path, array: ArrangedArray | None, number: int) -> NDArray[np.float32]:
        if array is None:
            stored = self._stored
            if path.is_dir():  # of images, which may hold floats
                _, stretches = stream_clips(path)
                stored = stored_values(next(stretches).dtype, stored, self.value_range)
            fitting = {"channels": self._channels, "size": self._size, "stored": stored}
            clip = read_clips(path, frames=self._most, **fitting)[0, : self._most]
        else:
            frames = fit(array.frames(number, slice(self._most)), self._size, self._channels)
            clip = unit_range(path, frames, stored_values(frames.dtype, self._stored, self.value_range))
        self._check_length(path, len(clip))
        return clip

    def _check_length(self, path: Path, frames: int, read_as: str = "") -> None:
        if frames < self._length:
            layout = ", or another layout" if read_as and self._guessed else ""
            raise ValueError(
                f"{path} has {frames} frames a clip{read_as}; it needs {self._length} or more{layout}"
            )


def _may_be_scored(file: Path, number: int, root: Path, names: Collection[str]) -> bool:
    """Whether a clip is none of those at `root`, or one of the names."""
    file, root = file.resolve(), root.resolve()
    if not file.is_relative_to(root):
        return True
    return (str(number) if file == root else file.relative_to(root).as_posix()) in names


def _some(items: list[str]) -> str:
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return "; ".join(items[:NAMED]) + more
