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

from convlstm.core.checks import import_extra
from convlstm.core.files import open_npy

HDF5 = (".h5", ".hdf5", ".hdf", ".nc", ".nc4")
ARRAYS = (".npy", ".npz", *HDF5)
NEEDED = (  # of a path of clips, in errors
    "a video (MP4, AVI, MOV, WebM), a GIF, an array (.npy, .npz, HDF5), or a folder of frames (PNG, JPEG, "
    "PGM, TIFF)"
)


def is_array(path: Path) -> bool:
    """Return whether a file is an array, by its suffix; only arrays have a layout and may have a variable."""
    return path.suffix.lower() in ARRAYS


def open_clips(path: str | Path, layout: str | None = None, variable: str | None = None) -> "ArrangedArray":
    """Open the array in a file: a .npy is memory-mapped, an HDF5 dataset opened, an .npz read.

    Args:
        path: of the file.
        layout: see `ArrangedArray`.
        variable: the array's name, such as "rain" or "group/rain". Default: None, the only array of three
            axes or more.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of another kind, a damaged one, or Python objects; no such variable or more than
            one to choose from; what `ArrangedArray` refuses.
        ImportError: an HDF5 file, and h5py is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; it needs {NEEDED}")
    if not (is_array(path) and path.is_file()):
        raise ValueError(f"{path} is no array; it needs a .npy, .npz or HDF5 file")
    if path.suffix.lower() == ".npy":
        if variable is not None:
            raise ValueError(f"variable is {variable!r}, but {path} holds one array without a name")
        return ArrangedArray(path, open_npy(path), layout)
    try:
        arrays = _arrays_of_hdf5(path) if path.suffix.lower() in HDF5 else _arrays_of_npz(path)
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
    return ArrangedArray(path, arrays[variable], layout)


def _arrays_of_npz(path: Path) -> dict[str, Any]:
    # Given the path of a file that is no zip archive, numpy would leave it open.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _arrays_of_hdf5(path: Path) -> dict[str, Any]:
    h5py = import_extra("h5py", "import", str(path))
    found: dict[str, Any] = {}

    def keep(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None:  # an empty one has None
            found[name] = item

    h5py.File(path, "r").visititems(keep)  # the datasets keep the file open
    return found


class ArrangedArray:
    """An array of clips whose axes have names, read a part at a time.

    Without a layout, 3 axes are THW. 4 are THWC if the last is 1, 3 or 4 long, else TNHW (time first, as in
    the canonical Moving MNIST file). 5 are NTHWC if the last is so long and the third is not 1 or 3, else
    NTCHW. Four channels (RGBA) are recognized in order to be refused as such.

    Args:
        name: of the file, for errors.
        array: a numpy array or an HDF5 dataset.
        layout: the axes, a letter each, such as "TNHW". Default: None, guessed from the shape.

    Its `layout` is the axes in capitals, its `shape` is `(N, T, C, H, W)`.

    Raises:
        ValueError: an empty array, a layout that does not fit, or channels other than 1 or 3.

    Example:
        >>> videos = np.zeros((2, 20, 48, 64, 3))
        >>> array = convlstm.clips.ArrangedArray("videos", videos, layout="NTHWC")
        >>> array.frames(0, slice(10)).shape
        (10, 3, 48, 64)
    """

    def __init__(self, name: object, array: Any, layout: str | None = None):
        shape = tuple(array.shape)
        if math.prod(shape) == 0:
            raise ValueError(
                f"{name} has shape {shape}: there is nothing in it; it needs 1 or more along each axis"
            )
        layout = _guessed_layout(name, shape) if layout is None else layout.upper()
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
        self.layout = layout
        self.shape = (sizes.get("N", 1), sizes["T"], channels, sizes["H"], sizes["W"])
        self._array = array

    def frames(self, clip: int, times: slice = slice(None)) -> NDArray:
        """Return frames of one clip, `(T, C, H, W)`, as stored."""
        place = {"N": clip, "T": times}
        part = np.asarray(self._array[tuple(place.get(axis, slice(None)) for axis in self.layout)])
        axes = self.layout.replace("N", "")
        return rearrange(part, f"{' '.join(axes)} -> T {'C' if 'C' in axes else '1'} H W")


def _guessed_layout(name: object, shape: tuple[int, ...]) -> str:
    if len(shape) == 3:
        return "THW"
    if len(shape) == 4:
        return "THWC" if shape[3] in (1, 3, 4) else "TNHW"
    if len(shape) == 5:
        return "NTHWC" if shape[4] in (1, 3, 4) and shape[2] not in (1, 3) else "NTCHW"
    raise ValueError(f"{name} has {len(shape)} axes, shape {shape}; it needs 3 to 5, such as (T, H, W)")
