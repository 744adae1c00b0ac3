"""What a file or folder of clips is, and its frames as stored.

Letters: N clips, T time, C channels (1 or 3), H W pixels. A file's suffix says of what kind it is.
"""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convlstm.clips.arrays import ArrangedArray, open_array
from convlstm.clips.media import (
    IMAGE_SUFFIXES,
    frames_of_film,
    frames_of_folder,
    image_files,
    natural_order,
    read_gif,
)

__all__ = ["ARRAYS", "find_clips", "is_array", "kind_of", "open_clips", "stream_clips"]

ARRAYS = ("npy", "npz", "hdf5")
KINDS = {".npy": "npy", ".npz": "npz", ".gif": "gif"}
KINDS |= dict.fromkeys((".h5", ".hdf5", ".hdf", ".nc", ".nc4"), "hdf5")
KINDS |= dict.fromkeys((".mp4", ".m4v", ".avi", ".mov", ".webm", ".mkv"), "film")
NEEDED = (
    "a film (MP4, AVI, MOV, WebM), a GIF, an array (.npy, .npz, HDF5), or a folder of frames (PNG, JPEG, "
    "PGM, TIFF)"
)
STRETCH = 16  # frames that are decoded at a time


def kind_of(path: Path) -> str:
    """Return what a file or folder is: npy, npz, hdf5, gif, film, frames (a folder's images) or folder."""
    if path.is_dir():
        if image_files(path):
            return "frames"
        if find_clips(path):
            return "folder"
        raise FileNotFoundError(f"{path} has no clips in it; it needs {NEEDED}")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; it needs {NEEDED}")
    if path.suffix.lower() not in KINDS:
        raise ValueError(f"{path} ends as no known kind of clips does; it needs {NEEDED}")
    return KINDS[path.suffix.lower()]


def is_array(path: Path) -> bool:
    """Return whether a file is an array, which has a layout and may have a variable."""
    return KINDS.get(path.suffix.lower()) in ARRAYS


def find_clips(root: str | Path) -> list[Path]:
    """Return the clips at and below a folder in natural order: films, GIFs, arrays, and folders of images.

    Other files and hidden ones are left out. A folder that has images in it is one clip.
    """
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names = [name for name in files if not name.startswith(".")]
        found += [Path(folder, name) for name in names if Path(name).suffix.lower() in KINDS]
        if any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in names):
            found.append(Path(folder))
    return sorted(found, key=lambda path: [natural_order(part) for part in path.relative_to(root).parts])


def open_clips(path: str | Path, layout: str | None = None, variable: str | None = None) -> ArrangedArray:
    """Open a .npy, .npz or HDF5 file, of which parts can be read.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of another kind, a damaged one, or what does not fit.
        ImportError: an HDF5 file, and h5py is not installed.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind not in ARRAYS:
        raise ValueError(f"{path} is no array; it needs a .npy, .npz or HDF5 file")
    return ArrangedArray(path, open_array(path, kind, variable), layout)


def stream_clips(
    path: str | Path, layout: str | None = None, variable: str | None = None
) -> tuple[int, Iterator[NDArray]]:
    """Return the number of clips in one file or folder of frames, all of one length, and their frames.

    Returns:
        N, and an iterator over stretches (t, C, H, W) of all N * T frames, clip after clip, in the type that
        is stored. All stretches have the same type, C, H and W.

    Raises:
        FileNotFoundError: no such file.
        ValueError: at once or as it is met: see `read_clips`.
        ImportError: see `read_clips`.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind in ARRAYS:
        array = open_clips(path, layout, variable)
        return array.shape[0], (array.frames(clip) for clip in range(array.shape[0]))
    for name, given in (("layout", layout), ("variable", variable)):
        if given is not None:
            raise ValueError(
                f"{name} is {given!r}, but {path} is no array, which alone has one; leave it out"
            )
    if kind == "folder":
        raise ValueError(f"{path} holds several clips; it needs one, such as {find_clips(path)[0]}")
    if kind == "gif":
        return 1, iter([read_gif(path)])
    return 1, _stretches(path, frames_of_film(path) if kind == "film" else frames_of_folder(path))


def _stretches(path: Path, frames: Iterator[NDArray]) -> Iterator[NDArray]:
    """Stack frames (C, H, W), once each is of the first one's size and type."""
    number, kind = 0, ""
    while stretch := list(islice(frames, STRETCH)):
        for frame in stretch:
            channels, height, width = frame.shape
            number, found = number + 1, f"{height} x {width} pixels, {channels} channel(s) of {frame.dtype}"
            kind = kind or found
            if found != kind:
                raise ValueError(
                    f"{path}: frame {number} has {found}, the first {kind}; all need one size and type"
                )
        yield np.stack(stretch)
