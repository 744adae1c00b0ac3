"""The evaluation of predictors over a set of sequences, beside baselines, under a stated protocol."""

from convlstm.evaluation.baselines import BASELINES, copy_last, mean_frame, translate
from convlstm.evaluation.evaluating import evaluate
from convlstm.evaluation.protocols import METRICS, OPENSTL, PROTOCOLS, STRICT, Metric, Protocol
from convlstm.evaluation.results import Evaluation, Examples, PredictorScores, Score, ThresholdScores
from convlstm.evaluation.scores import Scores, evaluate_all, format_scores
from convlstm.evaluation.sources import Predict, Source
from convlstm.evaluation.tables import format_evaluation

__all__ = [
    "BASELINES",
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
    "format_evaluation",
    "format_scores",
    "mean_frame",
    "translate",
]
