"""Stored values as pixels: frames brought to a size and a number of channels, and values to [0, 1].

Letters: T time, C channels (1 or 3), H W pixels.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from convlstm.core.checks import finite, import_extra

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def fit(frames: NDArray, size: tuple[int, int] | None = None, channels: int | None = None) -> NDArray:
    """Bring frames to a size, scaled until they cover it and center-cropped, and to 1 or 3 channels.

    Scaling keeps the proportions and is bilinear, antialiased. Integers stay integers, rounded.

    Args:
        frames: `(T, C, H, W)`.
        size: `(H, W)`. Default: None, as it is.
        channels: 1 for gray (BT.601 luma of colors), 3 for color (equal channels of gray). Default: None, as
            they are.

    Raises:
        ImportError: a size that the frames do not have, and torchvision is not installed.

    Example:
        >>> frames = np.zeros((10, 3, 48, 64), np.uint8)
        >>> convlstm.clips.fit(frames, size=(32, 32), channels=1).shape
        (10, 1, 32, 32)
    """
    dtype = frames.dtype
    if channels == 1 and frames.shape[1] == 3:
        red, green, blue = (frames[:, c : c + 1].astype(np.float32) for c in range(3))
        frames = _as(dtype, LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)
    if size is not None and frames.shape[2:] != tuple(size):
        frames = _as(dtype, _resized(frames, size))
    if channels == 3 and frames.shape[1] == 1:
        frames = frames.repeat(3, axis=1)
    return frames


def _as(dtype: np.dtype, values: NDArray) -> NDArray:
    if dtype.kind not in "iu":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.rint(values).clip(limits.min, limits.max).astype(dtype)


def _resized(frames: NDArray, size: tuple[int, int]) -> NDArray:
    F = import_extra("torchvision.transforms.v2.functional", "video", "size")
    import torch

    height, width = frames.shape[2:]
    scale = max(size[0] / height, size[1] / width)
    scaled = [max(want, round(side * scale)) for want, side in zip(size, (height, width), strict=True)]
    # A copy in any case: torch warns of memory that it may not write to, such as a mapped file's.
    tensor = torch.from_numpy(np.array(frames, np.uint8 if frames.dtype == np.uint8 else np.float32))
    tensor = F.resize(tensor, scaled, antialias=True)
    return F.center_crop(tensor, list(size)).numpy()


def two_values(name: str, ends: Sequence[float], ordered: bool = False) -> tuple[float, float]:
    """Return two different finite numbers, the lower first if `ordered`; else raise ValueError."""
    low, high = (finite(name, end) for end in ends)
    if low == high or (ordered and low > high):
        needs = "the lower number first" if low != high else "two different numbers, for black and white"
        raise ValueError(f"{name} is {low:g} to {high:g}; it needs {needs}")
    return low, high


def unit_range(
    name: object,
    values: NDArray,
    stored: tuple[float, float] | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> NDArray[np.float32]:
    """Return values as float32 in [0, 1].

    Args:
        name: of the file, for errors.
        values: of any real type.
        stored: the stored values that become 0 and 1; what is beyond them is clipped. Default: None, which
            takes those of the type: 0 and 255 of uint8, 0 and 65,535 of uint16, `value_range` of floats.
        value_range: the physical values that 0 and 1 stand for. Default: (0, 1), beyond which floats are
            refused.

    Raises:
        ValueError: values that are no numbers, of a type without a range, or floats out of [0, 1].
    """
    values = np.ascontiguousarray(values)
    kind = values.dtype.kind
    if stored is None and kind == "f" and tuple(value_range) != (0.0, 1.0):
        stored = value_range
    wide = kind == "i" or (kind == "u" and values.dtype.itemsize > 2)
    if kind not in "biuf" or (wide and stored is None):
        raise ValueError(
            f"{name} has values of type {values.dtype}; it needs uint8, uint16, bool, floats in [0, 1], or "
            "other numbers and stored, the two that become 0 and 1"
        )
    if kind == "f" and np.isnan(values).any():
        raise ValueError(f"{name} has values that are no numbers (nan); it needs a number for every pixel")
    if stored is None and kind == "f" and (values.min() < 0 or values.max() > 1):
        raise ValueError(
            f"{name} has values from {values.min():g} to {values.max():g}; scale floats to [0, 1], save "
            "8-bit pixels as uint8, or give the value_range"
        )
    low, high = stored or (0.0, float(np.iinfo(values.dtype).max) if kind == "u" else 1.0)
    pixels = values.astype(np.float32)
    if (low, high) != (0.0, 1.0):
        pixels = (pixels - np.float32(low)) / np.float32(high - low)
    return pixels if stored is None else pixels.clip(0, 1)
