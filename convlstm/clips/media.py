"""Media files: GIFs, videos and folders of images, read as frames; GIFs and MP4s, written.

imageio reads images and GIFs. Videos are read and written by PyAV: imageio's plugin does not say when frames
are shown, nor how long a WebM or Matroska video should be, so that one cut short would pass for whole; and it
sets no quality of what it writes. GIFs are written by Pillow: imageio takes no palettes, and Pillow takes
18 ms to choose those of a picture of 696 x 519 pixels, where the exact one takes 5.

Letters: T time, C channels (1 or 3), H W pixels.
"""

import io
import math
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image

from convlstm.core.checks import import_extra
from convlstm.core.files import check_output, write_atomically

SHORTEST, LONGEST = 2, 2**16 - 1  # how long a frame of a GIF may last, in hundredths of a second
LARGEST = 2**30  # bytes that the frames of a GIF may take, three for a pixel
SOUND = 0.1  # seconds by which sound may outlast the frames of a video
QUALITY = "16"  # of an MP4, x264's "crf": 0 is exact, and at its default, 23, digits are blurred
MISSING = 0.1  # part of its length that a video may lack if it does not say how many frames it has
IMAGES = (".png", ".jpg", ".jpeg", ".pgm", ".tif", ".tiff")
_GAP = rb"(?:\s|#[^\n]*\n)+"
_PGM = re.compile(rb"(P[25]%b\d+%b\d+%b)(\d+)(?=\s)" % (_GAP, _GAP, _GAP))  # the last: the highest value


