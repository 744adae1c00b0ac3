"""Clips in, of whatever kind: what a file or folder is, its frames as stored, and clips as pixels in [0, 1].

Letters: N clips, T time, C channels (1 or 3), H W pixels. The kind of a file is told by its content.
"""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convlstm.clips.arrays import ArrangedArray, open_array
from convlstm.clips.films import frames_of_film
from convlstm.clips.fitting import fit
from convlstm.clips.gif import read_gif
from convlstm.clips.images import SUFFIXES as IMAGES
from convlstm.clips.images import frames_of_folder, image_files, natural_order
from convlstm.clips.values import unit_range
from convlstm.core.files import MAGIC

__all__ = ["find_clips", "guess_layout", "is_array", "open_clips", "read_clips", "stream_clips"]

KINDS = "a film (MP4, AVI, MOV, WebM), a .npz or HDF5 file, a .npy array of clips, or a GIF"
FILMS = (".mp4", ".m4v", ".avi", ".mov", ".webm", ".mkv")
ARRAY_SUFFIXES = (".npy", ".npz", ".h5", ".hdf5", ".nc")
SUFFIXES = (*FILMS, ".gif", *ARRAY_SUFFIXES)
ARRAYS = ("npy", "npz", "hdf5")
LARGEST = 2**30  # bytes that decoded frames may take in memory
BUNDLE = 16  # frames that are worked on at a time


