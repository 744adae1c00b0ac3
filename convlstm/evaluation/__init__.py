"""The evaluation of predictors over a set of sequences, beside baselines, under a stated protocol."""

from convlstm.evaluation.baselines import BASELINES, copy_last, mean_frame, translate
from convlstm.evaluation.evaluating import evaluate
from convlstm.evaluation.protocols import METRICS, OPENSTL, PROTOCOLS, STRICT, TRAINING, Metric, Protocol
from convlstm.evaluation.results import Evaluation, Examples, PredictorScores, Score, ThresholdScores
from convlstm.evaluation.rows import Rows, measure
from convlstm.evaluation.sources import Predict, Source
from convlstm.evaluation.summary import RESAMPLES, summarize
from convlstm.evaluation.tables import format_evaluation

__all__ = [
    "BASELINES",
    "METRICS",
    "OPENSTL",
    "PROTOCOLS",
    "RESAMPLES",
    "STRICT",
    "TRAINING",
    "Evaluation",
    "Examples",
    "Metric",
    "Predict",
    "PredictorScores",
    "Protocol",
    "Rows",
    "Score",
    "Source",
    "ThresholdScores",
    "copy_last",
    "evaluate",
    "format_evaluation",
    "mean_frame",
    "measure",
    "summarize",
    "translate",
]
