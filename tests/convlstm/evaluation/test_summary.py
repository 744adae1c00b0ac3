import math

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap
from torch.testing import assert_close

from convlstm.evaluation import RESAMPLES, STRICT, Rows, summarize
from convlstm.evaluation.metrics import Contingency
from convlstm.evaluation.protocols import Metric, Protocol
from convlstm.evaluation.results import PredictorScores
from convlstm.evaluation.summary import resampled_sums

MEASURED = ("mse", "mae", "mse_clipped", "mae_clipped", "ssim", "ssim_range2", "psnr", "cross_entropy")


def rows(sequences: int, horizon: int = 3, thresholds: int = 1) -> Rows:
    metrics = torch.rand(len(MEASURED), sequences, horizon, dtype=torch.float64) ** 2
    counts = torch.randint(0, 50, (3, thresholds, sequences, horizon)).double()
    return Rows(MEASURED, metrics, Contingency(*counts), (1, 8, 8))


def scores_of(found: Rows) -> PredictorScores:
    return summarize({"model": found}, 10, STRICT, thresholds=(0.5,)).model


def test_a_resample_is_as_many_sequences_drawn_with_replacement():
    counts = resampled_sums(torch.eye(7, dtype=torch.float64))  # how often each sequence was drawn
    assert counts.shape == (RESAMPLES, 7)
    assert (counts.sum(dim=1) == 7).all()
    assert (counts == counts.round()).all()
    assert_close(counts.mean(dim=0), torch.ones(7, dtype=torch.float64), rtol=0, atol=0.15)
    assert_close(counts.var(dim=0).mean().item(), 6 / 7, rtol=0.1, atol=0)  # binomial
    assert_close(resampled_sums(torch.eye(7, dtype=torch.float64)), counts, rtol=0, atol=0)


def test_intervals_against_scipy():
    found = rows(200)
    score = scores_of(found)["mse"]
    for low, high, values in (
        (score.low, score.high, found.metrics[0].mean(dim=1)),
        (score.per_frame_low[1], score.per_frame_high[1], found.metrics[0, :, 1]),
    ):
        expected = bootstrap(
            (values.numpy(),), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(0)
        ).confidence_interval
        # Ends of 1,000 resamples scatter by some hundredths of the interval's width.
        assert_close([low, high], [*expected], rtol=0, atol=0.1 * (expected.high - expected.low))


def test_intervals_of_ratios_are_of_resampled_counts_a_brute_force_loop():
    found = rows(12)
    [at] = scores_of(found).thresholds
    draws = resampled_sums(torch.eye(12, dtype=torch.float64))
    hits, misses, false_alarms = (count[0].sum(dim=1) for count in found.counts)
    ratios = []
    for draw in draws:
        drawn = [n for n, times in enumerate(draw.tolist()) for _ in range(int(times))]
        h, m, f = (sum(float(kind[n]) for n in drawn) for kind in (hits, misses, false_alarms))
        ratios.append(h / (h + m + f))
    assert_close([at.csi.low, at.csi.high], np.quantile(ratios, [0.025, 0.975]).tolist())
    assert_close(at.csi.mean, float(hits.sum() / (hits + misses + false_alarms).sum()))


def test_sequences_alike_leave_no_doubt():
    alike = Rows(MEASURED, torch.full((len(MEASURED), 5, 2), 3.0).double(), rows(5, 2).counts, (1, 2, 2))
    score = scores_of(alike)
    assert_close([score["mse"].low, score["mse"].high, score["mse"].stderr], [3.0, 3.0, 0.0])
    assert_close(score["mse_pixel"].per_frame, (0.75, 0.75))


def test_what_is_no_number_has_no_interval():
    found = rows(5)
    found.metrics[0, 2, 1] = math.nan
    score = scores_of(found)["mse"]
    assert math.isnan(score.mean)
    assert math.isnan(score.low)
    assert not math.isnan(score.per_frame_low[0])


def test_a_metric_that_is_not_measured_raises():
    column = Metric(name="lpips", label="LPIPS", per="mean", clipped=True)
    with pytest.raises(ValueError, match="protocol has lpips"):
        summarize({"model": rows(2)}, 10, Protocol(name="mine", columns=(column,)))
