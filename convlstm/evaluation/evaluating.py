"""The evaluation of a model beside the baselines: the public call."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convlstm.core.checks import choice, finite, usable_device
from convlstm.evaluation.baselines import BASELINES
from convlstm.evaluation.protocols import PROTOCOLS, Protocol
from convlstm.evaluation.results import Evaluation
from convlstm.evaluation.rows import measure
from convlstm.evaluation.sources import Predict, Source, as_predictor, as_source, gives_probabilities
from convlstm.evaluation.summary import summarize


def evaluate(
    model: nn.Module | Predict,
    clips: Source | Tensor | NDArray[Any],
    context: int = 10,
    horizon: int = 10,
    *,
    protocol: Protocol | str = "strict",
    thresholds: Sequence[float] = (),
    sequences: int | None = None,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """Score a model on sequences, beside three baselines: the last frame, the mean frame, and translation.

    The device computes everything batch by batch; of a sequence only its scores are kept. Means are over all
    frames of all sequences, their 95% intervals are from 1,000 bootstrap resamples of the sequences, the same
    at each call.

    Args:
        model: a network, rolled out as `convlstm.rollout` does, in evaluation mode; or any function that maps
            a context `(B, T, C, H, W)` and a horizon to `(B, horizon, C, H, W)`.
        clips: float `(N, T, C, H, W)` with values in [0, 1]; or a source of sequences, with `len` and
            `batch(indices, device)`, such as those in `datasets`. T is `context + horizon` or more; frames
            beyond are left out.
        context: number of frames given. Default: 10.
        horizon: number of frames to predict. Default: 10.
        protocol: what to report. "strict" (default): every metric with its conventions. "openstl": the
            columns and conventions of OpenSTL's tables. Or a `Protocol`.
        thresholds: for CSI, POD, FAR and bias, in the unit of the source's `value_range` (0 to 1 if it has
            none): above its lower end, at most its upper end. Default: none.
        sequences: number of sequences, from the first on. Default: all.
        batch_size: sequences at a time: a matter of memory and speed, not of the scores. Default: 32.
        device: where the sequences go. Default: where the network is; the CPU for a function.
        progress: called after each batch with its number of sequences, such as `tqdm(...).update`.

    Returns:
        The scores, such as `evaluation.model["mse"].mean`, `.low`, `.high` and `.per_frame`. For a table see
        `convlstm.evaluation.format_evaluation`.

    Raises:
        TypeError: the model cannot be called, or clips are neither an array nor a source.
        ValueError: an argument is out of its bounds, sequences are too short or out of [0, 1], or a forecast
            has another shape than the frames that follow the context.

    Example:
        >>> model = convlstm.StackedForecaster(hidden_channels=(8,))
        >>> clips = torch.rand(3, 6, 1, 16, 16)  # (N, T, C, H, W)
        >>> evaluation = convlstm.evaluate(model, clips, context=4, horizon=2)
        >>> [predictor.name for predictor in evaluation.predictors]
        ['StackedForecaster', 'copy last frame', 'mean frame', 'translation']
    """
    if not isinstance(protocol, Protocol):
        protocol = PROTOCOLS[choice("protocol", protocol, tuple(PROTOCOLS))]
    source = as_source(clips)
    low, high = map(float, getattr(source, "value_range", (0.0, 1.0)))
    thresholds = tuple(finite("thresholds", value, above=low, most=high) for value in thresholds)
    name, predict = as_predictor(model)
    if device is None and isinstance(model, nn.Module):
        device = next((p.device for p in model.parameters()), None)
    rows = measure(
        {name: predict} | {label: run for label, run in BASELINES.items() if label != name},
        source,
        context,
        horizon,
        sequences=sequences,
        batch_size=batch_size,
        device=usable_device("cpu" if device is None else device),
        thresholds=[(threshold - low) / (high - low) for threshold in thresholds],
        probabilities={name} if gives_probabilities(model) else (),
        progress=progress,
    )
    unit = str(getattr(source, "unit", ""))
    return summarize(rows, context, protocol, thresholds=thresholds, value_range=(low, high), unit=unit)
