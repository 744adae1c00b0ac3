"""One's own clips in a folder. Letters: T time, H W pixels."""

import warnings
from pathlib import Path
from typing import Any

from convlstm.clips import find_clips, stored_range, stored_values
from datasets.cache import CachedClips, decode, default_folder
from datasets.windows import Windows, split_by_hash

NAMED = 5  # files that a message names; the others are counted


class VideoFolder(Windows):
    """Windows of the clips in a folder: films, GIFs, folders of frames, arrays.

    What is found: MP4, AVI, MOV and WebM files; GIFs; .npy, .npz and HDF5 arrays; and folders with images in
    them (PNG, JPEG, PGM, TIFF; 8 and 16 bits), each of which is one clip, in natural order (frame2 before
    frame10). They are decoded once, into a cache. Files that cannot be read and clips that are too short for
    one window are named in a warning, and in the attributes.

    Args:
        root: the folder.
        split: "train", "val" or "test" for a part of the files, by a hash of their names relative to the
            root: all windows of a file are in one split. None (default) for all.
        fractions: the shares of train, val and test. Default: 0.8, 0.1, 0.1; one file each at least.
        length: frames of a window. Default: 20.
        step: frames from the start of a window to that of the next; fewer than `length` make them overlap.
            Default: `length`.
        stride: of the frames in a clip every so-manieth is taken. Default: 1. Length and step count those
            that are taken.
        size: (H, W) or one number for both, to which frames are scaled, antialiased and in their proportions,
            and then cropped at the centre. None (default) if all have one size.
        channels: 1 (default) for gray, 3 for colour; frames are converted.
        value_range: the physical values that 0 and 1 stand for, such as (0, 60). Default: (0.0, 1.0).
        unit: of the physical values, such as "mm/h". Default: "".
        stored: the stored values that stand for the physical ones, such as (0, 6000) for hundredths; what is
            beyond them is clipped. None (default): 0 to 255 of 8 bits, 0 to 65535 of 16; floats are taken for
            physical values.
        layout: the axes of arrays, a letter each, such as "NTHW". None (default) for a guess by the shape.
        variable: the array's name in .npz and HDF5 files. None (default) for the only one of three axes or
            more.
        cache: the folder of decoded clips. Default: convlstm/clips in the user's cache folder.
        strict: whether a file that cannot be read is an error. Default: False.

    Attributes:
        value_range: as given.
        unit: as given.
        names: the files in the split, relative to the root.
        unreadable: for the name of each file that cannot be read, why.
        too_short: the frames of each file whose clips are too short.
        report: both in words; "" if there are none.

    Raises:
        FileNotFoundError: no such folder, or no clips in it.
        ValueError: no clip that can be used, too few to split, frames of different sizes and no size given,
            an argument out of its bounds; with `strict`, a file that cannot be read.
        OSError: a cache that cannot be written.
        ImportError: films need PyAV, HDF5 h5py, a size torchvision, and it is not installed.
    """

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        *,
        fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
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
        options: dict[str, Any] = {"size": size, "channels": channels, "value_range": value_range}
        super().__init__(length=length, step=step, stride=stride, unit=unit, stored=stored, **options)
        root, folder = Path(root), Path(cache) if cache is not None else default_folder()
        if not root.is_dir():
            raise FileNotFoundError(f"{root} is no folder; it needs one with clips in it")
        if folder.resolve().is_relative_to(root.resolve()):
            raise ValueError(
                f"cache is {folder}, inside the folder of the clips {root}; it needs another place"
            )
        paths = {path.relative_to(root).as_posix(): path for path in find_clips(root)}
        if not paths:
            raise FileNotFoundError(
                f"{root} has no clips in it; it needs films (MP4, AVI, MOV, WebM), GIFs, arrays (.npy, .npz, "
                "HDF5) or folders of frames (PNG, JPEG, PGM, TIFF)"
            )
        done = {"size": self._size, "channels": channels, "layout": layout, "variable": variable}
        decoded, self.unreadable = decode(paths, folder, done, strict)
        good = []
        for clips in decoded:
            try:
                self._check_values(clips)
                good.append(clips)
            except ValueError as error:
                if strict:
                    raise
                self.unreadable[clips.name] = str(error)
        usable = {clips.name: clips for clips in good if self._windows_of(clips.shape[1])}
        self.too_short = {clips.name: clips.shape[1] for clips in good if clips.name not in usable}
        self.report = self._report(len(paths))
        if not usable:
            raise ValueError(f"{root} has no clip that can be used: {self.report}")
        if self.report:
            warnings.warn(f"{root}: {self.report}", stacklevel=2)
        sizes = {clips.shape[3:]: clips.name for clips in usable.values()}
        if len(sizes) > 1:
            shown = ", ".join(
                f"{height} x {width} ({name})" for (height, width), name in list(sizes.items())[:3]
            )
            raise ValueError(
                f"{root} has frames of different sizes: {shown}; give a size that all are brought to"
            )
        self.names = split_by_hash(list(usable), split, fractions, f"clips in {root}")
        self._keep((str(root / name), usable[name], range(usable[name].shape[0])) for name in self.names)

    def _check_values(self, clips: CachedClips) -> None:
        """Raise ValueError for values that `batch` would refuse."""
        if stored_values(clips.dtype, self._stored, self.value_range) is not None:
            return
        low, high = stored_range(clips.name, clips.dtype)
        if clips.low < low or clips.high > high:
            raise ValueError(
                f"{clips.name} has values from {clips.low:g} to {clips.high:g}; give the value_range of "
                "floats that are not in [0, 1]"
            )

    def _report(self, files: int) -> str:
        parts = []
        if self.unreadable:
            reasons = [f"{name} ({why})" for name, why in self.unreadable.items()]
            parts.append(f"{len(reasons)} of {files} files cannot be read and are left out: {_some(reasons)}")
        if self.too_short:
            short = [f"{name} ({frames})" for name, frames in self.too_short.items()]
            parts.append(
                f"{len(short)} of {files} files have fewer than the {self._span} frames that a window takes "
                f"and are left out: {_some(short)}"
            )
        return "; ".join(parts)


def _some(items: list[str]) -> str:
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return ", ".join(items[:NAMED]) + more
