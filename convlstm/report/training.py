"""What a report shows of the run that a checkpoint came from: config.json, and what it logged, as curves."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convlstm.core.files import METRICS, read_metrics
from convlstm.hub.checkpoint import read_config
from convlstm.report.plots import Chart, Curve, chart

MAX_POINTS = 200  # of a curve; a longer one is drawn as means of the stretches that end at its points
# What networks are chosen by, the first that was logged: it is in the unit of the loss.
CHOSEN_BY = {"val/cross_entropy": "validation cross-entropy", "val/mse": "validation MSE"}
OTHERS = {
    "val/mse": ("Validation MSE", "lower is better", False),
    "val/mae": ("Validation MAE", "lower is better", False),
    "val/ssim": ("Validation SSIM", "higher is better", False),
    "train/lr": ("Learning rate", "", False),
    "train/gradient_norm": ("Gradient norm", "before clipping", True),
    "train/true_frame_probability": ("Scheduled sampling", "probability of reading the true frame", False),
    "train/teacher_forcing": ("Scheduled sampling", "probability of reading the true frame", False),
}


@dataclass(frozen=True)
class Run:
    """How a checkpoint was made, as far as its files tell."""

    config: Mapping[str, Any]
    """config.json of the checkpoint."""
    metrics: Sequence[Mapping[str, Any]] = field(default=())
    """Values by name such as "train/loss", the optimizer step under "step"; empty if none were logged."""


def read_run(directory: str | Path) -> Run:
    """Read config.json and, if train.py wrote one, metrics.jsonl.

    An incomplete last line, as of a run that still trains, is left out.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: config.json or a line of metrics.jsonl is damaged.
    """
    config, path = read_config(directory), Path(directory) / METRICS
    return Run(config, [values for _, values in read_metrics(path)] if path.is_file() else ())


def training_curves(metrics: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return charts of the losses and of the other values in a run's metrics, and the legend of the first.

    Args:
        metrics: values by name, such as "train/loss", the optimizer step under "step".
    """
    chosen_by = next((key for key in CHOSEN_BY if _values(metrics, key)), "val/mse")
    lines = {"train/loss": "training loss", chosen_by: CHOSEN_BY[chosen_by]}
    losses = [
        Curve(name, *found, kind)
        for kind, (key, name) in enumerate(lines.items())
        if (found := _values(metrics, key))
    ]
    charts: list[Chart] = []
    if losses:
        charts.append(chart("Loss", losses, "optimizer step", "logarithmic", start=0, logarithmic=True))
    for key, (title, note, logarithmic) in OTHERS.items():
        if key not in lines and (found := _values(metrics, key)):
            curve = [Curve(title, *found, 1 if key.startswith("val/") else 0)]
            charts.append(chart(title, curve, "optimizer step", note, start=0, logarithmic=logarithmic))
    return {"charts": charts, "legend": [(curve.name, curve.kind) for curve in losses]}


def chosen_step(config: Mapping[str, Any]) -> str:
    """Return which optimizer step of a run the weights are from, in a sentence; "" if it is not known."""
    step, validation = config.get("step"), config.get("validation")
    if not isinstance(step, int):
        return ""
    chosen = ""
    if isinstance(validation, dict) and isinstance(validation.get("mse"), float):
        chosen = f", chosen by validation (MSE {validation['mse']:,.2f}), not by the scores above"
    return f"The weights are those of optimizer step {step:,}{chosen}."


def _values(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]] | None:
    """Return steps and values logged under a name, thinned out; None if there are fewer than two."""
    points = [
        (float(values["step"]), float(values[key]))
        for values in metrics
        if isinstance(values.get(key), int | float) and math.isfinite(values[key])
    ]
    if len(points) < 2:
        return None
    size = math.ceil(len(points) / MAX_POINTS)
    groups = [points[n : n + size] for n in range(0, len(points), size)]
    return [group[-1][0] for group in groups], [math.fsum(y for _, y in g) / len(g) for g in groups]
