"""What can be evaluated, and on what: predictors, and numbered sets of sequences.

Letters: B batch, N sequences, T time, C channels, H W pixels.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convlstm.core.saving import unwrap
from convlstm.models.forecaster import Forecaster
from convlstm.models.imported.network import ImportedNetwork
from convlstm.models.imported.stages import Activation, Patches, Pick
from convlstm.models.rollouts import rollout

Predict = Callable[[Tensor, int], Tensor]
"""Anything that maps a context (B, T, C, H, W) and a horizon to the (B, horizon, C, H, W) that follow:
`copy_last`, or `functools.partial(convlstm.rollout, model)`."""


@runtime_checkable
class Source(Protocol):
    """A numbered set of sequences.

    A source may also have `value_range`, the two physical values that pixels 0 and 1 stand for (without it,
    0 and 1), and `unit`, their unit, such as "mm/h".
    """

    def __len__(self) -> int:
        """Return the number of sequences."""
        ...

    def batch(self, indices: Sequence[int], device: torch.device | str, /) -> Tensor:
        """Return the sequences with these numbers: float32 `(B, T, C, H, W)` in [0, 1], on `device`."""
        ...


class _ArraySource:
    """A source of sequences that are held in memory."""

    def __init__(self, clips: Tensor):
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def batch(self, indices: Sequence[int], device: torch.device | str, /) -> Tensor:
        clips = self.clips[list(indices)].to(device, torch.float32)
        low, high = clips.aminmax()
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"clips have values from {low:g} to {high:g}; they need [0, 1]: scale them, 8-bit pixels by "
                "dividing by 255"
            )
        return clips


def as_source(clips: Source | Tensor | NDArray[Any]) -> Source:
    """Return a source as it is, and an array `(N, T, C, H, W)` as a source.

    Raises:
        TypeError: clips are neither.
        ValueError: an array has other axes, or is empty.
    """
    if isinstance(clips, np.ndarray):
        clips = torch.from_numpy(clips)
    if isinstance(clips, Tensor):
        if clips.ndim != 5 or 0 in clips.shape[1:]:
            raise ValueError(
                f"clips have shape {tuple(clips.shape)}; they need (N, T, C, H, W), as in (8, 20, 1, 64, 64)"
            )
        return _ArraySource(clips)
    if not isinstance(clips, Source):
        raise TypeError(
            f"clips is a {type(clips).__name__}; it needs an array (N, T, C, H, W), or an object with len "
            "and batch(indices, device)"
        )
    return clips


def as_predictor(model: nn.Module | Predict) -> tuple[str, Predict]:
    """Return the name that tables give a model, and the model as a predictor.

    Raises:
        TypeError: the model cannot be called.
    """
    if isinstance(model, nn.Module):
        return type(unwrap(model)).__name__, partial(rollout, model)
    if not callable(model):
        raise TypeError(
            f"model is a {type(model).__name__}; it needs a network or a function of (context, horizon)"
        )
    inner: Callable[..., Any] = model.func if isinstance(model, partial) else model
    return getattr(inner, "__name__", type(inner).__name__), model


def gives_probabilities(model: nn.Module | Predict) -> bool:
    """Return whether a model is a network of this library that ends in a sigmoid."""
    network = unwrap(model) if isinstance(model, nn.Module) else model
    if isinstance(network, Forecaster):
        return network.config.output == "sigmoid"
    if not isinstance(network, ImportedNetwork):
        return False
    config = network.config
    stages = config.head or config.forecaster or config.stages
    values = [stage for stage in stages if not isinstance(stage, Patches | Pick)]
    return bool(values) and isinstance(values[-1], Activation) and values[-1].name == "sigmoid"
