"""Films (MP4, AVI, MOV, WebM) in and MP4 out, through PyAV. Letters: T time, C channels, H W pixels."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from convlstm.files import write_atomically
from convlstm.video.gif import check_output

__all__ = ["check_mp4", "frames_of_film", "write_mp4"]

MISSING = 'which needs PyAV: pip install "convlstm[video]"'
SHORTFALL = 0.9  # of the time that a film says to last: one that ends before was cut short


def _av(path: Path) -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError(f"{path} is a film, {MISSING}") from error
    return av


def frames_of_film(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Iterate over the frames of a film's first video stream: (3, H, W), or (1, H, W) where it is gray.

    Raises:
        ValueError: as it is met: a damaged file, no video in it, no frames, or fewer than it says it has.
        ImportError: PyAV is not installed.
    """
    av = _av(path)
    with path.open("rb") as file, _damage(path, av), av.open(file) as film:
        if not film.streams.video:
            raise ValueError(f"{path} has no video stream: it is damaged, or sound alone")
        stream = film.streams.video[0]
        gray = stream.format is not None and stream.format.name.startswith("gray")
        count, end = 0, 0.0
        for frame in film.decode(stream):
            count += 1
            end = max(end, float(frame.time or 0))
            picture = frame.to_ndarray(format="gray" if gray else "rgb24")
            yield picture[None] if gray else rearrange(picture, "h w c -> c h w")
        if count == 0:
            raise ValueError(f"{path} has no frames; it needs one or more")
        if count < stream.frames:
            raise ValueError(
                f"{path} is cut short: {count} of its {stream.frames} frames can be read; write or copy it "
                "again"
            )
        # Matroska counts no frames. What is missing at the end may be sound alone: hence the margin.
        length = (film.duration or 0) / av.time_base
        if not stream.frames and count > 1 and end * count / (count - 1) < SHORTFALL * length:
            raise ValueError(
                f"{path} is cut short: its frames end at {end:.2f} s of {length:.2f} s; write or copy it "
                "again"
            )


@contextmanager
def _damage(path: Path, av: Any) -> Iterator[None]:
    try:
        yield
    except (av.FFmpegError, EOFError) as error:
        raise ValueError(f"{path} is a damaged film ({error}); write or copy it again") from error


def check_mp4(path: str | Path, fps: float) -> None:
    """Check that an MP4 can be written, before the work that goes into it.

    Raises:
        ValueError: a path that does not end in .mp4, is a directory or lies in none; an fps not above 0.
        ImportError: PyAV is not installed.
    """
    check_output(Path(path), fps, (".mp4",))
    _av(Path(path))


def write_mp4(path: str | Path, frames: NDArray[np.uint8], fps: float) -> float:
    """Write frames as an MP4 (H.264, 4:2:0, so that every browser plays it); an odd side gains a pixel.

    Args:
        path: ends in .mp4; a file that stands there is replaced once the new one is whole.
        frames: uint8 (T, H, W), or (T, H, W, 3) for colour.
        fps: frames per second, above 0.

    Returns:
        The frame rate written: the nearest fraction with a denominator of 1,000 or less.

    Raises:
        ValueError: frames of another type or shape, or none; or the errors of `check_mp4`.
        ImportError: PyAV is not installed.
    """
    path = Path(path)
    check_mp4(path, fps)
    if frames.dtype != np.uint8 or not (frames.ndim == 3 or (frames.ndim == 4 and frames.shape[3] == 3)):
        raise ValueError(
            f"frames are {frames.dtype} {frames.shape}; they need uint8 (T, H, W) or (T, H, W, 3)"
        )
    if 0 in frames.shape:
        raise ValueError(f"frames have shape {frames.shape}; an MP4 needs one or more")
    av = _av(path)
    odd = [(0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)][: frames.ndim]
    frames = np.pad(frames, odd, mode="edge")
    rate = max(Fraction(fps).limit_denominator(1000), Fraction(1, 1000))

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file, av.open(file, "w", format="mp4") as film:
            stream = film.add_stream("libx264", rate=rate, options={"crf": "16"})
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
            for picture in frames:
                layout = "gray" if frames.ndim == 3 else "rgb24"
                film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format=layout)))
            film.mux(stream.encode())

    write_atomically(path, write)
    return float(rate)
