"""Films (MP4, AVI, MOV, WebM) in and MP4 out, through PyAV. Letters: T time, C channels, H W pixels."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from convlstm.clips.gif import check_output
from convlstm.core.files import write_atomically

__all__ = ["check_mp4", "frames_of_film", "write_mp4"]

MISSING = 'which needs PyAV: pip install "convlstm[video]"'
LEEWAY = 0.1  # seconds that sound may last longer than pictures
SHORTFALL = 0.1  # of its length, that may be missing where a film does not say how many frames it has


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
        times: list[float] = []
        for frame in film.decode(stream):
            times.append(float(frame.time or 0))
            picture = frame.to_ndarray(format="gray" if gray else "rgb24")
            yield picture[None] if gray else rearrange(picture, "h w c -> c h w")
        if not times:
            raise ValueError(f"{path} has no frames; it needs one or more")
        length = (film.duration or 0) / av.time_base
        if _cut_short(times, stream.frames, length):
            raise ValueError(
                f"{path} is cut short: {len(times)} frames can be read, {times[-1] - times[0]:.2f} s of "
                f"{length:.2f} s; write or copy it again"
            )


def _cut_short(times: list[float], announced: int, length: float) -> bool:
    """Whether what could be read of a film ends before it should.

    Args:
        times: of its frames, in seconds.
        announced: the number of frames that the file says it has, 0 if it says none, as of WebM. A film may
            rightly show fewer, where it was cut without being encoded anew: then its length is that shown.
        length: in seconds, that the file says it has; of its sound, if that is longer.
    """
    frame = (times[-1] - times[0]) / max(len(times) - 1, 1)
    missing = length - (times[-1] - times[0] + frame)
    if announced:
        return len(times) < announced and missing > 2 * frame + LEEWAY
    return len(times) > 1 and missing > SHORTFALL * length


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
