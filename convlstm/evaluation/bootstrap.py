"""From rows to scores: means, standard errors, and 95% intervals by the bootstrap over sequences.

Letters: N sequences, T horizon, M metrics, K thresholds, R resamples. A resample draws N sequences with
replacement; how often each was drawn is a row of a matrix, whose product with the rows is all sums at once.
Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3 (percentile intervals).
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor

from convlstm.evaluation.metrics import Contingency
from convlstm.evaluation.protocols import Protocol
from convlstm.evaluation.results import PredictorScores, Score, ThresholdScores
from convlstm.evaluation.rows import Rows

RESAMPLES, SEED = 1000, 0
TOGETHER = 2**20  # draws that are made at a time
TAIL = 0.025  # of each side of an interval


def scores_of(
    name: str,
    rows: Rows,
    protocol: Protocol,
    thresholds: tuple[float, ...],
    span: float | None = None,
    resamples: int = RESAMPLES,
) -> PredictorScores:
    """Return the scores that a protocol asks for, as far as the predictor has them.

    Args:
        name: of the predictor.
        rows: what was measured.
        protocol: whose columns decide.
        thresholds: those of the rows' counts, in the unit that is shown.
        span: what lies between the physical values of pixels 0 and 1; None (default) if these have no unit.
        resamples: of the bootstrap; 0 for no intervals, whose ends are nan then.
    """
    values = math.prod(rows.frame)
    found = dict(zip(rows.names, _mean_scores(rows.metrics, resamples), strict=True))
    metrics = {}
    for column in protocol.columns:
        # Sums over a frame, of which pixel means are a part, and those in a unit a multiple.
        whole = column.name.replace("_pixel", "").replace("_physical", "")
        if whole not in found or (column.physical and span is None):
            continue
        scale = (span or 1) ** column.physical / values
        metrics[column.name] = found[whole] if whole == column.name else _scaled(found[whole], scale)
    found_at = _threshold_scores(rows.counts, thresholds, resamples)
    return PredictorScores(name=name, metrics=metrics, thresholds=found_at)


def resampled_sums(values: Tensor, resamples: int = RESAMPLES) -> Tensor:
    """Return (R, F), the sums over each resample of the sequences of values (N, F), float64.

    The resamples are the same ones at each call with as many sequences.
    """
    return torch.cat([counts @ values for counts in _draws(len(values), resamples)])


def _draws(sequences: int, resamples: int) -> Iterator[Tensor]:
    """Yield how often each resample draws each sequence: float64 (some of R, N)."""
    generator = torch.Generator().manual_seed(SEED)
    for number in torch.arange(resamples).split(max(TOGETHER // sequences, 1)):
        drawn = torch.randint(sequences, (len(number), sequences), generator=generator)
        counts = torch.zeros(drawn.shape, dtype=torch.float64)
        yield counts.scatter_add_(1, drawn, torch.ones_like(counts))


def _mean_scores(metrics: Tensor, resamples: int) -> list[Score]:
    """Return the score of each metric of rows (M, N, T)."""
    M, N = metrics.shape[:2]
    sums = resampled_sums(rearrange(metrics, "m n t -> n (m t)"), resamples)
    resampled = rearrange(sums / N, "r (m t) -> r m t", m=M)
    per_frame = metrics.mean(dim=1)  # (M, T)
    of_sequences = metrics.mean(dim=2)  # (M, N)
    errors = of_sequences.std(dim=1) / math.sqrt(N) if N > 1 else torch.full((M,), math.nan)
    return _scores(per_frame.mean(dim=1), errors, resampled.mean(dim=2), per_frame, resampled, N)


def _threshold_scores(
    counts: Contingency, thresholds: tuple[float, ...], resamples: int
) -> tuple[ThresholdScores, ...]:
    """Return the scores of counts (K, N, T)."""
    if not thresholds:
        return ()
    K, N = counts.hits.shape[:2]
    rows = rearrange(torch.stack(counts), "kind k n t -> n (kind k t)")
    draws = Contingency(
        *rearrange(resampled_sums(rows, resamples), "r (kind k t) -> kind r k t", kind=3, k=K)
    )
    frames = Contingency(*reduce(torch.stack(counts), "kind k n t -> kind k t", "sum"))
    whole, whole_draws = (Contingency(*(count.sum(dim=-1) for count in c)) for c in (frames, draws))
    no_errors = torch.full((K,), math.nan)
    scores = {
        name: _scores(ratio(whole), no_errors, ratio(whole_draws), ratio(frames), ratio(draws), N)
        for name, ratio in RATIOS.items()
    }
    result = []
    for k, threshold in enumerate(thresholds):
        values: dict[str, Any] = {name: found[k] for name, found in scores.items()}
        values |= {kind: int(count[k]) for kind, count in whole._asdict().items()}
        result.append(ThresholdScores(threshold=threshold, **values))
    return tuple(result)


RATIOS = {
    "csi": Contingency.csi,
    "pod": Contingency.pod,
    "far": Contingency.far,
    "bias": Contingency.bias,
}


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
    """Return the ends, of the draws (R, ...) that are no nan; nan for a single sequence, or without draws."""
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
