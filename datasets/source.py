"""What a source of sequences is, what every source does alike, and a source in another order.

Letters: B batch, T time, H W pixels.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import torch
from einops import rearrange

from convlstm.core.hashing import random_bits

ENDLESS = 2**53
"""The number of sequences of a training stream: more than any run can use."""


class Source(Protocol):
    """A numbered set of sequences, generated or read: what train.py and the evaluation ask of data.

    Sequence n is always the same, bit for bit, whatever the batch it is asked for in. What has this fits
    `convlstm.evaluation.Source`, too: the part of it that scoring needs.
    """

    value_range: tuple[float, float]
    """The physical values that 0 and 1 stand for, such as (0.0, 255.0) for 8-bit pixels."""

    unit: str
    """Of the physical values, such as "mm/h"; "" where they have none."""

    def __len__(self) -> int:
        """Return the number of sequences."""
        ...

    def batch(
        self, indices: torch.Tensor | Sequence[int], device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """Return the sequences with these numbers: float32 (B, T, C, H, W) in [0, 1], on `device`."""
        ...


class Shuffled:
    """The sequences of a source in an order that is a pure function of (seed, epoch), epoch after epoch.

    Args:
        source: the sequences.
        seed: any integer.
        epochs: how often each sequence comes. Default: None, practically endlessly.

    Attributes:
        value_range: the source's.
        unit: the source's.
    """

    def __init__(self, source: Source, seed: int, epochs: int | None = None) -> None:
        self._source, self._seed = source, seed
        self._sequences = ENDLESS if epochs is None else epochs * len(source)
        self.value_range, self.unit = source.value_range, source.unit
        self._order = lru_cache(2)(self._order_of)  # a batch may lie on the border of two

    def __len__(self) -> int:
        """Return the number of sequences, each counted as often as it comes."""
        return self._sequences

    def batch(
        self, indices: torch.Tensor | Sequence[int], device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """Return sequences by their place in the order; see `Source`."""
        numbers = check_indices(indices, len(self)).tolist()
        places = (divmod(n, len(self._source)) for n in numbers)
        return self._source.batch([int(self._order(epoch)[place]) for epoch, place in places], device)

    def _order_of(self, epoch: int) -> torch.Tensor:
        return random_bits(self._seed, epoch, draws=len(self._source)).argsort()


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


class GrayBytes:
    """A source whose sequences are gray 8-bit frames; a subclass makes or reads them in `frames`."""

    value_range = (0.0, 255.0)
    unit = ""

    def frames(
        self, indices: torch.Tensor | Sequence[int], device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """Return what `batch` returns as bytes: uint8 of shape (B, T, H, W)."""
        raise NotImplementedError

    def batch(
        self, indices: torch.Tensor | Sequence[int], device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """Return the sequences with these numbers: float32 of shape (B, T, 1, H, W) in [0, 1].

        Args:
            indices: the numbers of the sequences, integers of shape (B,), each from 0 to len - 1.
            device: where the frames are drawn or read to, and stay. Default: the CPU.

        Raises:
            ValueError: `indices` is empty, or not integers of shape (B,).
            IndexError: a number out of range.
        """
        # A product, not a quotient: CUDA divides by a number through its reciprocal and the CPU does not.
        pixels = self.frames(indices, device).to(torch.float32).mul_(1 / 255)
        return rearrange(pixels, "b t h w -> b t 1 h w")
