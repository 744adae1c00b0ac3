"""What train.py and the evaluation ask of data: the contract of a source, and what every source does alike.

Letters: B batch, T time, H W pixels.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from einops import rearrange


class Source(Protocol):
    """A numbered set of sequences, generated or read.

    Sequence n is always the same, bit for bit, whatever the batch it is asked for in. What has this fits
    `convlstm.evaluation.Source`, too: the part of it that scoring needs.
    """

    value_range: tuple[float, float]
    """The physical values that 0 and 1 stand for, such as (0.0, 255.0) for 8-bit pixels."""

    unit: str
    """Of the physical values, such as "mm/h"; "" where they have none."""

    def __len__(self) -> int:
        """The number of sequences."""
        ...

    def batch(
        self, indices: torch.Tensor | Sequence[int], device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """The sequences with these numbers: float32 of shape (B, T, C, H, W) in [0, 1], on `device`."""
        ...


def check_indices(indices: torch.Tensor | Sequence[int], sequences: int) -> torch.Tensor:
    """Return the numbers of sequences as an int64 tensor of shape (B,) on the CPU.

    Raises:
        ValueError: not a sequence of integers, or none.
        IndexError: a number below 0, or not below `sequences`.
    """
    numbers = torch.as_tensor(indices)
    if numbers.ndim != 1 or numbers.numel() == 0:
        raise ValueError(
            f"indices have shape {tuple(numbers.shape)}; they need (B,), the number of one sequence or more"
        )
    if numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool:
        raise ValueError(f"indices are {numbers.dtype}; they need integers")
    numbers = numbers.to("cpu", torch.int64)
    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or high >= sequences:
        raise IndexError(
            f"indices have {low if low < 0 else high}; they need 0 to {sequences - 1}, one of {sequences} "
            "sequences"
        )
    return numbers


def unit_range(frames: torch.Tensor) -> torch.Tensor:
    """Return uint8 frames (B, T, H, W) as float32 (B, T, 1, H, W) in [0, 1]; 255 becomes exactly 1."""
    # A product, not a quotient: CUDA divides by a number through its reciprocal and the CPU does not.
    return rearrange(frames.to(torch.float32).mul_(1 / 255), "b t h w -> b t 1 h w")
