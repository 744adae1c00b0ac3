"""Clips in (arrays, films, GIFs, folders of frames) and out (GIFs, MP4s), as numpy arrays."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convlstm.clips.arrays import ArrangedArray
from convlstm.clips.films import check_mp4, write_mp4
from convlstm.clips.fitting import fit
from convlstm.clips.gif import LONGEST, SHORTEST, check_gif, check_output, write_gif
from convlstm.clips.reading import find_clips, guess_layout, is_array, open_clips, read_clips, stream_clips
from convlstm.clips.sources import ClipSource
from convlstm.clips.values import stored_range, stored_values, unit_range

__all__ = [
    "LONGEST",
    "SHORTEST",
    "ArrangedArray",
    "ClipSource",
    "check_clip",
    "check_gif",
    "find_clips",
    "fit",
    "guess_layout",
    "is_array",
    "open_clips",
    "read_clips",
    "stored_range",
    "stored_values",
    "stream_clips",
    "unit_range",
    "write_clip",
    "write_gif",
    "write_mp4",
]


def check_clip(path: str | Path, fps: float) -> None:
    """Check that a GIF or an MP4, as the suffix says, can be written, before the work that goes into it.

    Raises:
        ValueError: see `check_gif` and `check_mp4`.
        ImportError: an MP4, and PyAV is not installed.
    """
    check_output(Path(path), fps, (".gif", ".mp4"))
    if Path(path).suffix.lower() == ".mp4":
        check_mp4(path, fps)


def write_clip(path: str | Path, frames: NDArray[np.uint8], fps: float) -> float:
    """Write frames as a GIF or an MP4, as the suffix says; see `write_gif` and `write_mp4`."""
    return (write_mp4 if Path(path).suffix.lower() == ".mp4" else write_gif)(path, frames, fps)
