"""The numbers of an evaluation in a page: the verdict, the table of scores, the curves and what they show."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from convlstm.evaluation.protocols import Metric
from convlstm.evaluation.results import Evaluation, PredictorScores, Score
from convlstm.report.markup import Html, joined, tag
from convlstm.report.plots import Curve, chart, legend, number

__all__ = ["curves", "score_table", "verdict"]

# What is drawn frame by frame of the metrics in a protocol: the first of each line that there is.
DRAWN = (
    ("mse", "mse_clipped"),
    ("mae", "mae_clipped"),
    ("ssim", "ssim_range2"),
    ("psnr",),
    ("cross_entropy",),
)
MOST_THRESHOLDS = 6  # whose curves are drawn
RATIOS = {
    "csi": ("CSI", "critical success index: hits / (hits + misses + false alarms); 1 is best", 1.0),
    "pod": ("POD", "probability of detection: hits / (hits + misses); 1 is best", 1.0),
    "far": ("FAR", "false alarm ratio: false alarms / (hits + false alarms); 0 is best", 0.0),
    "bias": ("Bias", "(hits + false alarms) / (hits + misses); 1 is best", 1.0),
}
MISSING = "\N{EN DASH}"  # in the place of what is undefined


class _Row(NamedTuple):
    label: str
    words: str
    scores: Sequence[Score | None]  # the model's, then those of the baselines
    decimals: int
    badness: Callable[[float], float]  # of a mean; the lowest is best


def verdict(evaluation: Evaluation) -> Html:
    """Return the result in a sentence or two: the model's first metric beside that of the best baseline."""
    metric = next((m for m in _present(evaluation) if m.name == "mse"), _present(evaluation)[0])
    found = evaluation.model[metric.name]
    value = _value(found.mean, metric.decimals)
    parts: list[str] = [f"{metric.title(evaluation.unit)} ", tag("strong", value)]
    if math.isfinite(found.low):
        parts.append(f" (95% interval {_interval(found, metric.decimals)})")
    rivals = [b for b in evaluation.baselines if metric.name in b.metrics]
    rivals = [b for b in rivals if math.isfinite(b[metric.name].mean)]
    if not rivals or not math.isfinite(found.mean):
        return tag("p", *parts, ".", class_="verdict")
    rival = min(rivals, key=lambda b: _badness(metric)(b[metric.name].mean))
    return tag("p", *parts, *_compared(evaluation, metric, rival), class_="verdict")


def _compared(evaluation: Evaluation, metric: Metric, rival: PredictorScores) -> list[str]:
    """Return how the model's metric compares with that of the best baseline, and what else is to be known."""
    found, other = evaluation.model[metric.name], rival[metric.name]
    better = _badness(metric)(found.mean) < _badness(metric)(other.mean)
    side = "below" if found.mean < other.mean else "above" if found.mean > other.mean else "the same as"
    if other.mean and found.mean != other.mean:
        share = abs(found.mean - other.mean) / abs(other.mean)
        side = f"{100 * share:.{0 if share >= 0.1 else 1}f}% {side}"
    parts = [f": {side} the best baseline, ", tag("strong", rival.name)]
    parts.append(f" ({_value(other.mean, metric.decimals)}).")
    if not better:
        return [*parts, " The model does not beat it."]
    if found.high < other.low or found.low > other.high:
        parts.append(" The intervals do not overlap.")
    elif math.isfinite(found.low):
        parts.append(" The intervals overlap: more sequences would tell whether the model is better.")
    others = [m for m in _present(evaluation) if m is not metric]
    lost = [m.title(evaluation.unit) for m in others if _is_beaten(evaluation, m)]
    return [*parts, f" But a baseline is better in {_listed(lost)}."] if lost else parts


def score_table(evaluation: Evaluation) -> Html:
    """Return the table of all scores: a row for each metric, the model beside the baselines."""
    predictors = [evaluation.model, *evaluation.baselines]
    names = [predictor.name for predictor in predictors]
    head = tag("tr", tag("td"), *(tag("th", name, scope="col") for name in names))
    unit = evaluation.unit
    rows = (_row(_metric_row(metric, predictors, unit), names) for metric in _present(evaluation))
    bodies = [tag("tbody", *rows)]
    for n, scores in enumerate(evaluation.model.thresholds):
        counts = f"{scores.hits:,} hits, {scores.misses:,} misses, {scores.false_alarms:,} false alarms"
        title = f"At {_level(scores.threshold, evaluation.unit)} or more; {counts} of the model"
        rows = [tag("tr", tag("th", title, scope="rowgroup", colspan=len(names) + 1), class_="group")]
        for name, (label, words, best) in RATIOS.items():
            found = [getattr(predictor.thresholds[n], name) for predictor in predictors]
            rows.append(_row(_Row(label, words, found, 3, _distance(best)), names))
        bodies.append(tag("tbody", *rows))
    return _scrolling("Scores", tag("table", tag("thead", head), *bodies, class_="scores"))


