"""The clips of a file or folder as a numbered source, read as they are asked for.

Letters: B batch, N clips, T time, C channels, H W pixels.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convlstm.video.arrays import ArrangedArray
from convlstm.video.fitting import fit
from convlstm.video.reading import ARRAYS, find_clips, is_array, kind_of, open_clips, read_clips
from convlstm.video.values import stored_values, unit_range

__all__ = ["ClipSource"]


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

    Attributes:
        layout: the axes that an array was read as; None for other files and for folders.
        value_range: as given.
        unit: as given.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `read_clips`, some as clips are asked for; clips that are too short.
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
    ):
        self.value_range, self.unit = value_range, unit
        self._length, self._channels, self._size, self._stored = length, channels, size, stored
        path = Path(path)
        kind = kind_of(path)
        self._clips: list[tuple[Path, ArrangedArray | None, int]] = []
        for file in find_clips(path) if kind == "folder" else [path]:
            array = open_clips(file, layout, variable) if kind in ARRAYS or is_array(file) else None
            if array is not None:
                self._check_length(file, array.shape[1], f", read as {array.layout}")
            self._clips += [(file, array, n) for n in range(1 if array is None else array.shape[0])]
        self.layout = self._clips[0][1].layout if kind in ARRAYS and self._clips[0][1] else None

    def __len__(self) -> int:
        """The number of clips."""
        return len(self._clips)

    def batch(self, indices: Sequence[int], device: torch.device | str = "cpu", /) -> Tensor:
        """Return the clips with these numbers: float32 (B, T, C, H, W) in [0, 1], on `device`."""
        clips = [self._read(*self._clips[n]) for n in indices]
        for n, clip in zip(indices, clips, strict=True):
            if clip.shape != clips[0].shape:
                first, other = self._clips[indices[0]][0], self._clips[n][0]
                raise ValueError(
                    f"{other} has frames of (C, H, W) = {clip.shape[1:]}, {first} of {clips[0].shape[1:]}; "
                    "clips that go together need one size and number of channels"
                )
        return torch.from_numpy(np.stack(clips)).to(device)

    def _read(self, path: Path, array: ArrangedArray | None, number: int) -> NDArray[np.float32]:
        if array is None:
            fitting = {"channels": self._channels, "size": self._size, "stored": self._stored}
            clip = read_clips(path, frames=self._length, **fitting)[0, : self._length]
        else:
            frames = fit(array.frames(number, slice(self._length)), self._size, self._channels)
            clip = unit_range(path, frames, stored_values(frames.dtype, self._stored, self.value_range))
        self._check_length(path, len(clip))
        return clip

    def _check_length(self, path: Path, frames: int, read_as: str = "") -> None:
        if frames < self._length:
            layout = ", or another layout" if read_as else ""
            raise ValueError(
                f"{path} has {frames} frames a clip{read_as}; it needs {self._length} or more{layout}"
            )
