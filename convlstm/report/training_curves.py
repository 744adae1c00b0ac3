"""The section of a report about the training: what the run logged, as curves."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from convlstm.report.markup import Html, joined, tag
from convlstm.report.plots import Curve, chart, legend

__all__ = ["training_curves"]

MOST_POINTS = 200  # of a curve; a longer one is drawn as means of the stretches that end at its points
TRAINED_ON = "train/loss"
# What networks are chosen by, the first that was logged: it is in the unit of the loss.
CHOSEN_BY = {"val/cross_entropy": "validation cross-entropy", "val/mse": "validation MSE"}
OTHERS = {
    "val/mse": ("Validation MSE", "lower is better", False),
    "val/mae": ("Validation MAE", "lower is better", False),
    "val/ssim": ("Validation SSIM", "higher is better", False),
    "train/lr": ("Learning rate", "", False),
    "train/gradient_norm": ("Gradient norm", "before clipping", True),
    "train/teacher_forcing": ("Teacher forcing", "share of true frames read", False),
}


def training_curves(metrics: Sequence[Mapping[str, Any]]) -> Html | None:
    """Return charts of the losses and of what else there is in a run's metrics; None if there is nothing.

    Args:
        metrics: values by name, such as "train/loss", the optimizer step under "step".
    """
    chosen_by = next((key for key in CHOSEN_BY if _values(metrics, key)), "val/mse")
    lines = {TRAINED_ON: "training loss", chosen_by: CHOSEN_BY[chosen_by]}
    losses = [
        Curve(name, *found, kind)
        for kind, (key, name) in enumerate(lines.items())
        if (found := _values(metrics, key))
    ]
    charts = []
    if losses:
        charts.append(chart("Loss", losses, "optimizer step", "logarithmic", start=0, logarithmic=True))
    for key, (title, note, logarithmic) in OTHERS.items():
        if key not in lines and (found := _values(metrics, key)):
            curve = [Curve(title, *found, 1 if key.startswith("val/") else 0)]
            charts.append(chart(title, curve, "optimizer step", note, start=0, logarithmic=logarithmic))
    if not charts:
        return None
    return joined(
        legend([(curve.name, curve.kind) for curve in losses]), tag("div", *charts, class_="charts")
    )


def _values(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]] | None:
    """Return steps and values of what was logged under a name, thinned out; None if there is too little."""
    points = [
        (float(values["step"]), float(values[key]))
        for values in metrics
        if isinstance(values.get(key), int | float) and math.isfinite(values[key])
    ]
    if len(points) < 2:
        return None
    size = math.ceil(len(points) / MOST_POINTS)
    groups = [points[n : n + size] for n in range(0, len(points), size)]
    return [group[-1][0] for group in groups], [math.fsum(y for _, y in g) / len(g) for g in groups]
