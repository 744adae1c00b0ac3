"""Clips in (arrays, GIFs) and out (GIFs), as numpy arrays.

Letters: N clips, T time, C channels (1 or 3), H W pixels. The kind of a file is told by its content.
"""

import math
import os
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image

__all__ = ["check_gif", "read_clips", "write_gif"]

KINDS = "a .npy array of clips, or a GIF"


def read_clips(path: str | Path, layout: str | None = None, first: int | None = None) -> NDArray[np.float32]:
    """Read clips from a .npy array, or one clip from a GIF.

    Args:
        path: of the file.
        layout: the axes of an array, a letter each, such as "TNHW": T, H and W, and N and C where there are
            such axes. None (default) guesses: 3 axes are THW; 4 are THWC if the last is 1 or 3 long, else
            TNHW (time first, as in the canonical Moving MNIST file); 5 are NTCHW if the third is 1 or 3
            long, else NTHWC.
        first: at most so many clips, from the first on; None (default) for all. Of an array no more is read
            than is asked for.

    Returns:
        float32 (N, T, C, H, W) in [0, 1]: uint8 divided by 255, uint16 by 65535, booleans as 0 and 1, floats
        as they are. A GIF whose pixels are all gray has one channel, else three.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is empty, damaged or of another kind; an array of Python objects (a pickle,
            which is never loaded), with other axes or nothing in it, with other numbers or out of [0, 1]; a
            layout that does not fit; or a `first` below 1.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; it needs {KINDS}")
    if first is not None and first < 1:
        raise ValueError(f"first is {first}; it needs 1 clip or more")
    with path.open("rb") as file:
        start = file.read(6)
    if not start:
        raise ValueError(f"{path} is empty; it needs {KINDS}")
    if start == b"\x93NUMPY":
        array = _map_array(path)
        layout = _guess(path, array.shape) if layout is None else layout.upper()
        return _unit_range(path, _arrange(path, array, layout)[:first])
    if start.startswith(b"GIF8"):
        if layout is not None:
            raise ValueError(
                f"layout is {layout!r}, but {path} is a GIF, which has no axes to name; leave it out"
            )
        return _unit_range(path, _read_gif(path))
    raise ValueError(f"{path} begins with {start!r}, as no kind of clips that is known; it needs {KINDS}")


def _map_array(path: Path) -> NDArray:
    """Return a memory map of an array, so that only what is used of it is read."""
    header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            if version not in header:
                raise ValueError(f"version {version} of the format is for records")
            shape, fortran_order, dtype = header[version](file)
            offset = file.tell()
    except ValueError as error:
        raise ValueError(f"{path} is damaged, its header cannot be read: {error}") from error
    if dtype.hasobject:
        raise ValueError(
            f"{path} holds Python objects (a pickle), which are never loaded; save numbers, as uint8"
        )
    if 0 in shape:
        raise ValueError(
            f"{path} has shape {shape}: there is nothing in it; it needs 1 or more along each axis"
        )
    needed, found = math.prod(shape) * dtype.itemsize, path.stat().st_size - offset
    if found < needed:
        raise ValueError(
            f"{path} is damaged: it is cut short, with {found:,} bytes of the {needed:,} that its shape "
            f"{shape} takes; write or copy it again"
        )
    return np.memmap(path, dtype, "r", offset, shape, "F" if fortran_order else "C")


def _guess(path: Path, shape: tuple[int, ...]) -> str:
    if len(shape) == 3:
        return "THW"
    if len(shape) == 4:
        return "THWC" if shape[3] in (1, 3) else "TNHW"
    if len(shape) == 5:
        return "NTCHW" if shape[2] in (1, 3) else "NTHWC"
    raise ValueError(f"{path} has {len(shape)} axes, shape {shape}; it needs 3 to 5, such as (T, H, W)")


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
        raise ValueError(
            f"{path} has {channels} channels, its shape {array.shape} read as {layout}; it needs 1 or 3, or "
            "another layout"
        )
    whole = " ".join(axis if axis in layout else "1" for axis in "NTCHW")
    return rearrange(array, f"{' '.join(layout)} -> {whole}")  # (N, T, C, H, W)


def _read_gif(path: Path) -> NDArray[np.uint8]:
    """Return the one clip of a GIF, (1, T, C, H, W)."""
    data = path.read_bytes()
    # Pillow takes a file that ends between two frames for a shorter one; a whole one ends with this mark.
    if not data.rstrip(b"\0").endswith(b";"):
        raise ValueError(f"{path} is a damaged GIF: it is cut short; write or copy it again")
    try:
        frames = np.stack(
            list(iio.imiter(data, extension=".gif", plugin="pillow", mode="RGB"))
        )  # (T, H, W, 3)
    except Exception as error:  # Pillow meets damage with whatever error the reading runs into
        raise ValueError(f"{path} is a damaged GIF ({error}); write or copy it again") from error
    gray = (frames == frames[..., :1]).all()
    return rearrange(frames[..., :1] if gray else frames, "t h w c -> 1 t c h w")


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
        The time of a frame in hundredths of a second, in which a GIF counts: rounded, two at least, since
        viewers slow down shorter ones, and 65,535 at most.

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
    return min(max(round(100 / fps), 2), 2**16 - 1)


def write_gif(path: str | Path, frames: NDArray[np.uint8], fps: float) -> float:
    """Write frames as an animated GIF that loops for ever.

    A frame of at most 256 colours, so any gray one, is kept exactly; of one with more, the 256 that fit it
    best are kept, without dithering. A frame that equals the one before makes that one last longer.

    Args:
        path: ends in .gif; a file that stands there is replaced once the new one is whole.
        frames: uint8 (T, H, W), or (T, H, W, 3) for colour.
        fps: frames per second, above 0.

    Returns:
        The frame rate written, that of a whole number of hundredths of a second per frame; see `check_gif`.

    Raises:
        ValueError: frames of another type or shape, or none, or those of `check_gif`.
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
    temporary = path.with_name(f".{path.name}.partial")
    try:
        images[0].save(
            temporary, "GIF", save_all=True, append_images=images[1:], duration=10 * hundredths, loop=0
        )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return 100 / hundredths


def _with_palette(image: Image.Image) -> Image.Image:
    if image.mode == "L":
        return image
    # Median cut keeps up to 256 colours as they are; k-means moves the chosen ones where there are more.
    many = image.getcolors(256) is None
    return image.quantize(256, Image.Quantize.MEDIANCUT, kmeans=1 if many else 0, dither=Image.Dither.NONE)
