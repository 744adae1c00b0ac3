"""The evaluation of predictors over a set of sequences, beside baselines, under a stated protocol."""

from convlstm.evaluation.protocols import METRICS, OPENSTL, PROTOCOLS, STRICT, Metric, Protocol
from convlstm.evaluation.results import Evaluation, Examples, PredictorScores, Score, ThresholdScores
from convlstm.evaluation.scores import (
    Predict,
    Scores,
    Source,
    copy_last,
    evaluate,
    evaluate_all,
    format_scores,
)

__all__ = [
    "METRICS",
    "OPENSTL",
    "PROTOCOLS",
    "STRICT",
    "Evaluation",
    "Examples",
    "Metric",
    "Predict",
    "PredictorScores",
    "Protocol",
    "Score",
    "Scores",
    "Source",
    "ThresholdScores",
    "copy_last",
    "evaluate",
    "evaluate_all",
    "format_scores",
]
