import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import xlog1py, xlogy
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch.testing import assert_close

from convlstm.evaluation.metrics import (
    Contingency,
    contingency,
    cross_entropy,
    mae,
    mse,
    psnr,
    ssim,
)

SHAPES = [(2, 3, 1, 64, 64), (1, 1, 1, 7, 7), (3, 2, 3, 9, 13), (1, 4, 2, 31, 8)]


def clips(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a target in [0, 1] and a prediction that is like it and leaves that range."""
    target = torch.rand(shape)
    return target + 0.3 * torch.randn(shape), target


def each_frame(function, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Apply a function of two (H, W, C) float64 arrays, clipped, to every frame: (B, T)."""
    frames = [x.clamp(0, 1).double().movedim(2, -1).numpy() for x in (prediction, target)]
    return torch.tensor(
        [[function(p, t) for p, t in zip(*pair, strict=True)] for pair in zip(*frames, strict=True)],
        dtype=torch.float64,
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_ssim_and_psnr_against_skimage(shape: tuple[int, ...]):
    prediction, target = clips(shape)
    for data_range in (1.0, 2.0):
        similarity = partial(structural_similarity, data_range=data_range, channel_axis=-1)
        expected = each_frame(similarity, prediction, target)
        assert_close(ssim(prediction, target, data_range), expected, rtol=0, atol=1e-9)
    expected = each_frame(lambda p, t: peak_signal_noise_ratio(t, p, data_range=1.0), prediction, target)
    assert_close(psnr(prediction, target), expected, rtol=1e-9, atol=0)


def test_ssim_of_dark_and_flat_frames_against_skimage():
    # Where the variances vanish, rounding in the moments would show.
    target = torch.zeros(1, 3, 1, 16, 15)
    target[:, 1] = 0.9
    target[:, 2, :, 4:9, 3:11] = 1.0
    prediction = target + 1e-3 * torch.randn(target.shape)
    similarity = partial(structural_similarity, data_range=1.0, channel_axis=-1)
    expected = each_frame(similarity, prediction, target)
    assert_close(ssim(prediction, target), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("shape", [*SHAPES, (2, 3, 2, 5, 4)])
def test_mse_and_mae_are_sums_over_a_frame_or_pixel_means(shape: tuple[int, ...], clipped: bool):
    prediction, target = clips(shape)
    forecast = prediction.double().numpy().clip(0, 1) if clipped else prediction.double().numpy()
    difference = forecast - target.double().numpy()
    for metric, expected in ((mse, np.square(difference)), (mae, np.abs(difference))):
        summed = torch.from_numpy(expected.sum(axis=(2, 3, 4)))
        assert_close(metric(prediction, target, clipped=clipped), summed)
        mean = metric(prediction, target, clipped=clipped, per_pixel=True)
        assert_close(mean, summed / math.prod(shape[2:]))


def test_cross_entropy_against_scipy():
    prediction, target = torch.rand(2, 3, 2, 9, 7), torch.rand(2, 3, 2, 9, 7)
    target[0] = target[0].round()
    p, y = prediction.double().numpy(), target.double().numpy()
    expected = -(xlogy(y, p) + xlog1py(1 - y, -p)).sum(axis=(2, 3, 4))
    assert_close(cross_entropy(prediction, target), torch.from_numpy(expected))


def test_cross_entropy_by_hand():
    half = torch.full((1, 1, 1, 8, 7), 0.5)
    assert_close(cross_entropy(half, half).item(), 56 * math.log(2))
    sure, right = torch.ones(1, 1, 1, 8, 7), torch.ones(1, 1, 1, 8, 7)
    assert_close(cross_entropy(sure, right).item(), -56 * math.log1p(-1e-6))
    assert_close(cross_entropy(sure, 0 * right).item(), -56 * math.log(1e-6))  # not infinite
    assert cross_entropy(1.5 * sure, right).isnan().all()


def test_contingency_counts_a_frame_at_a_time():
    prediction, target = clips((2, 3, 2, 4, 5))
    thresholds = [0.1, 0.35, 0.9]
    found = contingency(prediction, target, thresholds)
    for k, threshold in enumerate(thresholds):
        for b, t in itertools.product(range(2), range(3)):
            p, y = prediction[b, t] >= threshold, target[b, t] >= threshold
            counts = [int((p & y).sum()), int((~p & y).sum()), int((p & ~y).sum())]
            assert [count[k, b, t] for count in found] == counts
    assert [count.shape for count in contingency(prediction, target, [])] == 3 * [(0, 2, 3)]


def test_a_value_on_a_threshold_reaches_it_whatever_the_rounding():
    for low, high in ((0.0, 255.0), (-30.0, 70.0), (220.0, 320.0)):
        for number in range(1, 1001):
            threshold = low + (high - low) * number / 1000
            pixel = torch.full((1, 1, 1, 1, 1), (threshold - low) / (high - low), dtype=torch.float32)
            assert contingency(pixel, pixel, [(threshold - low) / (high - low)]).hits == 1
    below = torch.full((1, 1, 1, 1, 1), 32767 / 65535)  # one step of 16 bits
    assert contingency(below, below, [32768 / 65535]).hits == 0


def test_ratios_by_hand():
    counts = Contingency(*torch.tensor([[6.0, 0.0, 0.0, 0.0], [2.0, 3.0, 0.0, 0.0], [4.0, 0.0, 5.0, 0.0]]))
    assert_close(counts.csi(), torch.tensor([0.5, 0, 0, math.nan]), equal_nan=True)
    assert_close(counts.pod(), torch.tensor([0.75, 0, math.nan, math.nan]), equal_nan=True)
    assert_close(counts.far(), torch.tensor([0.4, math.nan, 1, math.nan]), equal_nan=True)
    assert_close(counts.bias(), torch.tensor([1.25, 0, math.nan, math.nan]), equal_nan=True)


def test_not_a_number_is_not_hidden():
    prediction, target = clips((1, 2, 1, 8, 8))
    prediction[0, 1, 0, 4, 4] = math.nan
    for metric in (mse, mae, psnr, ssim):
        assert metric(prediction, target).isnan().tolist() == [[False, True]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_types_are_summed_in_float64(dtype: torch.dtype):
    prediction, target = torch.zeros(1, 1, 1, 65, 63, dtype=dtype), torch.ones(1, 1, 1, 65, 63, dtype=dtype)
    assert_close(mse(prediction, target), torch.full((1, 1), 4095.0, dtype=torch.float64))


def test_non_contiguous_frames():
    prediction, target = clips((2, 3, 2, 9, 11))
    turned_prediction, turned_target = (
        x.transpose(0, 1).flip(-1).transpose(-1, -2) for x in (prediction, target)
    )
    for metric in (mse, mae, psnr, ssim):
        assert_close(metric(turned_prediction, turned_target), metric(prediction, target).T)


@pytest.mark.parametrize("metric", [mse, mae, psnr, ssim, cross_entropy])
def test_shapes_that_do_not_fit(metric):
    for shape, other, message in (
        ((1, 2, 1, 8, 8), (1, 3, 1, 8, 8), r"prediction has shape \(1, 2, 1, 8, 8\), target has \(1, 3,"),
        ((2, 8, 8), (2, 8, 8), r"have shape .*; they need \(B, T, C, H, W\), with pixels"),
        ((1, 2, 0, 8, 8), (1, 2, 0, 8, 8), r"have shape .*; they need \(B, T, C, H, W\), with pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            metric(torch.zeros(shape), torch.zeros(other))


def test_ssim_errors():
    with pytest.raises(ValueError, match="frames are 6x8 pixels; SSIM needs 7x7 or more"):
        ssim(torch.zeros(1, 2, 1, 6, 8), torch.zeros(1, 2, 1, 6, 8))
    for data_range in (0.0, math.nan):
        with pytest.raises(ValueError, match="data_range is"):
            ssim(torch.zeros(1, 2, 1, 8, 8), torch.zeros(1, 2, 1, 8, 8), data_range)
