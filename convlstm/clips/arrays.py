"""Clips in arrays: .npy, .npz and HDF5 files, opened without being read, and what their axes mean.

Letters: N clips, T time, C channels (1 or 3), H W pixels.
"""

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from convlstm.core.files import open_npy

__all__ = ["ArrangedArray", "guess_axes", "open_array"]


def open_array(path: Path, kind: str, variable: str | None = None) -> Any:
    """Return the array in a file: a memory-mapped one, an HDF5 dataset, or one of an .npz, which is read.

    Args:
        path: of the file.
        kind: "npy", "npz" or "hdf5".
        variable: which array, by its name, such as "rain" or "group/rain"; None (default) for the only one
            that has three axes or more.

    Raises:
        ValueError: a damaged file, no such variable or more than one to choose from, or Python objects.
        ImportError: an HDF5 file, and h5py is not installed.
    """
    if kind == "npy":
        if variable is not None:
            raise ValueError(f"variable is {variable!r}, but {path} holds one array without a name")
        return open_npy(path)
    try:
        arrays = _arrays_of_npz(path) if kind == "npz" else _arrays_of_hdf5(path)
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged or cut short: {error}") from error
    if variable is None:
        fitting = [name for name, array in arrays.items() if len(array.shape) >= 3]
        if len(fitting) != 1:
            which = f"{len(fitting)}: {', '.join(fitting[:8])}" if fitting else "none"
            raise ValueError(
                f"{path} has {which} with three axes or more; name the one that holds the clips as variable"
            )
        variable = fitting[0]
    if variable not in arrays:
        known = ", ".join(list(arrays)[:8]) or "none"
        raise ValueError(f"variable is {variable!r}, which {path} does not have; it has {known}")
    if arrays[variable].dtype.hasobject:
        raise ValueError(f"{path} holds Python objects (a pickle) as {variable!r}, which are never loaded")
    return arrays[variable]


def _arrays_of_npz(path: Path) -> dict[str, Any]:
    # Of a path that is no zip archive numpy would leave the file open.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _arrays_of_hdf5(path: Path) -> dict[str, Any]:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f'{path} is HDF5, which needs h5py: pip install "convlstm[import]"') from error
    found: dict[str, Any] = {}

    def keep(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None:  # None: of an empty one
            found[name] = item

    h5py.File(path, "r").visititems(keep)  # the datasets keep it open
    return found


def guess_axes(path: object, shape: tuple[int, ...]) -> str:
    """Return the layout that an array of this shape is taken to have; see `guess_layout`."""
    if len(shape) == 3:
        return "THW"
    if len(shape) == 4:
        return "THWC" if shape[3] in (1, 3, 4) else "TNHW"
    if len(shape) == 5:
        return "NTHWC" if shape[4] in (1, 3, 4) and shape[2] not in (1, 3) else "NTCHW"
    raise ValueError(f"{path} has {len(shape)} axes, shape {shape}; it needs 3 to 5, such as (T, H, W)")


class ArrangedArray:
    """An array of clips whose axes have names, read a part at a time.

    Args:
        name: of the file, for errors.
        array: a numpy array or an HDF5 dataset.
        layout: the axes, a letter each, such as "TNHW"; None for what `guess_axes` says.

    Attributes:
        layout: the axes in capitals.
        shape: (N, T, C, H, W).
        dtype: as stored.

    Raises:
        ValueError: an empty array, a layout that does not fit, or channels other than 1 or 3.
    """

    def __init__(self, name: object, array: Any, layout: str | None = None):
        shape = tuple(array.shape)
        if math.prod(shape) == 0:
            raise ValueError(
                f"{name} has shape {shape}: there is nothing in it; it needs 1 or more along each axis"
            )
        layout = guess_axes(name, shape) if layout is None else layout.upper()
        if len(set(layout)) < len(layout) or not set("THW") <= set(layout) <= set("NTCHW"):
            raise ValueError(
                f"layout is {layout!r}; it needs each of T, H and W once, and N and C where there are such "
                "axes"
            )
        if len(layout) != len(shape):
            raise ValueError(
                f"layout is {layout!r}, {len(layout)} axes, but {name} has {len(shape)}, shape {shape}; "
                "name each axis once"
            )
        sizes = dict(zip(layout, shape, strict=True))
        channels = sizes.get("C", 1)
        if channels not in (1, 3):
            alpha = " (RGBA: leave out the fourth)" if channels == 4 else ""
            raise ValueError(
                f"{name} has {channels} channels{alpha}, its shape {shape} read as {layout}; it needs 1 or "
                "3, or another layout"
            )
        self.layout, self.dtype = layout, np.dtype(array.dtype)
        self.shape = (sizes.get("N", 1), sizes["T"], channels, sizes["H"], sizes["W"])
        self._array = array

    def frames(self, clip: int, times: slice = slice(None)) -> NDArray:
        """Return frames of one clip, (T, C, H, W), as stored."""
        place = {"N": clip, "T": times}
        part = np.asarray(self._array[tuple(place.get(axis, slice(None)) for axis in self.layout)])
        axes = self.layout.replace("N", "")
        return rearrange(part, f"{' '.join(axes)} -> T {'C' if 'C' in axes else '1'} H W")

    def first(self, clips: int | None) -> NDArray:
        """Return the first clips (N, T, C, H, W), None for all, as stored and as a view where it can be."""
        axes = " ".join(axis if axis in self.layout else "1" for axis in "NTCHW")
        where = tuple(slice(clips) if axis == "N" else slice(None) for axis in self.layout)
        return rearrange(np.asarray(self._array[where]), f"{' '.join(self.layout)} -> {axes}")
