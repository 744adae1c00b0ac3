"""One's own clips in an array. Letters: N clips, T time, C channels, H W pixels."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from convlstm.clips import ArrangedArray, open_clips
from datasets.windows import Windows, split_by_hash


class ArrayClips(Windows):
    """Windows of the clips in an array: a .npy, .npz or HDF5 file, or one in memory.

    A .npy file is memory-mapped, an HDF5 one read a window at a time, a .npz one whole. Frames are scaled and
    converted as they are asked for.

    Args:
        clips: the path of a file, or an array: (T, H, W), (T, H, W, C), (T, N, H, W) or (N, T, C, H, W).
        split: "train", "val" or "test" for a part of the clips, whole ones, by a hash of their numbers; None
            (default) for all.
        layout: the axes, a letter each, such as "NTHW". None (default) for a guess by the shape, see
            `convlstm.clips.guess_layout`; the attribute says which.
        variable: the array's name in a .npz or HDF5 file. None (default) for the only one of three axes or
            more.
        fractions: see `VideoFolder`, as for all that follow.
        length: frames.
        step: frames.
        stride: frames.
        size: pixels.
        channels: 1 or 3.
        value_range: physical values.
        unit: of the physical values.
        stored: stored values.

    Attributes:
        layout: the axes.
        names: the numbers of the clips in the split.
        value_range: as given.
        unit: as given.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, an array that is no clips, clips that are too short for one window, too
            few clips to split, or an argument out of its bounds.
        ImportError: HDF5 needs h5py, a size torchvision, and it is not installed.
    """

    def __init__(
        self,
        clips: str | Path | np.ndarray | torch.Tensor,
        split: str | None = None,
        *,
        layout: str | None = None,
        variable: str | None = None,
        fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
        length: int = 20,
        step: int | None = None,
        stride: int = 1,
        size: tuple[int, int] | int | None = None,
        channels: int = 1,
        value_range: tuple[float, float] = (0.0, 1.0),
        unit: str = "",
        stored: tuple[float, float] | None = None,
    ) -> None:
        options: dict[str, Any] = {"size": size, "channels": channels, "value_range": value_range}
        super().__init__(length=length, step=step, stride=stride, unit=unit, stored=stored, **options)
        if isinstance(clips, str | Path):
            name, array = str(clips), open_clips(clips, layout, variable)
        else:
            name, array = "the array", ArrangedArray("the array", np.asarray(clips), layout)
        self.layout = array.layout
        frames = array.shape[1]
        if not self._windows_of(frames):
            raise ValueError(
                f"{name} has {frames} frames a clip, read as {self.layout}; windows of {length} frames with "
                f"a stride of {stride} need {self._span} or more, or another layout"
            )
        numbers = [str(n) for n in range(array.shape[0])]
        self.names = split_by_hash(numbers, split, fractions, f"clips in {name}, read as {self.layout}")
        self._keep([(name, array, [int(n) for n in self.names])])
