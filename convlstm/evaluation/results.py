"""What an evaluation found, to JSON and back.

The JSON has the fields of `Evaluation` and of the classes in it by their names, beside "schema": 1, so that
["model"]["metrics"]["mse"]["mean"] is the model's mean squared error. What is undefined or infinite is null
there, and nan in Python: intervals and standard errors of a single sequence, a ratio whose denominator is 0,
the standard error of any ratio.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convlstm.core.files import jsonable
from convlstm.evaluation.protocols import METRICS, Protocol

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Score:
    """One metric of one predictor; nan where it is undefined."""

    mean: float
    """Mean over all frames of all sequences; of a ratio, the ratio of the counts summed over all of them."""
    stderr: float
    """Standard error of the mean over the sequences."""
    low: float
    """Lower end of the 95% bootstrap interval over sequences; `high` is the upper end."""
    high: float
    per_frame: tuple[float, ...]
    """The mean of each frame of the horizon, nearest first; so are the two below."""
    per_frame_low: tuple[float, ...]
    per_frame_high: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ThresholdScores:
    """How well a predictor forecasts which values reach a threshold."""

    threshold: float
    """The threshold, in the unit of the evaluation."""
    hits: int
    """Values observed and forecast at or above it, in all frames of all sequences."""
    misses: int
    """Values observed at or above it, forecast below."""
    false_alarms: int
    """Values forecast at or above it, observed below."""
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
    """The scores that the protocol asks for and the predictor has, by the names of the metrics, as "mse"."""
    thresholds: tuple[ThresholdScores, ...] = ()

    def __getitem__(self, metric: str) -> Score:
        return self.metrics[metric]

    def summary(self) -> dict[str, Any]:
        """Return means and curves as one flat dict for JSON, as a training run keeps them.

        The keys are those of `metrics` (the mean), each with "_per_frame", and "mse_stderr".
        """
        values: dict[str, Any] = {name: score.mean for name, score in self.metrics.items()}
        values |= {f"{name}_per_frame": score.per_frame for name, score in self.metrics.items()}
        return jsonable(values | {"mse_stderr": self["mse"].stderr})


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Numbers of the sequences on which the mean squared error of the model is lowest, median and highest."""

    best: int
    median: int
    worst: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `convlstm.evaluate` found; the fields are those of the JSON."""

    protocol: Protocol
    sequences: int
    context: int
    """Number of frames given."""
    horizon: int
    """Number of frames predicted."""
    frame: tuple[int, int, int]
    """Channels C, height H and width W of a frame."""
    value_range: tuple[float, float]
    """The physical values that pixels 0 and 1 stand for."""
    unit: str
    """Unit of the physical values, such as "mm/h"; "" where the source names none."""
    model: PredictorScores
    baselines: tuple[PredictorScores, ...]
    examples: Examples
    checkpoint: str | None = None
    """The network that python -m convlstm evaluate was given; None without it, as are the next two."""
    clips: str | None = None
    command: str | None = None
    """The whole command line."""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def predictors(self) -> tuple[PredictorScores, ...]:
        """The model, then the baselines."""
        return self.model, *self.baselines

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation as JSON has it, None for what is no finite number."""
        return jsonable({"schema": SCHEMA, **dataclasses.asdict(self)})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Evaluation":
        """Return the evaluation that `to_dict` made a dict of.

        Raises:
            ValueError: the schema or the protocol is unknown, or fields are missing or unknown.
        """
        if values.get("schema") != SCHEMA:
            raise ValueError(f"schema is {values.get('schema')!r}; this version reads {SCHEMA}")
        fields = {name: value for name, value in values.items() if name != "schema"}
        try:
            model, *baselines = map(_predictor, [values["model"], *values["baselines"]])
            return cls(
                **fields
                | {
                    "protocol": _protocol(values["protocol"]),
                    "frame": tuple(values["frame"]),
                    "value_range": tuple(values["value_range"]),
                    "model": model,
                    "baselines": tuple(baselines),
                    "examples": Examples(**values["examples"]),
                }
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"an evaluation has wrong or missing fields: {error}") from error


def _metric(name: str) -> str:
    return "cross_entropy" if name == "bce" else name  # as files of earlier versions call it


def _score(values: Mapping[str, Any]) -> Score:
    def number(value: Any) -> Any:
        return tuple(map(number, value)) if isinstance(value, list) else math.nan if value is None else value

    return Score(**{name: number(value) for name, value in values.items()})


def _predictor(values: Mapping[str, Any]) -> PredictorScores:
    thresholds: list[dict[str, Any]] = [
        {name: _score(value) if isinstance(value, Mapping) else value for name, value in each.items()}
        for each in values["thresholds"]
    ]
    return PredictorScores(
        name=values["name"],
        metrics={_metric(name): _score(score) for name, score in values["metrics"].items()},
        thresholds=tuple(ThresholdScores(**each) for each in thresholds),
    )


def _protocol(values: Mapping[str, Any]) -> Protocol:
    columns = tuple(METRICS[_metric(column["name"])] for column in values["columns"])
    return Protocol(name=values["name"], columns=columns, note=values["note"])
