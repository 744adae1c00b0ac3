"""What the tests of evaluation share: a source, and a predictor that is neither perfect nor constant."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Clips:
    """A source that holds its sequences, and notes which were asked for."""

    def __init__(self, clips: Tensor, value_range: Any = (0.0, 1.0), unit: str = ""):
        self.clips, self.value_range, self.unit = clips, value_range, unit
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.clips)

    def batch(self, indices: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        self.asked += indices
        return self.clips[list(indices)].to(device)


def blurred(context: Tensor, horizon: int) -> Tensor:
    """Predict frames that differ from each other and leave [0, 1]."""
    steps = torch.linspace(0.5, 1.5, horizon)[:, None, None, None]
    return context.mean(dim=1, keepdim=True) * steps
