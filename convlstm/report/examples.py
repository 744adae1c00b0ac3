"""The rollouts that a report shows, made anew: of an evaluation no forecast is kept."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convlstm.evaluation.metrics import mse
from convlstm.evaluation.results import Evaluation
from convlstm.evaluation.sources import Predict, Source, as_predictor, as_source
from convlstm.report.frames import Shown

__all__ = ["FURTHER", "example_rollouts", "long_rollout"]

FURTHER = 4  # times the horizon of the evaluation, that the long rollout goes


def example_rollouts(
    evaluation: Evaluation,
    model: nn.Module | Predict,
    clips: Source | Tensor | NDArray[Any],
    device: torch.device | str = "cpu",
) -> list[Shown]:
    """Return rollouts of the best, the median and the worst sequence of an evaluation.

    Args:
        evaluation: of this model on these clips.
        model: as for `convlstm.evaluation.evaluate`, on `device`.
        clips: as for `convlstm.evaluation.evaluate`.
        device: where the sequences go (default the CPU).

    Returns:
        One for each sequence; one that is at once the best and the median, say, comes once. None where frames
        have neither 1 nor 3 channels, which there is no picture of.
    """
    found: dict[int, list[str]] = {}
    for name in ("best", "median", "worst"):
        found.setdefault(getattr(evaluation.examples, name), []).append(name)
    if evaluation.frame[0] not in (1, 3):
        return []
    _, predict = as_predictor(model)
    shown = []
    for number, names in found.items():
        context, truth = _split(evaluation, clips, number, evaluation.horizon, device)
        prediction = predict(context, evaluation.horizon)
        error = float(mse(prediction, truth).mean())
        note = f"sequence {number:,}, MSE {error:,.2f}"
        shown.append(_shown(", ".join(names).capitalize(), note, context, prediction, truth))
    return shown


def long_rollout(
    evaluation: Evaluation,
    model: nn.Module | Predict,
    clips: Source | Tensor | NDArray[Any],
    device: torch.device | str = "cpu",
) -> Shown | None:
    """Return a rollout of the median sequence, `FURTHER` times as long as the horizon of the evaluation.

    Arguments are those of `example_rollouts`. None where there is no picture of the frames.
    """
    if evaluation.frame[0] not in (1, 3):
        return None
    number, horizon = evaluation.examples.median, FURTHER * evaluation.horizon
    context, truth = _split(evaluation, clips, number, horizon, device)
    _, predict = as_predictor(model)
    note = f"sequence {number:,}" + (
        f", known for {truth.shape[1]} frames" if truth.shape[1] < horizon else ""
    )
    return _shown(f"Median, {FURTHER} times as far", note, context, predict(context, horizon), truth)


def _split(
    evaluation: Evaluation,
    clips: Source | Tensor | NDArray[Any],
    number: int,
    horizon: int,
    device: torch.device | str,
) -> tuple[Tensor, Tensor]:
    """Return one sequence's context, and at most `horizon` of the frames that follow it."""
    clip = as_source(clips).batch([number], device)  # (1, T, C, H, W)
    return clip[:, : evaluation.context], clip[:, evaluation.context : evaluation.context + horizon]


def _shown(title: str, note: str, context: Tensor, prediction: Tensor, truth: Tensor) -> Shown:
    first, forecast, after = (x[0].float().cpu().numpy() for x in (context, prediction, truth))
    if np.isnan(forecast).any():
        note, forecast = (
            f"{note}; what is no number is shown as 0",
            np.nan_to_num(forecast, posinf=1, neginf=0),
        )
    return Shown(title=title, note=note, context=first, prediction=forecast, truth=after)