def read_gif(path: Path) -> NDArray[np.uint8]:
    """Read the clip in a GIF, (T, C, H, W); `read_clips` says how often a frame counts.

    Raises:
        ValueError: a damaged file, or frames that take more than 1 GiB.
    """
    data = path.read_bytes()
    # Pillow takes a file that ends between two frames for a shorter one; a whole one ends with this mark.
    if not data.rstrip(b"\0").endswith(b";"):
        raise ValueError(f"{path} is a damaged GIF: it is cut short; write or copy it again")
    frames, durations, comment = [], [], b""
    with _naming_damage(path, "GIF"), _open(data) as file:
        for number, frame in enumerate(file.iter(mode="RGB", writeable_output=False)):
            info = file.metadata(index=number)
            comment = comment or info.get("comment", b"")
            durations.append(info.get("duration", 0) // 10)  # from milliseconds
            frames.append(frame)
            if len(frames) * frame.size > LARGEST:  # the rest is not decoded
                break
    times = _times(durations, comment)
    if sum(times) * frames[0].size > LARGEST:
        raise ValueError(
            f"{path} is too large: its frames, each repeated for as long as it lasts, take more than "
            f"{LARGEST:,} bytes; cut it, or make its frames smaller or last equally long"
        )
    clip = np.repeat(np.stack(frames), times, axis=0)  # (T, H, W, 3)
    gray = (clip == clip[..., :1]).all()
    return rearrange(clip[..., :1] if gray else clip, "t h w c -> t c h w")


def _open(data: bytes) -> Any:
    """Open the bytes of a GIF or an image with imageio; no damage in them can leave a file open."""
    return iio.imopen(data, "r", plugin="pillow")


def _times(durations: list[int], comment: bytes) -> list[int]:
    """Return how often each frame of a GIF counts; durations are in hundredths of a second."""
    written = re.fullmatch(rb"(\d{1,5})/100 s a frame", comment)
    unit = int(written[1]) if written else 0
    if unit and all(duration and duration % unit == 0 for duration in durations):
        return [duration // unit for duration in durations]
    timed = durations[:-1]
    unit = min(timed, default=0)
    if unit == 0 or any(duration % unit for duration in timed):
        return [1] * len(durations)
    return [*(duration // unit for duration in timed), 1]


@contextmanager
def _naming_damage(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:  # no damage of the file
        raise
    except Exception as error:  # Pillow and PyAV raise whatever the damage makes them run into
        reason = error.__cause__ or error  # of imageio's errors
        raise ValueError(f"{path} is a damaged {kind} ({reason}); write or copy it again") from error


def frames_of_film(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Iterate over the frames of a video's first video stream: (3, H, W), or (1, H, W) where it is gray.

    Raises:
        ValueError: as it is met: a damaged file, no video in it, no frames, or fewer than it says it has.
        ImportError: PyAV is not installed.
    """
    av = import_extra("av", "video", str(path))
    times: list[float] = []
    with path.open("rb") as file, _naming_damage(path, "video"), av.open(file) as video:
        if not video.streams.video:
            raise ValueError("it has no video stream")
        stream = video.streams.video[0]
        gray = stream.format is not None and stream.format.name.startswith("gray")
        for frame in video.decode(stream):
            times.append(float(frame.time or 0))
            picture = frame.to_ndarray(format="gray" if gray else "rgb24")
            yield picture[None] if gray else rearrange(picture, "h w c -> c h w")
        announced, length = stream.frames, (video.duration or 0) / av.time_base
    if not times:
        raise ValueError(f"{path} has no frames; it needs one or more")
    if _cut_short(times, announced, length):
        raise ValueError(
            f"{path} is cut short: {len(times)} frames can be read, {times[-1] - times[0]:.2f} s of "
            f"{length:.2f} s; write or copy it again"
        )


def _cut_short(times: list[float], announced: int, length: float) -> bool:
    """Return whether the frames of a video end before they should.

    Args:
        times: when each frame that could be read is shown, in seconds.
        announced: the number of frames that the file says it has, 0 if it says none, as in WebM. A video that
            was cut without being encoded anew holds more than it shows; its length is that shown.
        length: in seconds, as the file says, that of its sound if it is longer.
    """
    frame = (times[-1] - times[0]) / max(len(times) - 1, 1)
    missing = length - (times[-1] - times[0] + frame)
    if announced:
        return len(times) < announced and missing > 2 * frame + SOUND
    return len(times) > 1 and missing > MISSING * length


def natural_order(name: str) -> tuple:
    """Return a sorting key that puts frame2 before frame10."""
    parts = re.split(r"(\d+)", name)  # text and digits in turn
    return [(int(part) if n % 2 else 0, part.casefold()) for n, part in enumerate(parts)], name


def frames_of_folder(folder: Path) -> Iterator[NDArray]:
    """Iterate over a folder's images in natural order, (C, H, W), without hidden ones.

    They are uint8 or uint16, of a TIFF also int32 or float32. Color of 16 bits comes as 8. A PGM gives the
    values in the file, whatever it says its highest is.

    Raises:
        ValueError: as it is met: an image that is damaged or has transparent pixels or several pages; two
            images of one name but for the suffix.
    """
    names: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: natural_order(path.name)):
        # A link to nowhere is read, too: it stands for a frame that would be missing.
        if path.suffix.lower() in IMAGES and not path.name.startswith(".") and not path.is_dir():
            if (other := names.setdefault(path.stem, path)) != path:
                raise ValueError(f"{folder} has {other.name} and {path.name}; it needs one file for a frame")
            yield _read_image(path)


def _read_image(path: Path) -> NDArray:
    """Read one image, (C, H, W)."""
    with _naming_damage(path, "image"):
        data = path.read_bytes()
        if path.suffix.lower() == ".pgm":
            # Pillow stretches the values to 255 or 65,535 where the highest is another, a pixel at a time.
            data = _PGM.sub(lambda head: head[1] + _full_range(head[2]), data, count=1)
        with _open(data) as file:
            mode, pages = file.metadata(index=0)["mode"], file.properties(index=...).n_images
            whole = mode.startswith(("I", "F"))  # of more than 8 bits
            target = None if whole else "LA" if mode in ("1", "L", "LA") else "RGBA"
            pixels = file.read(index=0, mode=target)
    if pages != 1:
        raise ValueError(
            f"{path} has {pages} pages; it needs one: write each as a file, in a folder of the clip"
        )
    if whole:
        # 16 bits are in either order of bytes, and those of a PGM come as 32.
        short = mode.startswith("I;16") or path.suffix.lower() == ".pgm"
        return pixels[None].astype(np.uint16 if short else pixels.dtype)
    if (pixels[..., -1] != 255).any():
        raise ValueError(
            f"{path} has an alpha channel ({mode}) with transparent pixels; it needs 1 or 3 channels: write "
            "it without"
        )
    return rearrange(pixels[..., :-1], "h w c -> c h w")


def _full_range(highest: bytes) -> bytes:
    """Return the highest value of the type that holds a PGM's values; one that is out of range as it is."""
    return b"255" if 0 < int(highest) < 2**8 else b"65535" if 2**8 <= int(highest) < 2**16 else highest


def check_clip(path: str | Path, fps: float) -> None:
    """Check that a clip can be written, before the work that goes into it.

    Args:
        path: the file to write, .gif or .mp4.
        fps: frames per second, above 0.

    Raises:
        ValueError: a path that ends otherwise, is a directory or lies in none; an fps that is not above 0.
        ImportError: an MP4, and PyAV is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in (".gif", ".mp4"):
        raise ValueError(f"{path} does not end in .gif or .mp4, the kinds of file that are written")
    check_output(path)
    if not 0 < fps < math.inf:
        raise ValueError(f"fps is {fps}; it needs a number of frames per second above 0")
    if path.suffix.lower() == ".mp4":
        import_extra("av", "video", str(path))


def write_clip(path: str | Path, frames: NDArray[np.uint8], fps: float) -> float:
    """Write frames as an animated GIF or an MP4, as the suffix says.

    A GIF loops forever. It stores frames of up to 256 colors exactly, also gray ones. Frames with more
    colors are reduced to the best 256, without dithering. Equal frames in a row are stored as one long frame.
    A comment in the file has the duration of a single one, so that `read_clips` restores their number.

    An MP4 (H.264, 4:2:0, which every browser plays) keeps frames nearly unchanged. An odd height or width
    gains a pixel.

    Args:
        path: ends in .gif or .mp4. An existing file is replaced once the new one is complete.
        frames: uint8 `(T, H, W)`, or `(T, H, W, 3)` for color.
        fps: frames per second, above 0.

    Returns:
        The frame rate written. A GIF's frame lasts a whole number of hundredths of a second, from 0.02 s
        (viewers slow down shorter ones) to 655.35 s. The rate of an MP4 is 0.001 to 1,000 frames per second.

    Raises:
        ValueError: frames of another type or shape, or none; frames that a GIF cannot hold: too large, or
            equal for too long; or the errors of `check_clip`.
        ImportError: an MP4, and PyAV is not installed.

    Example:
        >>> frames = torch.rand(12, 1, 64, 64)  # (T, C, H, W), as a network predicts them
        >>> convlstm.clips.write_clip("clip.gif", frames[:, 0].mul(255).byte().numpy(), fps=10)
        10.0
    """
    path = Path(path)
    check_clip(path, fps)
    color = frames.ndim == 4 and frames.shape[3] == 3
    if frames.dtype != np.uint8 or not (color or frames.ndim == 3) or frames.size == 0:
        raise ValueError(
            f"frames are {frames.dtype} {frames.shape}; they need uint8 (T, H, W) or (T, H, W, 3), none of "
            "them 0"
        )
    if path.suffix.lower() == ".mp4":
        return _write_mp4(path, frames, fps)
    hundredths = round(min(max(100 / fps, SHORTEST), LONGEST))
    images = [_with_palette(frame) for frame in frames]
    options = {"duration": 10 * hundredths, "loop": 0, "comment": f"{hundredths}/100 s a frame"}
    data = io.BytesIO()
    try:
        images[0].save(data, "GIF", save_all=True, append_images=images[1:], **options)
    except (OverflowError, struct.error) as error:  # numbers that do not fit into a GIF's 16 bits
        raise ValueError(
            f"frames are {frames.shape} at {fps:g} fps; a GIF has sides of at most 65,535 pixels, and equal "
            f"frames last at most {LONGEST / 100} s"
        ) from error
    write_atomically(path, lambda temporary: temporary.write_bytes(data.getvalue()))
    return 100 / hundredths


def _with_palette(frame: NDArray[np.uint8]) -> Image.Image:
    """Return a frame as an image, with its own colors as the palette if it has 256 or fewer."""
    image = Image.fromarray(frame)
    if frame.ndim == 2 or (colors := image.getcolors(256)) is None:
        return image
    palette = np.array(sorted(color for _, color in colors), np.uint8)
    weights = np.array([2**16, 2**8, 1], np.int32)
    image = Image.fromarray(np.searchsorted(palette @ weights, frame @ weights).astype(np.uint8))
    image.putpalette(palette.tobytes())
    return image


def _write_mp4(path: Path, frames: NDArray[np.uint8], fps: float) -> float:
    """Write an MP4; return its frame rate."""
    av = import_extra("av", "video", str(path))
    odd = [(0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)][: frames.ndim]
    frames = np.pad(frames, odd, mode="edge")
    rate = Fraction(min(max(fps, 1e-3), 1e3)).limit_denominator(2**16 - 1)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file, av.open(file, "w", format="mp4") as video:
            stream = video.add_stream("libx264", rate=rate, options={"crf": QUALITY})
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
            for picture in frames:
                layout = "gray" if frames.ndim == 3 else "rgb24"
                video.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format=layout)))
            video.mux(stream.encode())

    write_atomically(path, write)
    return float(rate)
