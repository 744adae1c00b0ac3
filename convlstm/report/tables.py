"""The numbers of an evaluation as a page shows them: the verdict, the table of scores, the curves."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from convlstm.evaluation.protocols import RATIOS, Metric
from convlstm.evaluation.results import Evaluation, Score
from convlstm.evaluation.tables import physical
from convlstm.report.plots import Chart, Curve, chart, number

# The metrics drawn frame by frame: of each group the first that the protocol has.
DRAWN = ("mse mse_clipped", "mae mae_clipped", "ssim ssim_range2", "psnr", "cross_entropy")
MAX_THRESHOLDS = 6  # number of thresholds whose curves are drawn
MISSING = "\N{EN DASH}"  # in place of what is undefined


class Verdict(NamedTuple):
    """The result in a sentence or two, in the parts that a page sets apart."""

    metric: str
    value: str
    comparison: str
    rival: str = ""
    """The best baseline, if there is one to compare with."""
    conclusion: str = ""


class Cell(NamedTuple):
    """A score of one predictor."""

    mean: str
    interval: str
    best: bool


class Row(NamedTuple):
    """A row of the table of scores."""

    label: str
    words: str
    cells: list[tuple[str, Cell]]
    """The cells, with the names of their predictors."""


def verdict(evaluation: Evaluation) -> Verdict:
    """Return how the model's MSE (or its first metric) compares with the best baseline's."""
    present = _present(evaluation)
    metric = next((m for m in present if m.name == "mse"), present[0])
    title, badness = metric.title(evaluation.unit), _badness(metric)
    found = evaluation.model[metric.name]
    value = _value(found.mean, metric.decimals)
    interval = f" (95% interval {_interval(found, metric.decimals)})" if math.isfinite(found.low) else ""
    rivals = [b for b in evaluation.baselines if metric.name in b.metrics]
    rivals = [b for b in rivals if math.isfinite(b[metric.name].mean)]
    if not rivals or not math.isfinite(found.mean):
        return Verdict(title, value, f"{interval}.")
    rival = min(rivals, key=lambda b: badness(b[metric.name].mean))
    other = rival[metric.name]
    side = "below" if found.mean < other.mean else "above" if found.mean > other.mean else "the same as"
    if other.mean and found.mean != other.mean:
        share = abs(found.mean - other.mean) / abs(other.mean)
        side = f"{100 * share:.{0 if share >= 0.1 else 1}f}% {side}"
    words = [f" ({_value(other.mean, metric.decimals)})."]
    if badness(found.mean) >= badness(other.mean):
        words.append("The model does not beat it.")
    else:
        if found.high < other.low or found.low > other.high:
            words.append("The intervals do not overlap.")
        elif interval:
            words.append("The intervals overlap: more sequences would tell whether the model is better.")
        lost = [m.title(evaluation.unit) for m in present if m is not metric and _is_beaten(evaluation, m)]
        if lost:
            listed = " and ".join(filter(None, [", ".join(lost[:-1]), lost[-1]]))
            words.append(f"But a baseline is better in {listed}.")
    return Verdict(title, value, f"{interval}: {side} the best baseline, ", rival.name, " ".join(words))


def score_groups(evaluation: Evaluation) -> list[tuple[str, list[Row]]]:
    """Return the rows of the table of scores in groups: the metrics, then the ratios at each threshold."""
    predictors = evaluation.predictors
    names = [predictor.name for predictor in predictors]
    rows = []
    for metric in _present(evaluation):
        scores = [predictor.metrics.get(metric.name) for predictor in predictors]
        cells = _cells(names, scores, metric.decimals, _badness(metric))
        rows.append(Row(metric.title(evaluation.unit), f"{metric.better} is better", cells))
    groups = [("", rows)]
    for n, at in enumerate(evaluation.model.thresholds):
        counts = f"{at.hits:,} hits, {at.misses:,} misses, {at.false_alarms:,} false alarms"
        rows = []
        for name, ratio in RATIOS.items():
            scores = [getattr(predictor.thresholds[n], name) for predictor in predictors]
            cells = _cells(names, scores, 3, lambda mean, best=ratio.best: abs(mean - best))
            rows.append(Row(ratio.label, ratio.words, cells))
        groups.append((f"At {physical(at.threshold, evaluation.unit)} or more; {counts} of the model", rows))
    return groups


def curves(evaluation: Evaluation) -> list[tuple[Chart, list[tuple[str, list[str]]]]]:
    """Return the charts of the main metrics and the CSI frame by frame, each with its table of numbers."""
    predictors = evaluation.predictors
    columns = {metric.name: metric for metric in _present(evaluation)}
    drawn = [next((columns[n] for n in names.split() if n in columns), None) for names in DRAWN]
    shown: list[tuple[str, str, Sequence[Score | None]]] = [
        (m.label, f"{m.better} is better", [p.metrics.get(m.name) for p in predictors]) for m in drawn if m
    ]
    for n, at in enumerate(evaluation.model.thresholds[:MAX_THRESHOLDS]):
        title = f"CSI at {physical(at.threshold, evaluation.unit)}"
        shown.append((title, "higher is better", [p.thresholds[n].csi for p in predictors]))
    frames, result = range(1, evaluation.horizon + 1), []
    for title, note, scores in shown:
        lines, rows = [], []
        for kind, (predictor, score) in enumerate(zip(predictors, scores, strict=True)):
            if score is not None:
                band = score.per_frame_low, score.per_frame_high
                lines.append(Curve(predictor.name, frames, score.per_frame, kind, *band))
                values = [number(x, 4) if math.isfinite(x) else MISSING for x in score.per_frame]
                rows.append((predictor.name, values))
        result.append((chart(title, lines, "frame of the forecast", note), rows))
    return result


def _present(evaluation: Evaluation) -> list[Metric]:
    """Return the protocol's metrics that the model has."""
    return [metric for metric in evaluation.protocol.columns if metric.name in evaluation.model.metrics]


def _badness(metric: Metric) -> Callable[[float], float]:
    """Return the function of a mean that is lowest for the best."""
    return (lambda mean: mean) if metric.better == "lower" else (lambda mean: -mean)


def _is_beaten(evaluation: Evaluation, metric: Metric) -> bool:
    badness = _badness(metric)
    means = [b[metric.name].mean for b in evaluation.baselines if metric.name in b.metrics]
    return any(badness(mean) < badness(evaluation.model[metric.name].mean) for mean in means)


def _cells(
    names: Sequence[str], scores: Sequence[Score | None], decimals: int, badness: Callable[[float], float]
) -> list[tuple[str, Cell]]:
    bad = [badness(s.mean) if s and math.isfinite(s.mean) else math.inf for s in scores]
    cells = []
    for score, own in zip(scores, bad, strict=True):
        if score is None or math.isnan(score.mean):
            cells.append(Cell(MISSING, "", False))
        else:
            interval = _interval(score, decimals) if math.isfinite(score.low) else ""
            cells.append(Cell(_value(score.mean, decimals), interval, own == min(bad) < math.inf))
    return list(zip(names, cells, strict=True))


def _value(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}".replace("-", "\N{MINUS SIGN}") if math.isfinite(value) else MISSING


def _interval(score: Score, decimals: int) -> str:
    return f"{_value(score.low, decimals)} to {_value(score.high, decimals)}"
