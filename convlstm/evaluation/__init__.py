"""The evaluation of predictors over a set of sequences, beside baselines, under a stated protocol."""

from convlstm.evaluation.baselines import BASELINES, copy_last
from convlstm.evaluation.evaluating import evaluate
from convlstm.evaluation.protocols import OPENSTL, PROTOCOLS, STRICT, TRAINING
from convlstm.evaluation.results import Evaluation, Score
from convlstm.evaluation.rows import Rows, measure
from convlstm.evaluation.sources import Predict, Source
from convlstm.evaluation.summary import RESAMPLES, summarize
from convlstm.evaluation.tables import format_evaluation

__all__ = [
    "BASELINES",
    "OPENSTL",
    "PROTOCOLS",
    "RESAMPLES",
    "STRICT",
    "TRAINING",
    "Evaluation",
    "Predict",
    "Rows",
    "Score",
    "Source",
    "copy_last",
    "evaluate",
    "format_evaluation",
    "measure",
    "summarize",
]
