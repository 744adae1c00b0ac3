"""GIFs in and out, through Pillow. Letters: T time, C channels (1 or 3), H W pixels."""

import math
import re
import struct
from io import BytesIO
from pathlib import Path

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from convlstm.core.files import write_atomically

__all__ = ["LONGEST", "SHORTEST", "check_gif", "check_output", "read_gif", "write_gif"]

SHORTEST, LONGEST = 2, 2**16 - 1  # that a frame of a GIF may last, in hundredths of a second
LARGEST = 2**30  # bytes of a GIF's frames, three a pixel, beyond which it is refused


def read_gif(path: Path) -> NDArray[np.uint8]:
    """Return the one clip of a GIF, (T, C, H, W); how often a frame counts is said at `read_clips`.

    Raises:
        ValueError: a damaged file, or frames that take more than 1 GiB.
    """
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
    return rearrange(clip[..., :1] if gray else clip, "t h w c -> t c h w")


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


def check_output(path: Path, fps: float, suffixes: tuple[str, ...]) -> None:
    """Raise ValueError unless a file with one of these suffixes can go to a path, at fps above 0."""
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path} does not end in {' or '.join(suffixes)}, the kind of file that is written")
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent} is no directory, but {path} should go there; make it first")
    if path.is_dir():
        raise ValueError(f"{path} is a directory; give the name of a file")
    if not 0 < fps < math.inf:
        raise ValueError(f"fps is {fps}; it needs a number of frames per second above 0")


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
    check_output(path, fps, (".gif",))
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
