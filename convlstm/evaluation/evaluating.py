"""The evaluation of a model beside the baselines: the public call."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convlstm.core.checks import finite, usable_device
from convlstm.evaluation.baselines import BASELINES
from convlstm.evaluation.bootstrap import RESAMPLES, scores_of
from convlstm.evaluation.metrics import ROUNDING
from convlstm.evaluation.protocols import STRICT, Protocol, protocol_of
from convlstm.evaluation.results import Evaluation, Examples
from convlstm.evaluation.rows import MEASURED, Rows, measure
from convlstm.evaluation.sources import (
    Predict,
    Source,
    as_predictor,
    as_source,
    gives_probabilities,
    physical_range,
)

__all__ = ["evaluate", "summarize"]


def evaluate(
    model: nn.Module | Predict,
    clips: Source | Tensor | NDArray[Any],
    context: int = 10,
    horizon: int = 10,
    *,
    protocol: Protocol | str = STRICT,
    thresholds: Sequence[float] = (),
    sequences: int | None = None,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """Score a model on sequences, beside copying the last frame, the mean frame and moving on.

    Everything is computed batch by batch on the device; of a sequence only its scores are kept. Averages are
    over all frames of all sequences, their 95% intervals from 1,000 bootstrap resamples of the sequences,
    the same at each call.

    Args:
        model: a network, rolled out as `convlstm.rollout` does, in evaluation mode; or any function that maps
            a context (B, T, C, H, W) and a horizon to (B, horizon, C, H, W).
        clips: float (N, T, C, H, W) with values in [0, 1]; or a source of sequences, with `len` and
            `batch(indices, device)`, such as those in `datasets`. T is `context + horizon` or more; frames
            beyond are left out.
        context: frames given, 1 or more.
        horizon: frames asked for, 1 or more.
        protocol: what is reported: "strict" (default), every metric with its conventions; "openstl", the
            columns and conventions of OpenSTL's tables; or a `Protocol`.
        thresholds: for CSI, POD, FAR and bias, in the unit of the source's `value_range` (0 to 1 where it has
            none): above its lower end, at most its upper one.
        sequences: how many of the clips, from the first on; None (default) for all.
        batch_size: sequences at a time, 1 or more; it decides memory and speed, not the scores.
        device: where the sequences go. None (default): where the network is; the CPU for a function.
        progress: called after each batch with its number of sequences, such as `tqdm(...).update`.

    Returns:
        The scores: `evaluation.model["mse"].mean`, `.low` and `.high`, `.per_frame`; for a table of them see
        `convlstm.evaluation.format_evaluation`.

    Raises:
        TypeError: a model that cannot be called, a forecast that is no tensor, or clips that are no array
            and no source.
        ValueError: an argument out of its bounds, sequences that are too short or out of [0, 1], or a
            forecast whose shape is not that of the frames to come.
    """
    protocol = protocol_of(protocol)
    source = as_source(clips)
    value_range, unit = physical_range(source)
    thresholds = tuple(_threshold(threshold, value_range) for threshold in thresholds)
    name, predict = as_predictor(model)
    if device is None and isinstance(model, nn.Module):
        device = next((p.device for p in model.parameters()), None)
    low, high = value_range
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
    return summarize(rows, context, protocol, thresholds=thresholds, value_range=value_range, unit=unit)


def summarize(
    rows: Mapping[str, Rows],
    context: int,
    protocol: Protocol,
    *,
    thresholds: tuple[float, ...] = (),
    value_range: tuple[float, float] = (0.0, 1.0),
    unit: str = "",
    resamples: int = RESAMPLES,
) -> Evaluation:
    """Return the evaluation that `measure` noted the rows of.

    Args:
        rows: by the names of the predictors, the model first, then the baselines.
        context: frames that they were given.
        protocol: which metrics to report.
        thresholds: those of the rows' counts, in the unit.
        value_range: the physical values of pixels 0 and 1.
        unit: of these values; "" (default) for none.
        resamples: of the bootstrap; 0 for no intervals, which is cheap.
    """
    span = value_range[1] - value_range[0] if unit else None
    model, *baselines = (
        scores_of(name, found, protocol, thresholds, span, resamples) for name, found in rows.items()
    )
    of_model = next(iter(rows.values()))
    _, sequences, horizon = of_model.metrics.shape
    return Evaluation(
        protocol=protocol,
        sequences=sequences,
        context=int(context),
        horizon=horizon,
        frame=of_model.frame,
        value_range=value_range,
        unit=unit,
        model=model,
        baselines=tuple(baselines),
        examples=_examples(of_model),
    )


def _threshold(threshold: Any, value_range: tuple[float, float]) -> float:
    threshold, (low, high) = finite("thresholds", threshold), value_range
    if not low < threshold <= high:
        raise ValueError(
            f"thresholds has {threshold:g}, but values go from {low:g} to {high:g}; it needs numbers above "
            f"{low:g}, at most {high:g}"
        )
    if (threshold - low) / (high - low) <= ROUNDING:
        raise ValueError(
            f"thresholds has {threshold:g}, which is {low:g} but for {ROUNDING:g} of the range of values, "
            f"{low:g} to {high:g}: every value would reach it; it needs higher ones, or a narrower range"
        )
    return threshold


def _examples(rows: Rows) -> Examples:
    errors = rows.metrics[MEASURED.index("mse")].mean(dim=1)  # (N,)
    order = errors.argsort(stable=True).tolist()
    return Examples(best=order[0], median=order[(len(order) - 1) // 2], worst=order[-1])
