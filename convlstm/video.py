"""Clips in (arrays, GIFs) and out (GIFs), as numpy arrays.

Letters: N clips, T time, C channels (1 or 3), H W pixels. The kind of a file is told by its content.
"""

import math
import re
import struct
from io import BytesIO
from pathlib import Path

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from convlstm.files import MAGIC, open_npy, write_atomically

__all__ = ["check_gif", "guess_layout", "read_clips", "write_gif"]

KINDS = "a .npy array of clips, or a GIF"

SHORTEST, LONGEST = 2, 2**16 - 1  # that a frame of a GIF may last, in hundredths of a second
LARGEST = 2**30  # bytes of a GIF's frames, three a pixel, beyond which it is refused


def guess_layout(path: str | Path) -> str | None:
    """Return the layout that `read_clips` takes an array to have if it is given none; None for a GIF.

    3 axes are THW. 4 are THWC if the last is 1, 3 or 4 long, else TNHW (time first, as in the canonical
    Moving MNIST file). 5 are NTHWC if the last is so long and the third is not 1 or 3, else NTCHW. Four
    channels (RGBA) are recognised in order to be refused as such.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of another kind, a damaged array, or one with fewer than 3 or more than 5 axes.
    """
    path = Path(path)
    if _kind(path) == "gif":
        return None
    shape = open_npy(path).shape
    if len(shape) == 3:
        return "THW"
    if len(shape) == 4:
        return "THWC" if shape[3] in (1, 3, 4) else "TNHW"
    if len(shape) == 5:
        return "NTHWC" if shape[4] in (1, 3, 4) and shape[2] not in (1, 3) else "NTCHW"
    raise ValueError(f"{path} has {len(shape)} axes, shape {shape}; it needs 3 to 5, such as (T, H, W)")


def read_clips(path: str | Path, layout: str | None = None, first: int | None = None) -> NDArray[np.float32]:
    """Read clips from a .npy array, or one clip from a GIF.

    The frames of a clip are evenly spaced in time. A GIF holds equal ones as one that lasts longer, and from
    what `write_gif` wrote all of them come back. In other GIFs a frame counts as often as the shortest fits
    into its time, if all times are whole multiples of the shortest; else each counts once, since times such
    as 3, 3 and 4 hundredths of a second are one time, rounded. The last always counts once, and its time is
    left aside: it is commonly held for a while before the GIF starts again.

    Args:
        path: of the file.
        layout: the axes of an array, a letter each, such as "TNHW": T, H and W, and N and C where there are
            such axes. None (default) takes what `guess_layout` says.
        first: at most so many clips, from the first on; None (default) for all. Of an array no more is read
            than is asked for.

    Returns:
        float32 (N, T, C, H, W) in [0, 1]: uint8 divided by 255, uint16 by 65535, booleans as 0 and 1, floats
        as they are. A GIF whose pixels are all gray has one channel, else three.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is empty, damaged or of another kind; an array of Python objects (a pickle,
            which is never loaded), with other axes or nothing in it, with other numbers or out of [0, 1]; a
            layout that does not fit; a GIF whose frames take more than 1 GiB; or a `first` below 1.
    """
    path = Path(path)
    if first is not None and first < 1:
        raise ValueError(f"first is {first}; it needs 1 clip or more")
    if _kind(path) == "gif":
        if layout is not None:
            raise ValueError(
                f"layout is {layout!r}, but {path} is a GIF, which has no axes to name; leave it out"
            )
        return _unit_range(path, _read_gif(path))
    array = open_npy(path)
    if array.size == 0:
        raise ValueError(
            f"{path} has shape {array.shape}: there is nothing in it; it needs 1 or more along each axis"
        )
    layout = layout.upper() if layout is not None else str(guess_layout(path))
    return _unit_range(path, _arrange(path, array, layout)[:first])


