"""The clips of a file or folder, as a source that reads them when they are asked for, or read at once.

Letters: B batch, N clips, T time, C channels, H W pixels.
"""

import sys
from collections.abc import Collection, Sequence
from copy import copy
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convlstm.clips.arrays import ArrangedArray, is_array, open_clips
from convlstm.clips.pixels import fit, two_values, unit_range
from convlstm.clips.reading import find_clips, stream_clips
from convlstm.core.checks import positive, shortened


class ClipSource:
    """The clips of a file or folder, read as they are asked for: a source for `convlstm.evaluate`.

    Args:
        path: a file or folder, as for `read_clips`.
        length: frames of each clip, from the first on.
        layout, variable, channels, size, stored: as for `read_clips`.
        value_range: the physical values that 0 and 1 stand for; floats are taken for such. Default: (0, 1).
        unit: of the physical values, such as "mm/h". Default: "".
        strict: whether a file in a folder that cannot be read or is too short is an error. Default: True;
            else it is left out. All are tried at once.
        first: at most so many clips, from the first on; files beyond are not looked at. Default: None, all.
        held_out: a folder or file, and the names of the clips in it that may be scored on (files by their
            path in the folder, clips of an array by their number): others in it are left out. Default: None,
            all may.

    Its `layout` is the axes that an array was read as (None for other files and for folders), its `report`
    says what was left out ("" if nothing was).

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `read_clips`, some as clips are asked for; clips that are too short; none is left.
        ImportError: see `read_clips`.

    Example:
        >>> np.save("clips.npy", np.random.rand(3, 20, 1, 32, 32))
        >>> source = convlstm.clips.ClipSource("clips.npy", length=15)
        >>> len(source), source.batch([0, 2]).shape
        (3, torch.Size([2, 15, 1, 32, 32]))
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
        self.value_range, self.unit = two_values("value_range", value_range, ordered=True), unit
        self._stored = None if stored is None else two_values("stored", stored)
        self._size = None if size is None else (positive("size", size[0]), positive("size", size[1]))
        self._length = self._most = length
        self._channels, self._guessed = channels, layout is None
        path = Path(path)
        self._clips: list[tuple[Path, ArrangedArray | None, int]] = []
        files = find_clips(path)
        folder = files != [path]  # of clips; a folder of frames is one
        if not folder and not is_array(path):
            stream_clips(path)  # raises unless there is such a file
            if (layout, variable) != (None, None):
                raise ValueError(f"layout and variable are of arrays, and {path} is none; leave them out")
        unfit: list[str] = []
        tried = 0
        for file in files:
            if first is not None and len(self._clips) >= first:
                break
            tried += 1
            try:
                array = open_clips(file, layout, variable) if is_array(file) else None
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
            named = shortened(unfit, "; ")
            parts.append(f"{len(unfit)} of {tried} files cannot be used and are left out: {named}")
        if seen := found - len(self._clips):
            parts.append(f"{seen} of {found} clips were trained or validated on and are left out")
        self.report = "; ".join(parts)
        if not self._clips:
            raise ValueError(f"{path} has no clip that can be used: {self.report}")
        self.layout = self._clips[0][1].layout if self._clips[0][1] and not folder else None

    def longer(self, most: int) -> "ClipSource":
        """Return the same clips with so many frames where they have as many."""
        source = copy(self)
        source._most = max(most, self._length)
        return source

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self._clips)

    def batch(self, indices: Sequence[int], device: torch.device | str = "cpu", /) -> Tensor:
        """Return the clips with these numbers: float32 `(B, T, C, H, W)` in [0, 1], on `device`.

        All are cut to the length of the shortest.
        """
        clips = [self._read(*self._clips[n]) for n in indices]
        for n, clip in zip(indices, clips, strict=True):
            if clip.shape[1:] != clips[0].shape[1:]:
                first, other = self._clips[indices[0]][0], self._clips[n][0]
                raise ValueError(
                    f"{other} has frames of (C, H, W) = {clip.shape[1:]}, {first} of {clips[0].shape[1:]}; "
                    "clips that go together need one size and number of channels: give a size"
                )
        shortest = min(map(len, clips))
        return torch.from_numpy(np.stack([clip[:shortest] for clip in clips])).to(device)

    def _read(self, path: Path, array: ArrangedArray | None, number: int) -> NDArray[np.float32]:
        """Read one clip, (T, C, H, W)."""
        if array is not None:
            clip = fit(array.frames(number, slice(self._most)), self._size, self._channels)
        else:
            stretches, left = [], self._most
            for stretch in stream_clips(path)[1]:
                stretches.append(fit(stretch[:left], self._size, self._channels))
                left -= len(stretches[-1])
                if left <= 0:
                    break
            clip = np.concatenate(stretches)
            if self._channels is None and clip.shape[1] == 3 and (clip == clip[:, :1]).all():
                clip = clip[:, :1]
        self._check_length(path, len(clip))
        return unit_range(path, clip, self._stored, self.value_range)

    def _check_length(self, path: Path, frames: int, read_as: str = "") -> None:
        if frames < self._length:
            layout = ", or another layout" if read_as and self._guessed else ""
            raise ValueError(
                f"{path} has {frames} frames a clip{read_as}; it needs {self._length} or more{layout}"
            )


def _may_be_scored(file: Path, number: int, root: Path, names: Collection[str]) -> bool:
    """Return whether a clip is none of those at `root`, or one of the names."""
    file, root = file.resolve(), root.resolve()
    if not file.is_relative_to(root):
        return True
    return (str(number) if file == root else file.relative_to(root).as_posix()) in names


def read_clips(
    path: str | Path,
    layout: str | None = None,
    first: int | None = None,
    *,
    frames: int | None = None,
    variable: str | None = None,
    channels: int | None = None,
    size: tuple[int, int] | None = None,
    stored: tuple[float, float] | None = None,
) -> NDArray[np.float32]:
    """Read clips: from an array, a video, a GIF, a folder of frames, or a folder of any of these.

    The frames of a clip are evenly spaced in time. From a file of `write_clip`, you get back every frame.
    In other GIFs, a long frame is repeated if all durations are whole multiples of the shortest; otherwise
    each frame is read once. The last frame is always read once, because many GIFs hold it at the end.

    Args:
        path: the file or folder. In a folder, suffixes tell which files are clips (see `find_clips`).
        layout: the axes of an array (in a folder: of all), a letter each, such as "TNHW": T, H and W, and N
            and C where there are such axes. Default: None, guessed from the shape (see `ArrangedArray`).
        first: highest number of clips, from the first on. Only these are read from an array. Default: None,
            all.
        frames: highest number of frames of each clip, from the first on. Default: None, all.
        variable: the array's name in a .npz or HDF5 file. Default: None, the only one of 3 to 5 axes.
        channels: 1 for gray, 3 for color. Default: None, as they are.
        size: `(H, W)`, to which frames are scaled and center-cropped, see `fit`. Default: None, as they are.
        stored: the stored values that become 0 and 1; values outside are clipped. Default: None, those
            of the type: 0 and 255 of uint8, 65535 of uint16, 0 and 1 of booleans and floats.

    Returns:
        float32 `(N, T, C, H, W)` in [0, 1]. A GIF or video whose pixels are all gray has one channel, else
        three. Clips of a folder are cut to the length of the shortest.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is empty, damaged or of another kind; an array of Python objects (a pickle,
            which is never loaded), with other axes or nothing in it, with other numbers or out of [0, 1]; a
            layout that does not fit; frames or clips of different sizes; a GIF whose frames take more than
            1 GiB; or a `first` or `frames` below 1.
        ImportError: videos need PyAV, HDF5 h5py, a size torchvision, and it is not installed.

    Example:
        >>> frames = np.zeros((12, 64, 64), np.uint8)
        >>> rate = convlstm.clips.write_clip("clip.gif", frames, fps=10)
        >>> convlstm.clips.read_clips("clip.gif", frames=10).shape
        (1, 10, 1, 64, 64)
    """
    first = None if first is None else positive("first", first)
    frames = sys.maxsize if frames is None else positive("frames", frames)
    options = {"channels": channels, "size": size, "stored": stored, "first": first}
    source = ClipSource(path, 1, layout=layout, variable=variable, **options).longer(frames)
    return source.batch(range(len(source))).numpy()