def curves(evaluation: Evaluation) -> Html:
    """Return the charts of the main metrics frame by frame, with a table of the numbers in them."""
    predictors = [evaluation.model, *evaluation.baselines]
    columns = {metric.name: metric for metric in _present(evaluation)}
    drawn = [next((columns[n] for n in names if n in columns), None) for names in DRAWN]
    shown: list[tuple[str, str, Sequence[Score | None]]] = [
        (m.label, f"{m.better} is better", [p.metrics.get(m.name) for p in predictors]) for m in drawn if m
    ]
    for n, scores in enumerate(evaluation.model.thresholds[:MOST_THRESHOLDS]):
        found = [p.thresholds[n].csi for p in predictors]
        shown.append((f"CSI at {_level(scores.threshold, evaluation.unit)}", "higher is better", found))
    charts, tables = [], []
    for title, note, scores in shown:
        lines = [(p.name, s, kind) for kind, (p, s) in enumerate(zip(predictors, scores, strict=True)) if s]
        frames = range(1, evaluation.horizon + 1)
        drawings = [
            Curve(name, frames, s.per_frame, kind, s.per_frame_low, s.per_frame_high)
            for name, s, kind in lines
        ]
        charts.append(chart(title, drawings, "frame of the forecast", note))
        tables.append(_frame_table(title, [(name, s) for name, s, _ in lines], frames))
    return joined(
        legend((predictor.name, kind) for kind, predictor in enumerate(predictors)),
        tag("p", "Shaded: 95% bootstrap intervals over the sequences.", class_="muted"),
        tag("div", *charts, class_="charts"),
        tag("details", tag("summary", "The numbers in these curves"), *tables),
    )


def _is_beaten(evaluation: Evaluation, metric: Metric) -> bool:
    """Whether a baseline is better than the model in a metric."""
    badness = _badness(metric)
    means = [b[metric.name].mean for b in evaluation.baselines if metric.name in b.metrics]
    return any(badness(mean) < badness(evaluation.model[metric.name].mean) for mean in means)


def _listed(words: Sequence[str]) -> str:
    """Return "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _present(evaluation: Evaluation) -> list[Metric]:
    """Return the protocol's metrics that the model has; cross-entropy is of probabilities alone."""
    return [metric for metric in evaluation.protocol.columns if metric.name in evaluation.model.metrics]


def _metric_row(metric: Metric, predictors: Sequence[PredictorScores], unit: str) -> _Row:
    parts = "values of a frame" if not metric.name.startswith("ssim") else "windows of a frame"
    words = [f"{'summed' if metric.per == 'sum' else 'mean'} over the {parts}"]
    words.append("predictions clipped to [0, 1]" if metric.clipped else "unclipped")
    if metric.data_range is not None:
        words.append(f"data range {number(metric.data_range)}")
    words.append(f"{metric.better} is better")
    scores = [predictor.metrics.get(metric.name) for predictor in predictors]
    return _Row(metric.title(unit), ", ".join(words), scores, metric.decimals, _badness(metric))


def _row(row: _Row, names: Sequence[str]) -> Html:
    badness = [row.badness(s.mean) if s and math.isfinite(s.mean) else math.inf for s in row.scores]
    cells = []
    for name, score, bad in zip(names, row.scores, badness, strict=True):
        best = "best" if bad == min(badness) < math.inf else None
        if score is None or math.isnan(score.mean):
            cells.append(tag("td", MISSING, data_of=name))
            continue
        interval = tag("small", _interval(score, row.decimals)) if math.isfinite(score.low) else ""
        value = tag("span", _value(score.mean, row.decimals), interval)
        cells.append(tag("td", value, class_=best, data_of=name))
    return tag("tr", tag("th", row.label, tag("small", row.words), scope="row"), *cells)


def _frame_table(title: str, scores: Sequence[tuple[str, Score]], frames: Sequence[int]) -> Html:
    head = tag(
        "tr", tag("th", title, scope="col"), *(tag("th", f"+{frame}", scope="col") for frame in frames)
    )
    rows = []
    for name, score in scores:
        values = (number(x, 4) if math.isfinite(x) else MISSING for x in score.per_frame)
        rows.append(tag("tr", tag("th", name, scope="row"), *(tag("td", value) for value in values)))
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="frames")
    return _scrolling(f"{title}, frame by frame", table)


def _scrolling(name: str, table: Html) -> Html:
    """Return a table that scrolls where it is wider than the page, also by keyboard."""
    return tag("div", table, class_="wide", tabindex="0", role="region", aria_label=name)


def _level(threshold: float, unit: str) -> str:
    return f"{threshold:g} {unit}".rstrip()


def _badness(metric: Metric) -> Callable[[float], float]:
    return (lambda mean: mean) if metric.better == "lower" else (lambda mean: -mean)


def _distance(best: float) -> Callable[[float], float]:
    return lambda mean: abs(mean - best)


def _value(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}".replace("-", "\N{MINUS SIGN}") if math.isfinite(value) else MISSING


def _interval(score: Score, decimals: int) -> str:
    return f"{_value(score.low, decimals)} to {_value(score.high, decimals)}"