def guess_layout(path: str | Path, variable: str | None = None) -> str | None:
    """Return the layout that `read_clips` takes an array to have if it is given none; None for other files.

    3 axes are THW. 4 are THWC if the last is 1, 3 or 4 long, else TNHW (time first, as in the canonical
    Moving MNIST file). 5 are NTHWC if the last is so long and the third is not 1 or 3, else NTCHW. Four
    channels (RGBA) are recognised in order to be refused as such.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of another kind, a damaged array, or one with fewer than 3 or more than 5 axes.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind not in ARRAYS:
        return None
    return ArrangedArray(path, open_array(path, kind, variable)).layout


def kind_of(path: Path) -> str:
    """Return what a file or folder is: npy, npz, hdf5, gif, film, frames (a folder's images) or folder."""
    if path.is_dir():
        if image_files(path):
            return "frames"
        if find_clips(path):
            return "folder"
        raise FileNotFoundError(f"{path} is no file, nor a folder that holds clips; it needs {KINDS}")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; it needs {KINDS}")
    with path.open("rb") as file:
        start = file.read(12)
    if not start:
        raise ValueError(f"{path} is empty; it needs {KINDS}")
    begins = {MAGIC: "npy", b"PK\x03\x04": "npz", b"\x89HDF\r\n\x1a\n": "hdf5", b"GIF8": "gif"}
    for mark, kind in begins.items():
        if start.startswith(mark):
            return kind
    quicktime = start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
    avi = start.startswith(b"RIFF") and start[8:12] == b"AVI "
    if quicktime or avi or start.startswith(b"\x1aE\xdf\xa3"):  # the last: Matroska, and so WebM
        return "film"
    raise ValueError(f"{path} begins with {start[:6]!r}, as no kind of clips that is known; it needs {KINDS}")


def is_array(path: Path) -> bool:
    """Whether a file in a folder of clips is an array, which has a layout and may have a variable."""
    return path.suffix.lower() in ARRAY_SUFFIXES


def find_clips(root: str | Path) -> list[Path]:
    """Return the clips at and below a folder in natural order: films, GIFs, arrays, and folders of images.

    They are told by their suffixes; other files and hidden ones are left out. A folder that has images in it
    is one clip.
    """
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names = [name for name in files if not name.startswith(".")]
        found += [Path(folder, name) for name in names if Path(name).suffix.lower() in SUFFIXES]
        if any(Path(name).suffix.lower() in IMAGES for name in names):
            found.append(Path(folder))
    return sorted(found, key=lambda path: [natural_order(part) for part in path.relative_to(root).parts])


def open_clips(path: str | Path, layout: str | None = None, variable: str | None = None) -> ArrangedArray:
    """Open a .npy, .npz or HDF5 file, of which parts can be read.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of another kind, a damaged one, or what does not fit.
        ImportError: see `read_clips`.
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
        array = ArrangedArray(path, open_array(path, kind, variable), layout)
        return array.shape[0], (array.frames(clip) for clip in range(array.shape[0]))
    for name, given in (("layout", layout), ("variable", variable)):
        if given is not None:
            what = {"gif": "a GIF", "film": "a film", "frames": "a folder of frames"}.get(kind, "a folder")
            raise ValueError(
                f"{name} is {given!r}, but {path} is {what}, which has no axes to name; leave it out"
            )
    if kind == "folder":
        raise ValueError(f"{path} holds several clips; it needs one, such as {find_clips(path)[0]}")
    if kind == "gif":
        return 1, iter([read_gif(path)])
    frames = frames_of_film(path) if kind == "film" else frames_of_folder(path)
    return 1, _bundled(_alike(path, frames))


def _alike(path: Path, frames: Iterator[NDArray]) -> Iterator[NDArray]:
    """Pass on frames (C, H, W), once each is of the first one's size and type."""
    first = None
    for number, frame in enumerate(frames):
        first = frame if first is None else first
        if frame.shape[1:] != first.shape[1:]:
            sizes = (f"{height} x {width}" for height, width in (frame.shape[1:], first.shape[1:]))
            raise ValueError(
                "{}: frame {} is {} pixels, the first {}; all frames of a clip need one size".format(
                    path, number + 1, *sizes
                )
            )
        if frame.dtype != first.dtype or len(frame) != len(first):
            kinds = (f"{len(f)} channel(s) of {f.dtype}" for f in (frame, first))
            raise ValueError(
                "{}: frame {} has {}, the first {}; all frames of a clip need one type".format(
                    path, number + 1, *kinds
                )
            )
        yield frame


def _bundled(frames: Iterator[NDArray]) -> Iterator[NDArray]:
    while bundle := list(islice(frames, BUNDLE)):
        yield np.stack(bundle)


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
    """Read clips: from an array, a film, a GIF, a folder of frames, or a folder of any of these.

    The frames of a clip are evenly spaced in time. A GIF holds equal ones as one that lasts longer, and from
    what `write_gif` wrote all of them come back. In other GIFs a frame counts as often as the shortest fits
    into its time, if all times are whole multiples of the shortest; else each counts once, since times such
    as 3, 3 and 4 hundredths of a second are one time, rounded. The last always counts once, and its time is
    left aside: it is commonly held for a while before the GIF starts again.

    Args:
        path: of the file or folder; what lies in a folder is told by its suffix (see `find_clips`).
        layout: the axes of an array (in a folder: of all), a letter each, such as "TNHW": T, H and W, and N
            and C where there are such axes. None (default) takes what `guess_layout` says.
        first: at most so many clips, from the first on; None (default) for all. Of an array no more is read
            than is asked for.
        frames: of a film or a folder of frames, at most so many, from the first on; None (default) for all.
        variable: the array's name in a .npz or HDF5 file; None (default) for the only one of 3 to 5 axes.
        channels: 1 for gray, 3 for colour, None (default) as they are.
        size: (H, W), to which frames are scaled and centre-cropped, see `fit`; None (default) as they are.
        stored: the stored values that become 0 and 1, what is beyond them clipped. None (default) for those
            of the type: 0 and 255 of uint8, 65535 of uint16, 0 and 1 of booleans and floats.

    Returns:
        float32 (N, T, C, H, W) in [0, 1]. A GIF or film whose pixels are all gray has one channel, else
        three. Clips of a folder are cut to the length of the shortest.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is empty, damaged or of another kind; an array of Python objects (a pickle,
            which is never loaded), with other axes or nothing in it, with other numbers or out of [0, 1]; a
            layout that does not fit; frames or clips of different sizes; frames that take more than 1 GiB;
            or a `first` or `frames` below 1.
        ImportError: films need PyAV, HDF5 h5py, a size torchvision, and it is not installed.
    """
    path = Path(path)
    for name, count in (("first", first), ("frames", frames)):
        if count is not None and count < 1:
            raise ValueError(
                f"{name} is {count}; it needs 1 {'clip' if name == 'first' else 'frame'} or more"
            )
    kind = kind_of(path)
    if kind == "folder":
        files = find_clips(path)[:first]
        names = [(layout, variable) if is_array(file) else (None, None) for file in files]
        same = {"frames": frames, "channels": channels, "size": size, "stored": stored}
        read = [
            (file, read_clips(file, axes, first, variable=array, **same))
            for file, (axes, array) in zip(files, names, strict=True)
        ]
        return _joined(read)[:first]
    if kind in ARRAYS:
        array = open_clips(path, layout, variable)
        clips = unit_range(path, array.first(first), stored)
        if size is None and channels in (None, clips.shape[2]):
            return clips
        return np.stack([fit(clip, size, channels) for clip in clips])
    _, stretches = stream_clips(path, layout, variable)
    taken, left, space = [], frames, LARGEST
    for stretch in stretches:
        if kind != "gif":
            stretch = stretch[:left]
        stretch = fit(stretch, size, channels)
        space -= stretch.nbytes
        if space < 0:
            raise ValueError(
                f"{path} is too large: its frames take more than {LARGEST:,} bytes; cut it, or make its "
                "frames smaller"
            )
        taken.append(stretch)
        left = None if left is None else left - len(stretch)
        if left is not None and left <= 0:
            break
    clip = np.concatenate(taken)  # (T, C, H, W)
    if channels is None and clip.shape[1] == 3 and (clip == clip[:, :1]).all():
        clip = clip[:, :1]
    return unit_range(path, clip, stored)[None]


def _joined(clips: list[tuple[Path, NDArray[np.float32]]]) -> NDArray[np.float32]:
    """Return the clips of several files as one array, cut to the length of the shortest."""
    (name, first), length = clips[0], min(clip.shape[1] for _, clip in clips)
    for path, clip in clips:
        if clip.shape[2:] != first.shape[2:]:
            raise ValueError(
                f"{path} has frames of (C, H, W) = {clip.shape[2:]}, {name} of {first.shape[2:]}; clips that "
                "go together need one size and number of channels: give a size, such as 64 x 64"
            )
    return np.concatenate([clip[:, :length] for _, clip in clips])
