"""An evaluation as a table for the terminal, up to 100 columns wide where names allow."""

import math
import textwrap
from collections.abc import Sequence

from convlstm.evaluation.protocols import RATIOS
from convlstm.evaluation.results import Evaluation, Score

WIDTH = 100  # of lines of words
FRAMES = 10  # of the horizon that curves show


def format_evaluation(evaluation: Evaluation) -> str:
    """Lay out an evaluation as text: a row per metric, with the model's interval and the baselines.

    Below come the mean squared error and the CSI at each threshold, frame by frame.

    Example:
        >>> clips = torch.rand(3, 20, 1, 16, 16)
        >>> evaluation = convlstm.evaluate(convlstm.evaluation.copy_last, clips)
        >>> print(convlstm.evaluation.format_evaluation(evaluation))  # doctest: +ELLIPSIS
        Protocol strict: 3 sequences, 10 frames from 10. Means over all frames of all sequences...
    """
    predictors = evaluation.predictors
    blocks = ["\n".join(textwrap.wrap(_conventions(evaluation), WIDTH)), _metrics(evaluation)]
    if all("mse" in predictor.metrics for predictor in predictors):
        blocks.append(_curves("MSE in frame", [(p.name, p["mse"].per_frame) for p in predictors], 1))
    for n, scores in enumerate(evaluation.model.thresholds):
        curves = [(p.name, p.thresholds[n].csi.per_frame) for p in predictors]
        blocks.append(_curves(f"CSI at {physical(scores.threshold, evaluation.unit)} in frame", curves, 3))
    return "\n\n".join(blocks)


def _conventions(evaluation: Evaluation) -> str:
    count = "one sequence" if evaluation.sequences == 1 else f"{evaluation.sequences:,} sequences"
    frames = "1 frame" if evaluation.horizon == 1 else f"{evaluation.horizon} frames"
    words = [f"Protocol {evaluation.protocol.name}: {count}, {frames} from {evaluation.context}."]
    bounded = any(_interval(score, 0) for score in evaluation.model.metrics.values())
    interval = ", [95% bootstrap interval over sequences]" if bounded else ""
    words.append(f"Means over all frames of all sequences{interval}.")
    words.append(evaluation.protocol.note)
    if evaluation.model.thresholds:
        words.append("CSI, POD, FAR and bias are ratios of counts summed over the whole set.")
    return " ".join(words)


def _metrics(evaluation: Evaluation) -> str:
    model, baselines = evaluation.model, evaluation.baselines
    rows: list[tuple[str, int, list[Score | None]]] = []  # label, decimals, scores
    for metric in evaluation.protocol.columns:
        found = [p.metrics.get(metric.name) for p in evaluation.predictors]
        if any(found):
            rows.append((metric.title(evaluation.unit), metric.decimals, found))
    for n, scores in enumerate(model.thresholds):
        for name, ratio in RATIOS.items():
            found = [getattr(p.thresholds[n], name) for p in evaluation.predictors]
            rows.append((f"{ratio.label} at {physical(scores.threshold, evaluation.unit)}", 3, found))
    lines = []
    for label, decimals, found in rows:
        mean, *others = ("-" if score is None else _number(score.mean, decimals) for score in found)
        lines.append([label, mean, _interval(found[0], decimals), *others])
    # The model's name stands above its intervals, or its means if there are none.
    head = ["", model.name] if any(line[2] for line in lines) else [model.name, ""]
    return _aligned([["", *head, *(baseline.name for baseline in baselines)], *lines])


def _interval(score: Score | None, decimals: int) -> str:
    if score is None or math.isnan(score.low):
        return ""
    return f"[{_number(score.low, decimals)}, {_number(score.high, decimals)}]"


def _curves(title: str, curves: Sequence[tuple[str, Sequence[float]]], decimals: int) -> str:
    horizon = len(curves[0][1])
    shown = min(horizon, FRAMES)
    # Evenly spread, the first and the last among them.
    frames = [round(n * (horizon - 1) / max(shown - 1, 1)) for n in range(shown)]
    rows = [[title, *(str(frame + 1) for frame in frames)]]
    rows += [[name, *(_number(curve[frame], decimals) for frame in frames)] for name, curve in curves]
    return _aligned(rows)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    columns = [column for column in zip(*rows, strict=True) if any(column)]
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in zip(*columns, strict=True)
    )


def _number(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if math.isfinite(value) else "-"


def physical(threshold: float, unit: str) -> str:
    """Return a threshold with its unit."""
    return f"{threshold:g} {unit}".rstrip()
