"""Clips in (arrays, GIFs) and out (GIFs). numpy, imageio and Pillow only: no tensors here.

Letters: N clips, T time, C channels (1 or 3), H W pixels. A file's kind is told by its content.
"""

import math
import os
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence

__all__ = ["check_gif", "read_clips", "write_gif"]

_ORDER = "NTCHW"


def read_clips(path: str | Path, layout: str | None = None, first: int | None = None) -> NDArray[np.float32]:
    """Read clips from a .npy array or a GIF.

    Args:
        path: of the file.
        layout: the axes of an array, one letter each of N, T, C, H and W, such as "TNHW". None (default)
            guesses: 3 axes are THW; 4 are THWC if the last is 1 or 3 long, else TNHW (time first, as in the
            canonical Moving MNIST file); 5 are NTCHW if the third is 1 or 3 long, else NTHWC.
        first: read only so many clips, from the first on; None (default) for all. Arrays are memory-mapped:
            what is not asked for is not read.

    Returns:
        float32 (N, T, C, H, W) in [0, 1]: integers of 8 and 16 bits divided by their largest value, booleans
        as 0 and 1, floats as they are.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is empty, damaged, of an unknown kind or layout, or that holds no pixels.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; it needs a .npy array of clips, or a GIF")
    if first is not None and first < 1:
        raise ValueError(f"first is {first}; it needs 1 clip or more")
    with path.open("rb") as file:
        start = file.read(6)
    if start == b"\x93NUMPY":
        clips = _arrange(path, _open_array(path), layout)[:first]  # (N, T, C, H, W)
    elif start[:4] == b"GIF8":
        clips = _read_gif(path)
    elif not start:
        raise ValueError(f"{path} is empty; it needs a .npy array of clips, or a GIF")
    else:
        raise ValueError(f"{path} is neither a .npy array nor a GIF, the kinds of clips that can be read")
    return _unit_range(path, clips)


def _open_array(path: Path) -> NDArray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is damaged, or holds objects instead of numbers: {error}") from error


def _arrange(path: Path, array: NDArray, layout: str | None) -> NDArray:
    """Return an array as (N, T, C, H, W), a view of it."""
    shape = array.shape
    if layout is None:
        if len(shape) == 3:
            layout = "THW"
        elif len(shape) == 4:
            layout = "THWC" if shape[3] in (1, 3) else "TNHW"
        elif len(shape) == 5:
            layout = "NTCHW" if shape[2] in (1, 3) else "NTHWC"
        else:
            raise ValueError(
                f"{path} has {len(shape)} axes, shape {shape}; clips have 3 to 5, such as (T, H, W)"
            )
    layout = layout.upper()
    if sorted(set(layout)) != sorted(layout) or not set("THW") <= set(layout) <= set(_ORDER):
        raise ValueError(f"layout is {layout!r}; it needs T, H and W, and N and C where there are such axes")
    if len(layout) != len(shape):
        raise ValueError(f"layout {layout!r} names {len(layout)} axes, but {path} has {len(shape)}: {shape}")
    if 0 in shape:
        raise ValueError(f"{path} has shape {shape}, layout {layout}: there is nothing in it")
    for axis in set(_ORDER) - set(layout):
        array, layout = array[..., None], layout + axis
    clips = array.transpose([layout.index(axis) for axis in _ORDER])  # (N, T, C, H, W)
    if clips.shape[2] not in (1, 3):
        raise ValueError(
            f"{path} has {clips.shape[2]} channels, shape {shape} read as {layout[: len(shape)]}; "
            "it needs 1 or 3; name its axes with layout"
        )
    return clips


def _read_gif(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            frames = np.stack([np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(image)])
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise ValueError(f"{path} is a damaged GIF: {error}") from error
    clip = frames[None].transpose(0, 1, 4, 2, 3)  # (1, T, 3, H, W)
    gray = (frames[..., :1] == frames).all()
    return clip[:, :, :1] if gray else clip


def _unit_range(path: Path, clips: NDArray) -> NDArray[np.float32]:
    kind = clips.dtype
    if kind == np.bool_:
        return np.ascontiguousarray(clips, np.float32)
    if kind in (np.uint8, np.uint16):
        return np.ascontiguousarray(clips, np.float32) / np.float32(np.iinfo(kind).max)
    if kind.kind != "f":
        raise ValueError(
            f"{path} has values of type {kind}; it needs uint8, uint16, bool or floats in [0, 1]"
        )
    clips = np.ascontiguousarray(clips, np.float32)
    low, high = float(clips.min()), float(clips.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{path} has values that are not finite; it needs floats in [0, 1]")
    if low < 0 or high > 1:
        raise ValueError(f"{path} has values from {low:g} to {high:g}; scale floats to [0, 1], or save uint8")
    return clips


def check_gif(path: str | Path, fps: float) -> int:
    """Return the time of a frame of a GIF, in hundredths of a second, or raise ValueError if it cannot be.

    A GIF counts in hundredths of a second, 16 bits of them, and viewers slow down frames of less than two.
    """
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise ValueError(f"{path} does not end in .gif, which is what is written")
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent} is no directory; make it first")
    if path.is_dir():
        raise ValueError(f"{path} is a directory; give the name of a file")
    if not 0 < fps < math.inf:
        raise ValueError(f"fps is {fps}; it needs a number of frames per second above 0")
    return min(max(round(100 / fps), 2), 2**16 - 1)


def write_gif(path: str | Path, frames: NDArray[np.uint8], fps: float) -> float:
    """Write frames as an animated GIF that loops for ever.

    Args:
        path: ends in .gif; a file that stands there is replaced when the new one is whole.
        frames: uint8 (T, H, W) or (T, H, W, 3). Gray is exact, and so is colour of up to 256 colours a
            frame. Equal frames in a row become one that lasts as long as they.
        fps: frames per second.

    Returns:
        The frame rate written: the time of a frame is rounded to hundredths of a second, two at least.

    Raises:
        ValueError: frames of another type or shape or none, fps not above 0, or a path that does not do.
    """
    path = Path(path)
    hundredths = check_gif(path, fps)
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or not (frames.ndim == 3 or (frames.ndim == 4 and frames.shape[3] == 3)):
        raise ValueError(
            f"frames are {frames.dtype} {frames.shape}; they need uint8 (T, H, W) or (T, H, W, 3)"
        )
    if 0 in frames.shape:
        raise ValueError(f"frames have shape {frames.shape}; a GIF needs one frame and one pixel or more")
    temporary = path.with_name(f".{path.name}.partial")
    try:
        iio.imwrite(temporary, frames, extension=".gif", duration=10 * hundredths, loop=0)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return 100 / hundredths
