"""From rows to an evaluation: means, standard errors, and 95% intervals by the bootstrap over sequences.

Letters: N sequences, T horizon, M metrics, K thresholds, R resamples. A resample draws N sequences with
replacement. How often it draws each is a row of a matrix, whose product with the rows is all sums at once.
Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3 (percentile intervals).
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor

from convlstm.evaluation.metrics import Contingency
from convlstm.evaluation.protocols import RATIOS, Protocol
from convlstm.evaluation.results import Evaluation, Examples, PredictorScores, Score, ThresholdScores
from convlstm.evaluation.rows import Rows

RESAMPLES, SEED = 1000, 0
DRAWS = 2**20  # that are made at a time
TAIL = 0.025  # of each side of an interval


def summarize(
    rows: Mapping[str, Rows],
    context: int,
    protocol: Protocol,
    *,
    thresholds: tuple[float, ...] = (),
    value_range: tuple[float, float] = (0.0, 1.0),
    unit: str = "",
    resamples: int = RESAMPLES,
) -> Evaluation:
    """Return the evaluation of what `measure` found.

    Args:
        rows: by the names of the predictors, the model first, then the baselines.
        context: number of frames that they were given.
        protocol: which metrics to report.
        thresholds: those of the rows' counts, in the unit. Default: none.
        value_range: the physical values of pixels 0 and 1. Default: (0, 1).
        unit: of these values. Default: none.
        resamples: of the bootstrap. Default: 1,000. Without any there are no intervals, and it is cheap.
    """
    span = value_range[1] - value_range[0] if unit else None
    model, *baselines = (
        _predictor_scores(name, found, protocol, thresholds, span, resamples) for name, found in rows.items()
    )
    measured = next(iter(rows.values()))
    _, sequences, horizon = measured.metrics.shape
    order = measured.metrics[measured.names.index("mse")].mean(dim=1).argsort(stable=True).tolist()
    return Evaluation(
        protocol=protocol,
        sequences=sequences,
        context=int(context),
        horizon=horizon,
        frame=measured.frame,
        value_range=value_range,
        unit=unit,
        model=model,
        baselines=tuple(baselines),
        examples=Examples(best=order[0], median=order[(sequences - 1) // 2], worst=order[-1]),
    )


def resampled_sums(values: Tensor, resamples: int = RESAMPLES) -> Tensor:
    """Return (R, F), the sums over each resample of the sequences of values (N, F), float64.

    The resamples are the same at each call with the same number of sequences.
    """
    sequences, sums = len(values), []
    generator = torch.Generator().manual_seed(SEED)
    for numbers in torch.arange(resamples).split(max(DRAWS // sequences, 1)):
        drawn = torch.randint(sequences, (len(numbers), sequences), generator=generator)
        counts = torch.zeros(drawn.shape, dtype=torch.float64)  # how often each sequence is drawn
        sums.append(counts.scatter_add_(1, drawn, torch.ones_like(counts)) @ values)
    return torch.cat(sums)


def _predictor_scores(
    name: str,
    rows: Rows,
    protocol: Protocol,
    thresholds: tuple[float, ...],
    span: float | None,
    resamples: int,
) -> PredictorScores:
    """Return those scores of a protocol that a predictor has; `span` is None without a unit."""
    values = math.prod(rows.frame)
    found = dict(zip(rows.names, _mean_scores(rows.metrics, resamples), strict=True))
    metrics = {}
    for column in protocol.columns:
        # Pixel means are a part of the sums over a frame, and those in a unit a multiple of these.
        summed = column.name.replace("_pixel", "").replace("_physical", "")
        if summed not in found and summed != "cross_entropy":
            raise ValueError(f"protocol has {column.name}; evaluation/rows.py measures {', '.join(found)}")
        if summed not in found or (column.physical and span is None):
            continue
        scale = (span or 1) ** column.physical / values
        metrics[column.name] = found[summed] if summed == column.name else _scaled(found[summed], scale)
    at_thresholds = _threshold_scores(rows.counts, thresholds, resamples)
    return PredictorScores(name=name, metrics=metrics, thresholds=at_thresholds)


def _mean_scores(metrics: Tensor, resamples: int) -> list[Score]:
    """Return the score of each metric of rows (M, N, T)."""
    M, N = metrics.shape[:2]
    sums = resampled_sums(rearrange(metrics, "m n t -> n (m t)"), resamples)
    resampled = rearrange(sums / N, "r (m t) -> r m t", m=M)
    per_frame = metrics.mean(dim=1)  # (M, T)
    per_sequence = metrics.mean(dim=2)  # (M, N)
    errors = per_sequence.std(dim=1) / math.sqrt(N) if N > 1 else torch.full((M,), math.nan)
    return _scores(per_frame.mean(dim=1), errors, resampled.mean(dim=2), per_frame, resampled, N)


def _threshold_scores(
    counts: Contingency, thresholds: tuple[float, ...], resamples: int
) -> tuple[ThresholdScores, ...]:
    """Return the scores of counts (K, N, T)."""
    if not thresholds:
        return ()
    K, N = counts.hits.shape[:2]
    rows = rearrange(torch.stack(counts), "kind k n t -> n (kind k t)")
    sums = resampled_sums(rows, resamples)
    draws = Contingency(*rearrange(sums, "r (kind k t) -> kind r k t", kind=3, k=K))
    frames = Contingency(*reduce(torch.stack(counts), "kind k n t -> kind k t", "sum"))
    whole, whole_draws = (Contingency(*(count.sum(dim=-1) for count in c)) for c in (frames, draws))
    no_errors = torch.full((K,), math.nan)
    scores = {}
    for name in RATIOS:
        means, mean_draws, curves, curve_draws = (
            getattr(summed, name)() for summed in (whole, whole_draws, frames, draws)
        )
        scores[name] = _scores(means, no_errors, mean_draws, curves, curve_draws, N)
    result = []
    for k, threshold in enumerate(thresholds):
        values: dict[str, Any] = {name: found[k] for name, found in scores.items()}
        values |= {kind: int(count[k]) for kind, count in whole._asdict().items()}
        result.append(ThresholdScores(threshold=threshold, **values))
    return tuple(result)


def _scores(
    means: Tensor, errors: Tensor, draws: Tensor, curves: Tensor, curve_draws: Tensor, n: int
) -> list[Score]:
    """Return S scores: means and errors (S,), draws (R, S), curves (S, T), curve_draws (R, S, T)."""
    low, high = _intervals(torch.cat([draws[..., None], curve_draws], dim=2), n)  # (S, 1 + T) each
    return [
        Score(
            mean=means[s].item(),
            stderr=errors[s].item(),
            low=low[s, 0].item(),
            high=high[s, 0].item(),
            per_frame=tuple(curves[s].tolist()),
            per_frame_low=tuple(low[s, 1:].tolist()),
            per_frame_high=tuple(high[s, 1:].tolist()),
        )
        for s in range(len(means))
    ]


def _intervals(draws: Tensor, sequences: int) -> tuple[Tensor, Tensor]:
    """Return the interval's ends, of draws (R, ...) without nan; nan for one sequence or no draws."""
    if sequences == 1 or not len(draws):
        nothing = torch.full(draws.shape[1:], math.nan)
        return nothing, nothing
    low, high = torch.nanquantile(draws, torch.tensor([TAIL, 1 - TAIL], dtype=draws.dtype), dim=0)
    return low, high


def _scaled(score: Score, factor: float) -> Score:
    scaled: dict[str, Any] = {
        name: tuple(v * factor for v in value) if isinstance(value, tuple) else value * factor
        for name, value in vars(score).items()
    }
    return Score(**scaled)
