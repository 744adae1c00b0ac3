"""A finite source as a stream to train on, or in another order."""

from collections.abc import Sequence
from functools import lru_cache

import torch

from convlstm.core.hashing import random_bits
from datasets.moving_mnist import ENDLESS
from datasets.source import Source, check_indices


class Shuffled:
    """The sequences of a source in an order that is a pure function of (seed, epoch), epoch after epoch.

    Args:
        source: the sequences.
        seed: any integer.
        epochs: how often each sequence comes. None (default): practically endlessly.

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
        """The number of sequences, each counted as often as it comes."""
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
