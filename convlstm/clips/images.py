"""Folders whose images are the frames of a clip: PNG, JPEG, PGM, TIFF, of 8 and 16 bits.

Letters: T time, C channels (1 or 3), H W pixels.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image

__all__ = ["frames_of_folder", "image_files", "natural_order"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".pgm", ".tif", ".tiff")
_GAP = rb"(?:\s|#[^\n]*\n)+"
PGM = re.compile(rb"P([25])%b(\d+)%b(\d+)%b(\d+)\s" % (_GAP, _GAP, _GAP))  # kind, width, height, highest


def natural_order(name: str) -> tuple:
    """Return a key that sorts frame2 before frame10."""
    parts = re.split(r"(\d+)", name)  # text and digits in turn
    return [(int(part) if n % 2 else 0, part.casefold()) for n, part in enumerate(parts)], name


def image_files(folder: Path) -> list[Path]:
    """Return the images in a folder in their natural order; hidden files are left out.

    A link to nowhere is among them: it stands for a frame that would be missing.
    """
    files = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    return sorted((p for p in files if not p.is_dir()), key=lambda p: natural_order(p.name))


def frames_of_folder(folder: Path) -> Iterator[NDArray]:
    """Iterate over a folder's images in their natural order, (C, H, W): uint8, uint16 or float32 (TIFF).

    Colour of 16 bits comes as 8. The values of a PGM are those in the file, whatever it says its highest is.

    Raises:
        ValueError: as it is met: an image that is damaged or empty, has transparent pixels, other values, or
            several pages; two images of one name but for the suffix.
    """
    names: dict[str, Path] = {}
    for path in image_files(folder):
        other = names.setdefault(path.stem, path)
        if other != path:
            raise ValueError(
                f"{folder} has {other.name} and {path.name}, two files for one frame; it needs one of them"
            )
        try:
            yield _read(path)
        except _Unfit:
            raise
        except Exception as error:  # Pillow meets damage with whatever error the reading runs into
            raise ValueError(f"{path} is a damaged image ({error}); write or copy it again") from error


class _Unfit(ValueError):
    """Of an image that was read, and cannot be a frame."""


def _read(path: Path) -> NDArray:
    """Return one image, (C, H, W)."""
    if path.stat().st_size == 0:
        raise _Unfit(f"{path} is empty; it needs an image")
    if path.suffix.lower() == ".pgm":
        data = path.read_bytes()
        head = PGM.match(data)
        if head:
            return _pixels_of_pgm(path, data, head)
    with Image.open(path) as image:
        image.load()
        pages = getattr(image, "n_frames", 1)
        if pages != 1:
            raise _Unfit(
                f"{path} has {pages} pages; it needs one: write each as a file, in a folder of the clip"
            )
        if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
            whole = image.convert("RGBA")
            if whole.getchannel("A").getextrema() != (255, 255):
                raise _Unfit(
                    f"{path} has an alpha channel ({image.mode}) with transparent pixels; it needs 1 or 3 "
                    "channels: write it without"
                )
            image = whole.convert("L" if image.mode == "LA" else "RGB")
        if image.mode.startswith("I"):  # 16 bits, or 32 as which older versions of Pillow read them
            pixels = np.asarray(image)
            if pixels.min() < 0 or pixels.max() >= 2**16:
                raise _Unfit(f"{path} has values from {pixels.min()} to {pixels.max()}; it needs 0 to 65,535")
            return pixels.astype(np.uint16)[None]
        if image.mode == "F":
            return np.asarray(image, np.float32)[None]
        if image.mode in ("1", "L"):
            return np.asarray(image.convert("L"))[None]
        return rearrange(np.asarray(image.convert("RGB")), "h w c -> c h w")


def _pixels_of_pgm(path: Path, data: bytes, head: re.Match[bytes]) -> NDArray:
    """Return the values in a PGM, (1, H, W), binary or plain.

    Pillow would stretch them where the highest is neither 255 nor 65,535.
    """
    plain = head[1] == b"2"
    width, height, highest = (int(head[n]) for n in (2, 3, 4))
    if not 0 < highest < 2**16 or 0 in (width, height):
        raise _Unfit(
            f"{path} is {height} x {width} pixels of 0 to {highest}; it needs one or more, of 65,535 at most"
        )
    kind = np.dtype(np.uint16 if highest > 255 else np.uint8)
    if plain:
        words = re.sub(rb"#[^\n]*", b"", data[head.end() :]).split()
        if len(words) != width * height:
            raise ValueError(f"{len(words)} values of {width * height}")
        pixels = np.array(words, np.int64)
        if pixels.min() < 0 or pixels.max() > np.iinfo(kind).max:
            raise ValueError(f"values from {pixels.min()} to {pixels.max()}")
    else:
        pixels = np.frombuffer(data, kind.newbyteorder(">"), width * height, head.end())
    return pixels.reshape(1, height, width).astype(kind)
