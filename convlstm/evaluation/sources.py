"""What can be evaluated, and on what: predictors, and numbered sets of sequences.

Letters: B batch, N sequences, T time, C channels, H W pixels.
"""

import math
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

__all__ = ["Predict", "Source", "as_predictor", "as_source", "gives_probabilities", "physical_range"]


class Predict(Protocol):
    """Anything that forecasts: `copy_last`, or `functools.partial(convlstm.rollout, model)`."""

    def __call__(self, context: Tensor, horizon: int, /) -> Tensor:
        """Map a context (B, T, C, H, W) to the (B, horizon, C, H, W) that follow."""
        ...


@runtime_checkable
class Source(Protocol):
    """A numbered set of sequences.

    It may further have `value_range`, the two physical values that pixels 0 and 1 stand for (else they stand
    for themselves), and `unit`, in which these are, such as "mm/h".
    """

    def __len__(self) -> int:
        """Return the number of sequences."""
        ...

    def batch(self, indices: Sequence[int], device: torch.device | str, /) -> Tensor:
        """Return the sequences with these numbers: float32 (B, T, C, H, W) in [0, 1], on `device`."""
        ...


class _Held:
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
    """Return a source, or an array (N, T, C, H, W) as one.

    Raises:
        TypeError: neither.
        ValueError: an array of other axes, with nothing in it, or of whole numbers.
    """
    if isinstance(clips, np.ndarray):
        clips = torch.from_numpy(clips)
    if isinstance(clips, Tensor):
        if clips.ndim != 5 or 0 in clips.shape[1:]:
            raise ValueError(
                f"clips have shape {tuple(clips.shape)}; they need (N, T, C, H, W), as in (8, 20, 1, 64, 64)"
            )
        if not clips.is_floating_point():
            raise ValueError(
                f"clips are {clips.dtype}; they need floats in [0, 1], such as 8-bit pixels divided by 255"
            )
        return _Held(clips)
    if not isinstance(clips, Source):
        raise TypeError(
            f"clips is a {type(clips).__name__}; it needs an array (N, T, C, H, W), or an object with len "
            "and batch(indices, device)"
        )
    return clips


def physical_range(source: Source) -> tuple[tuple[float, float], str]:
    """Return the physical values of pixels 0 and 1, and their unit: (0, 1) and "" where none are named.

    Raises:
        ValueError: a range that is not two finite numbers, the lower first.
    """
    found = getattr(source, "value_range", (0.0, 1.0))
    try:
        low, high = map(float, found)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(f"value_range is {found!r}; it needs two finite numbers, the lower first")
    return (low, high), str(getattr(source, "unit", ""))


def as_predictor(model: nn.Module | Predict) -> tuple[str, Predict]:
    """Return what tables call a model or predictor, and it as a predictor.

    Raises:
        TypeError: nothing that can be called.
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
    """Whether a model's output is a probability: of ours those that end with a sigmoid; else nobody knows."""
    network = unwrap(model) if isinstance(model, nn.Module) else model
    if isinstance(network, Forecaster):
        return network.config.output == "sigmoid"
    if not isinstance(network, ImportedNetwork):
        return False
    config = network.config
    values = [
        s for s in (config.head or config.forecaster or config.stages) if not isinstance(s, Patches | Pick)
    ]
    return bool(values) and isinstance(values[-1], Activation) and values[-1].name == "sigmoid"
