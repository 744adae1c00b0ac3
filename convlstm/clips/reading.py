"""Which files and folders are clips, and their frames as stored. A suffix says of what kind a file is.

Letters: N clips, T time, C channels (1 or 3), H W pixels.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convlstm.clips.arrays import ARRAYS, NEEDED, is_array, open_clips
from convlstm.clips.media import IMAGES, frames_of_film, frames_of_folder, natural_order, read_gif

VIDEOS = (".mp4", ".m4v", ".avi", ".mov", ".webm", ".mkv")
STRETCH, STRETCH_BYTES = 16, 2**25  # frames that are decoded at a time, and how much memory they fill


def find_clips(root: str | Path) -> list[Path]:
    """Return the clips at and below a folder in natural order: videos, GIFs, arrays, and folders of images.

    Other files and hidden ones are left out. A folder that has images in it is one clip. The path of a file
    is returned as it is.

    Raises:
        FileNotFoundError: there is none in the folder.

    Example:
        >>> np.save("clips.npy", np.random.rand(3, 20, 1, 32, 32))
        >>> convlstm.clips.find_clips(".")
        [PosixPath('clips.npy')]
    """
    root = Path(root)
    if not root.is_dir():
        return [root]
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(folder, name) for name in files if not name.startswith(".")]
        found += [path for path in paths if path.suffix.lower() in (*VIDEOS, ".gif", *ARRAYS)]
        if any(path.suffix.lower() in IMAGES for path in paths):
            found.append(Path(folder))
    if not found:
        raise FileNotFoundError(f"{root} has no clips in it; it needs {NEEDED}")
    return sorted(found, key=lambda path: [natural_order(part) for part in path.relative_to(root).parts])


def stream_clips(
    path: str | Path, layout: str | None = None, variable: str | None = None
) -> tuple[int, Iterator[NDArray]]:
    """Return the number of clips in one file or folder of frames, all of one length, and their frames.

    Args:
        path: of the file or folder.
        layout: of an array, see `read_clips`.
        variable: of an array, see `read_clips`.

    Returns:
        N, and an iterator over stretches `(t, C, H, W)` of all N * T frames, clip after clip, in the type
        that is stored. All stretches have the same type, C, H and W.

    Raises:
        FileNotFoundError: no such file.
        ValueError: at once or as it is met: see `read_clips`.
        ImportError: see `read_clips`.
    """
    path = Path(path)
    if is_array(path):
        array = open_clips(path, layout, variable)
        return array.shape[0], (array.frames(clip) for clip in range(array.shape[0]))
    if path.is_dir():
        return 1, _stretches(path, frames_of_folder(path))
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; it needs {NEEDED}")
    if path.suffix.lower() == ".gif":
        return 1, iter([read_gif(path)])
    if path.suffix.lower() in VIDEOS:
        return 1, _stretches(path, frames_of_film(path))
    raise ValueError(f"{path} ends as no known kind of clip does; it needs {NEEDED}")


def _stretches(path: Path, frames: Iterator[NDArray]) -> Iterator[NDArray]:
    """Stack frames (C, H, W), once each is of the first one's size and type."""
    kind, stretch = "", []
    for number, frame in enumerate(frames, 1):
        channels, height, width = frame.shape
        found = f"{height} x {width} pixels, {channels} channel(s) of {frame.dtype}"
        kind = kind or found
        if found != kind:
            raise ValueError(
                f"{path}: frame {number} has {found}, the first {kind}; all need one size and type"
            )
        stretch.append(frame)
        if len(stretch) == STRETCH or len(stretch) * frame.nbytes >= STRETCH_BYTES:
            yield np.stack(stretch)
            stretch = []
    if stretch:
        yield np.stack(stretch)
