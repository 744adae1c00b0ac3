"""What an evaluation found, to JSON and back.

    {
      "schema": 1,
      "protocol": {"name": "strict", "average": "over all frames of all sequences",
                   "columns": [{"name": "mse", "label": "MSE", "per": "sum", "clipped": false,
                                "data_range": null, "better": "lower", "decimals": 2, "physical": 0}, ...],
                   "note": "the conventions in words"},
      "checkpoint": "runs/NAME", "clips": "clips.npy",   null where python -m convlstm evaluate was not run
      "command": "python -m convlstm evaluate ...", "versions": {"python": "3.12.1", "torch": ..., ...},
      "sequences": 1000, "context": 10, "horizon": 10,
      "frame": [1, 64, 64],                              C, H, W
      "value_range": [0.0, 1.0], "unit": "",             the physical values of pixels 0 and 1
      "model": {
        "name": "StackedForecaster",
        "metrics": {"mse": SCORE, ...},                  those of the protocol; "cross_entropy" only of
                                                         probabilities, "..._physical" only with a unit
        "thresholds": [{"threshold": 0.5,                in the unit; observed or forecast at or above it
                        "hits": 812, "misses": 90, "false_alarms": 120,    values of the whole set
                        "csi": SCORE, "pod": SCORE, "far": SCORE, "bias": SCORE}, ...]
      },
      "baselines": [{"name": "copy last frame", "metrics": ..., "thresholds": ...}, ...],
      "examples": {"best": 17, "median": 402, "worst": 3}  numbers of sequences, by the model's MSE
    }

A SCORE is {"mean", "stderr", "low", "high", "per_frame", "per_frame_low", "per_frame_high"}: numbers, and
for each frame of the horizon, nearest first, lists of them. low and high are the 95% bootstrap interval over
sequences. What is undefined or infinite is null (in Python nan): intervals and standard errors of a single
sequence, a ratio whose denominator is 0, the standard error of any ratio.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convlstm.core.files import jsonable
from convlstm.evaluation.protocols import METRICS, Protocol

__all__ = ["SCHEMA", "Evaluation", "Examples", "PredictorScores", "Score", "ThresholdScores"]

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Score:
    """One metric of one predictor; nan where it is undefined."""

    mean: float
    """Over all frames of all sequences; of a ratio, that of the sums over all of them."""
    stderr: float
    """Standard error of the mean over the sequences."""
    low: float
    """Lower end of the 95% bootstrap interval over sequences; `high` the upper."""
    high: float
    per_frame: tuple[float, ...]
    """`mean` of each frame of the horizon, nearest first; the two below alike."""
    per_frame_low: tuple[float, ...]
    per_frame_high: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ThresholdScores:
    """How often values at or above a threshold were forecast where they came to be."""

    threshold: float
    """In the unit of the evaluation."""
    hits: int
    """Values at or above it that were forecast so, of all frames of all sequences."""
    misses: int
    """Values at or above it that were not forecast so."""
    false_alarms: int
    """Values forecast at or above it that were below."""
    csi: Score
    """Critical success index, hits / (hits + misses + false alarms); 1 is best."""
    pod: Score
    """Probability of detection, hits / (hits + misses); 1 is best."""
    far: Score
    """False alarm ratio, false alarms / (hits + false alarms); 0 is best."""
    bias: Score
    """Frequency bias, (hits + false alarms) / (hits + misses); 1 is best."""


@dataclass(frozen=True, kw_only=True)
class PredictorScores:
    """All metrics of one predictor."""

    name: str
    metrics: Mapping[str, Score]
    """By the names in `convlstm.evaluation.METRICS`, those of the protocol that the predictor has."""
    thresholds: tuple[ThresholdScores, ...] = ()

    def __getitem__(self, metric: str) -> Score:
        return self.metrics[metric]

    def summary(self) -> dict[str, Any]:
        """Return means and curves as one flat dict of what JSON knows, as a training run keeps them.

        The keys are those of `metrics` (the mean), each with "_per_frame", and "mse_stderr".
        """
        values: dict[str, Any] = {name: score.mean for name, score in self.metrics.items()}
        values |= {f"{name}_per_frame": score.per_frame for name, score in self.metrics.items()}
        return jsonable(values | {"mse_stderr": self["mse"].stderr})


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Numbers of sequences in the source, by the mean squared error of the model on them."""

    best: int
    median: int
    worst: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `convlstm.evaluate` found; the fields are those of the JSON, which see."""

    protocol: Protocol
    sequences: int
    context: int
    horizon: int
    frame: tuple[int, int, int]
    """C, H, W."""
    value_range: tuple[float, float]
    """The physical values that pixels 0 and 1 stand for."""
    unit: str
    """Of the physical values, such as "mm/h"; "" where the source names none."""
    model: PredictorScores
    baselines: tuple[PredictorScores, ...]
    examples: Examples
    checkpoint: str | None = None
    clips: str | None = None
    command: str | None = None
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation as what JSON knows, None for what is no finite number."""
        return jsonable({"schema": SCHEMA, **dataclasses.asdict(self), "protocol": self.protocol.to_dict()})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Evaluation":
        """Return the evaluation that `to_dict` made a dict of.

        Raises:
            ValueError: another schema, a protocol that is unknown, or fields that are missing or unknown.
        """
        if values.get("schema") != SCHEMA:
            raise ValueError(f"schema is {values.get('schema')!r}; this version reads {SCHEMA}")
        try:
            return cls(
                **{name: value for name, value in values.items() if name not in ("schema", *_READ)},
                **{name: read(values[name]) for name, read in _READ.items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"an evaluation has wrong or missing fields: {error}") from error


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _score(values: Mapping[str, Any]) -> Score:
    numbers: dict[str, Any] = {
        name: tuple(map(_number, value)) if isinstance(value, list) else _number(value)
        for name, value in values.items()
    }
    return Score(**numbers)


def _threshold(values: Mapping[str, Any]) -> ThresholdScores:
    read: dict[str, Any] = {n: _score(v) if isinstance(v, Mapping) else v for n, v in values.items()}
    return ThresholdScores(**read)


def _predictor(values: Mapping[str, Any]) -> PredictorScores:
    return PredictorScores(
        name=values["name"],
        metrics={_RENAMED.get(name, name): _score(score) for name, score in values["metrics"].items()},
        thresholds=tuple(_threshold(scores) for scores in values["thresholds"]),
    )


def _protocol(values: Mapping[str, Any]) -> Protocol:
    names = [_RENAMED.get(column["name"], column["name"]) for column in values["columns"]]
    if not set(names) <= METRICS.keys():
        raise ValueError(f"protocol has columns {', '.join(names)}; known are {', '.join(METRICS)}")
    return Protocol(
        name=values["name"],
        average=values["average"],
        note=values["note"],
        columns=tuple(METRICS[name] for name in names),
    )


_RENAMED = {"bce": "cross_entropy"}  # in files of earlier versions
_READ = {
    "protocol": _protocol,
    "frame": tuple,
    "value_range": tuple,
    "model": _predictor,
    "baselines": lambda values: tuple(map(_predictor, values)),
    "examples": lambda values: Examples(**values),
}
