"""Frames brought to a size and a number of channels. Letters: T time, C channels (1 or 3), H W pixels."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["fit"]

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def fit(frames: NDArray, size: tuple[int, int] | None = None, channels: int | None = None) -> NDArray:
    """Return frames with so many channels, scaled until they cover a size and cropped to it at the centre.

    Scaling keeps the proportions and is bilinear, antialiased. Whole numbers stay whole, rounded.

    Args:
        frames: (T, C, H, W).
        size: (H, W), None (default) to leave it.
        channels: 1 for gray (BT.601 luma of colours), 3 for colour (equal ones of gray), None (default) to
            leave them.

    Raises:
        ImportError: a size that the frames do not have, and torchvision is not installed.
    """
    kind = frames.dtype
    if channels == 1 and frames.shape[1] == 3:
        red, green, blue = (frames[:, c : c + 1].astype(np.float32) for c in range(3))
        frames = _as(kind, LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)
    if size is not None and frames.shape[2:] != tuple(size):
        frames = _as(kind, _resized(frames, size))
    if channels == 3 and frames.shape[1] == 1:
        frames = frames.repeat(3, axis=1)
    return frames


def _as(kind: np.dtype, values: NDArray) -> NDArray:
    if kind.kind not in "iu":
        return values.astype(kind)
    limits = np.iinfo(kind)
    return np.rint(values).clip(limits.min, limits.max).astype(kind)


def _resized(frames: NDArray, size: tuple[int, int]) -> NDArray:
    try:
        from torchvision.transforms.v2 import functional as F
    except ImportError as error:
        raise ImportError('size needs torchvision: pip install "convlstm[video]"') from error
    import torch

    height, width = frames.shape[2:]
    scale = max(size[0] / height, size[1] / width)
    scaled = [max(want, round(side * scale)) for want, side in zip(size, (height, width), strict=True)]
    # A copy in any case: torch warns of memory that it may not write to, such as a mapped file's.
    tensor = torch.from_numpy(np.array(frames, np.uint8 if frames.dtype == np.uint8 else np.float32))
    tensor = F.resize(tensor, scaled, antialias=True)
    return F.center_crop(tensor, list(size)).numpy()
