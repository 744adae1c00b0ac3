"""An evaluation as a table for the terminal, up to 100 columns wide where names allow."""

import math
import textwrap
from collections.abc import Sequence

from convlstm.evaluation.results import Evaluation, PredictorScores, Score

__all__ = ["format_evaluation"]

WIDTH = 100  # of lines of words
FRAMES = 10  # of the horizon that curves show
RATIOS = (("csi", "CSI"), ("pod", "POD"), ("far", "FAR"), ("bias", "bias"))


def format_evaluation(evaluation: Evaluation) -> str:
    """Lay out an evaluation as text: a row per metric, the model's interval, the baselines beside it.

    Below come the mean squared error, and where there are thresholds the CSI, frame by frame.
    """
    count = "one sequence" if evaluation.sequences == 1 else f"{evaluation.sequences:,} sequences"
    frames = f"{evaluation.horizon} frames from {evaluation.context}"
    of = [
        f"Protocol {evaluation.protocol.name}: {count}, {frames}. Means {evaluation.protocol.average},",
        "of ratios those of the summed counts, [95% bootstrap interval over sequences].",
        *textwrap.wrap(evaluation.protocol.note, WIDTH),
    ]
    blocks = [_metrics(evaluation)]
    predictors = [evaluation.model, *evaluation.baselines]
    if all("mse" in predictor.metrics for predictor in predictors):
        blocks.append(_curves("MSE in frame", [(p.name, p["mse"].per_frame) for p in predictors], 1))
    for n, scores in enumerate(evaluation.model.thresholds):
        curves = [(p.name, p.thresholds[n].csi.per_frame) for p in predictors]
        blocks.append(_curves(f"CSI at {_physical(scores.threshold, evaluation.unit)} in frame", curves, 3))
    return "\n\n".join(["\n".join(of), *blocks])


def _metrics(evaluation: Evaluation) -> str:
    model, baselines = evaluation.model, evaluation.baselines
    rows = [["", model.name, "", *(baseline.name for baseline in baselines)]]
    for metric in evaluation.protocol.columns:
        found = [p.metrics.get(metric.name) for p in (model, *baselines)]
        if any(found):
            rows.append(_row(metric.label, found, metric.decimals))
    for n, scores in enumerate(model.thresholds):
        for name, label in RATIOS:
            found = [_ratio(p, n, name) for p in (model, *baselines)]
            rows.append(_row(f"{label} at {_physical(scores.threshold, evaluation.unit)}", found, 3))
    return _aligned(rows)


def _ratio(predictor: PredictorScores, threshold: int, name: str) -> Score:
    return getattr(predictor.thresholds[threshold], name)


def _row(label: str, scores: Sequence[Score | None], decimals: int) -> list[str]:
    """A row: the model's mean and interval, then the means of the others."""
    model, *others = scores
    interval = ""
    if model is not None and not math.isnan(model.low):
        interval = f"[{_number(model.low, decimals)}, {_number(model.high, decimals)}]"
    means = [_number(math.nan if s is None else s.mean, decimals) for s in others]
    return [label, _number(math.nan if model is None else model.mean, decimals), interval, *means]


def _curves(title: str, curves: Sequence[tuple[str, Sequence[float]]], decimals: int) -> str:
    horizon = len(curves[0][1])
    shown = min(horizon, FRAMES)
    # Evenly spread, the first and the last among them.
    frames = [round(n * (horizon - 1) / max(shown - 1, 1)) for n in range(shown)]
    rows = [[title, *(str(frame + 1) for frame in frames)]]
    rows += [[name, *(_number(curve[frame], decimals) for frame in frames)] for name, curve in curves]
    return _aligned(rows)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )


def _number(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if math.isfinite(value) else "-"


def _physical(threshold: float, unit: str) -> str:
    return f"{threshold:g} {unit}".rstrip()
