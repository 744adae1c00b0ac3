"""How the fused op lays tensors out in memory: channels last, seen as frames or as rows of channels.

Letters: T time, B batch, C channels, S two or three spatial axes, P pixels of a frame. Frames are (B, C, *S)
in memory as (B, *S, C). Rows are the same memory as (B P, C), one row for each pixel.
"""

import math

import torch
from torch import Tensor

CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def empty_frames(*shape: int, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return an uninitialized tensor (..., C, *S) whose memory is (..., *S, C).

    Args:
        shape: T (optional), B, C and as many spatial axes as `like` (B, C, *S) has.
        like: gives the device, the number of spatial axes, and the type unless `dtype` is given.
        dtype: of the result.
    """
    axes = like.dim() - 2
    *lead, channels = shape[:-axes]
    memory = like.new_empty(*lead, *shape[-axes:], channels, dtype=dtype or like.dtype)
    return memory.movedim(-1, len(lead))


def channels_last(frames: Tensor) -> Tensor:
    """Return (B, C, *S) with memory (B, *S, C): itself, or a copy."""
    return frames.contiguous(memory_format=CHANNELS_LAST[frames.dim() - 2])


def rows(frames: Tensor) -> Tensor:
    """View (B, C, *S), channels last in memory, as rows (B P, C)."""
    B, C, *S = frames.shape
    return frames.movedim(1, -1).view(B * math.prod(S), C)


def rows_of_steps(frames: Tensor) -> tuple[Tensor, ...]:
    """View (T, B, C, *S), channels last in memory, as rows (B P, C), one tensor for each step."""
    T, B, C, *S = frames.shape
    return frames.movedim(2, -1).view(T, B * math.prod(S), C).unbind()


def frames_of(rows: Tensor, like: Tensor) -> Tensor:
    """View rows (B P, C) as frames (B, C, *S), with B and S as those of `like`."""
    B, _, *S = like.shape
    return rows.view(B, *S, rows.shape[1]).movedim(-1, 1)


def wide_type(tensor: Tensor) -> torch.dtype:
    """Return the type of cell states and of sums: float32, or float64 for float64."""
    return torch.promote_types(tensor.dtype, torch.float32)