def _kind(path: Path) -> str:
    """Return "npy" or "gif", told by what the file begins with."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; it needs {KINDS}")
    with path.open("rb") as file:
        start = file.read(6)
    if not start:
        raise ValueError(f"{path} is empty; it needs {KINDS}")
    if start == MAGIC:
        return "npy"
    if start.startswith(b"GIF8"):
        return "gif"
    raise ValueError(f"{path} begins with {start!r}, as no kind of clips that is known; it needs {KINDS}")


def _arrange(path: Path, array: NDArray, layout: str) -> NDArray:
    """Return an array as (N, T, C, H, W), a view of it."""
    if len(set(layout)) < len(layout) or not set("THW") <= set(layout) <= set("NTCHW"):
        raise ValueError(
            f"layout is {layout!r}; it needs each of T, H and W once, and N and C where there are such axes"
        )
    if len(layout) != array.ndim:
        raise ValueError(
            f"layout is {layout!r}, {len(layout)} axes, but {path} has {array.ndim}, shape {array.shape}; "
            "name each axis once"
        )
    channels = array.shape[layout.index("C")] if "C" in layout else 1
    if channels not in (1, 3):
        alpha = " (RGBA: leave out the fourth)" if channels == 4 else ""
        raise ValueError(
            f"{path} has {channels} channels{alpha}, its shape {array.shape} read as {layout}; it needs 1 or "
            "3, or another layout"
        )
    whole = " ".join(axis if axis in layout else "1" for axis in "NTCHW")
    return rearrange(array, f"{' '.join(layout)} -> {whole}")  # (N, T, C, H, W)


def _read_gif(path: Path) -> NDArray[np.uint8]:
    """Return the one clip of a GIF, (1, T, C, H, W)."""
    data = path.read_bytes()
    # Pillow takes a file that ends between two frames for a shorter one; a whole one ends with this mark.
    if not data.rstrip(b"\0").endswith(b";"):
        raise ValueError(f"{path} is a damaged GIF: it is cut short; write or copy it again")
    frames, durations, note = [], [], b""
    try:
        with Image.open(BytesIO(data), formats=["GIF"]) as image:
            note = image.info.get("comment", b"")
            for frame in ImageSequence.Iterator(image):
                frames.append(np.asarray(frame.convert("RGB")))
                durations.append(frame.info.get("duration", 0) // 10)  # from milliseconds
                if len(frames) * frames[0].size > LARGEST:
                    break
        clip = np.stack(frames)  # (T, H, W, 3)
    except Exception as error:  # Pillow meets damage with whatever error the reading runs into
        raise ValueError(f"{path} is a damaged GIF ({error}); write or copy it again") from error
    times = _times(durations, note)
    if sum(times) * clip[0].size > LARGEST:
        raise ValueError(
            f"{path} is too large: its frames, each as often as it lasts, take more than {LARGEST:,} bytes; "
            "cut it, or make its frames smaller or last equally long"
        )
    clip = np.repeat(clip, times, axis=0)
    gray = (clip == clip[..., :1]).all()
    return rearrange(clip[..., :1] if gray else clip, "t h w c -> 1 t c h w")


def _times(durations: list[int], note: bytes) -> list[int]:
    """Return how often each frame of a GIF counts; durations in hundredths of a second."""
    written = re.fullmatch(rb"(\d{1,5})/100 s a frame", note)
    unit = int(written[1]) if written else 0
    if unit and all(duration and duration % unit == 0 for duration in durations):
        return [duration // unit for duration in durations]
    timed = durations[:-1]
    unit = min(timed, default=0)
    if unit == 0 or any(duration % unit for duration in timed):
        return [1] * len(durations)
    return [*(duration // unit for duration in timed), 1]


def _unit_range(path: Path, clips: NDArray) -> NDArray[np.float32]:
    """Return clips as float32 in [0, 1]."""
    clips = np.ascontiguousarray(clips)
    kind = clips.dtype
    if kind.kind == "b":
        return clips.astype(np.float32)
    if kind.kind == "u" and kind.itemsize <= 2:
        return clips.astype(np.float32) / np.float32(np.iinfo(kind).max)
    if kind.kind != "f":
        raise ValueError(
            f"{path} has values of type {kind}; it needs uint8, uint16, bool, or floats in [0, 1]"
        )
    if np.isnan(clips).any():
        raise ValueError(f"{path} has values that are no numbers (nan); it needs floats in [0, 1]")
    low, high = clips.min(), clips.max()
    if low < 0 or high > 1:
        raise ValueError(
            f"{path} has values from {low:g} to {high:g}; scale floats to [0, 1], such as by "
            "dividing by 255, or save 8-bit pixels as uint8"
        )
    return clips.astype(np.float32)


def check_gif(path: str | Path, fps: float) -> int:
    """Check that a GIF can be written, before the work that goes into it.

    Args:
        path: of the file to write.
        fps: frames per second, above 0.

    Returns:
        The time of a frame in hundredths of a second, in which a GIF counts: rounded, `SHORTEST` at least,
        since viewers slow down shorter ones, and `LONGEST` at most.

    Raises:
        ValueError: a path that does not end in .gif, is a directory or lies in none; an fps not above 0.
    """
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise ValueError(f"{path} does not end in .gif, the kind of file that is written")
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent} is no directory, but {path} should go there; make it first")
    if path.is_dir():
        raise ValueError(f"{path} is a directory; give the name of a file")
    if not 0 < fps < math.inf:
        raise ValueError(f"fps is {fps}; it needs a number of frames per second above 0")
    return round(min(max(100 / fps, SHORTEST), LONGEST))


def write_gif(path: str | Path, frames: NDArray[np.uint8], fps: float) -> float:
    """Write frames as an animated GIF that loops for ever.

    A frame of at most 256 colours, so any gray one, is kept exactly; of one with more, the 256 that fit it
    best are kept, without dithering. A frame that equals the one before makes that one last longer; a
    comment in the file says how long a single one lasts, so that `read_clips` gives back as many.

    Args:
        path: ends in .gif; a file that stands there is replaced once the new one is whole.
        frames: uint8 (T, H, W), or (T, H, W, 3) for colour.
        fps: frames per second, above 0.

    Returns:
        The frame rate written, that of a whole number of hundredths of a second per frame; see `check_gif`.

    Raises:
        ValueError: frames of another type or shape, or none; equal ones that would last longer than a GIF
            can say; or the errors of `check_gif`.
    """
    path = Path(path)
    hundredths = check_gif(path, fps)
    if frames.dtype != np.uint8 or not (frames.ndim == 3 or (frames.ndim == 4 and frames.shape[3] == 3)):
        raise ValueError(
            f"frames are {frames.dtype} {frames.shape}; they need uint8 (T, H, W) or (T, H, W, 3)"
        )
    if 0 in frames.shape or max(frames.shape[1:3]) >= 2**16:
        raise ValueError(
            f"frames have shape {frames.shape}; a GIF needs one or more, of 1 to 65,535 pixels a side"
        )
    images = [_with_palette(Image.fromarray(frame)) for frame in frames]
    options = {"duration": 10 * hundredths, "loop": 0, "comment": f"{hundredths}/100 s a frame"}

    def write(temporary: Path) -> None:
        images[0].save(temporary, "GIF", save_all=True, append_images=images[1:], **options)

    try:
        write_atomically(path, write)
    except (OverflowError, struct.error) as error:  # of a Pillow of today, of an older one
        raise ValueError(
            f"frames are equal for longer than {LONGEST / 100} s at {fps:g} frames per second, the longest "
            "that a GIF can show one; they need a higher fps"
        ) from error
    return 100 / hundredths


def _with_palette(image: Image.Image) -> Image.Image:
    if image.mode == "L":
        return image
    # Median cut keeps up to 256 colours as they are; k-means moves the chosen ones where there are more.
    many = image.getcolors(256) is None
    return image.quantize(256, Image.Quantize.MEDIANCUT, kmeans=1 if many else 0, dither=Image.Dither.NONE)
