"""The rollouts that a report shows, made anew: an evaluation keeps no forecast."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convlstm.evaluation.metrics import mse
from convlstm.evaluation.results import Evaluation
from convlstm.evaluation.sources import Predict, Source, as_predictor, as_source
from convlstm.report.frames import Shown

FURTHER = 4  # times the horizon of the evaluation: the length of the long rollout


def example_rollouts(
    evaluation: Evaluation,
    model: nn.Module | Predict,
    clips: Source | Tensor | NDArray[Any],
    device: torch.device | str = "cpu",
    *,
    names: Sequence[Literal["best", "median", "worst"]] = ("best", "median", "worst"),
    horizon: int | None = None,
) -> list[Shown]:
    """Return rollouts of the best, the median and the worst sequence of an evaluation.

    Args:
        evaluation: of this model on these clips.
        model: as for `convlstm.evaluate`, on `device`.
        clips: as for `convlstm.evaluate`.
        device: where the sequences go. Default: the CPU.
        names: which of the three sequences to show. Default: all.
        horizon: number of frames to forecast. Default: as many as in the evaluation.

    Returns:
        One for each sequence; a sequence that is both the best and the median, say, comes once. None at all
        if frames have neither 1 nor 3 channels: there is no picture of them.
    """
    found: dict[int, list[str]] = {}
    for name in names if evaluation.frame[0] in (1, 3) else ():
        found.setdefault(getattr(evaluation.examples, name), []).append(name)
    horizon = horizon or evaluation.horizon
    source, predict = as_source(clips), as_predictor(model)[1]
    rollouts = []
    for number, titles in found.items():
        clip = source.batch([number], device)  # (1, T, C, H, W)
        seen, following = clip[:, : evaluation.context], clip[:, evaluation.context :][:, :horizon]
        forecast = predict(seen, horizon)
        note = f"sequence {number:,}"
        if horizon == evaluation.horizon:
            note += f", MSE {float(mse(forecast, following).mean()):,.2f}"
        elif following.shape[1] < horizon:
            note += f", known for {following.shape[1]} frames"
        context, prediction, truth = (x[0].float().cpu().numpy() for x in (seen, forecast, following))
        if np.isnan(prediction).any():
            note, prediction = f"{note}; nan is shown as 0", np.nan_to_num(prediction, posinf=1, neginf=0)
        title = ", ".join(titles).capitalize()
        rollouts.append(Shown(title=title, note=note, context=context, prediction=prediction, truth=truth))
    return rollouts
