import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch.testing import assert_close

from convlstm.metrics import mae, mse, psnr, ssim

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


@pytest.mark.parametrize("data_range", [1.0, 2.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_ssim_against_skimage(shape: tuple[int, ...], data_range: float):
    prediction, target = clips(shape)
    expected = each_frame(
        lambda p, t: structural_similarity(p, t, data_range=data_range, channel_axis=-1), prediction, target
    )
    assert_close(ssim(prediction, target, data_range), expected, rtol=0, atol=1e-9)


def test_ssim_of_dark_and_flat_frames_against_skimage():
    # Where the variances vanish, rounding in the moments would show.
    target = torch.zeros(1, 3, 1, 16, 15)
    target[:, 1] = 0.9
    target[:, 2, :, 4:9, 3:11] = 1.0
    prediction = target + 1e-3 * torch.randn(target.shape)
    expected = each_frame(
        lambda p, t: structural_similarity(p, t, data_range=1.0, channel_axis=-1), prediction, target
    )
    assert_close(ssim(prediction, target), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_psnr_against_skimage(shape: tuple[int, ...]):
    prediction, target = clips(shape)
    expected = each_frame(lambda p, t: peak_signal_noise_ratio(t, p, data_range=1.0), prediction, target)
    assert_close(psnr(prediction, target), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("shape", [*SHAPES, (2, 3, 2, 5, 4)])
def test_mse_and_mae_are_unclipped_sums_over_a_frame(shape: tuple[int, ...]):
    prediction, target = clips(shape)
    difference = prediction.double().numpy() - target.double().numpy()
    assert_close(mse(prediction, target), torch.from_numpy(np.square(difference).sum(axis=(2, 3, 4))))
    assert_close(mae(prediction, target), torch.from_numpy(np.abs(difference).sum(axis=(2, 3, 4))))


def test_constant_frames_by_hand():
    prediction, target = torch.full((1, 2, 3, 8, 7), 1.5), torch.full((1, 2, 3, 8, 7), 0.5)
    both = torch.ones(1, 2, dtype=torch.float64)
    assert_close(mse(prediction, target), 168.0 * both)  # 3 * 8 * 7 values, 1.0 off
    assert_close(mae(prediction, target), 168.0 * both)
    assert_close(psnr(prediction, target), -10 * math.log10(0.25) * both)  # clipped: 0.5 off
    # No variance: what is left is the comparison of the means, 1.0 and 0.5 after clipping.
    assert_close(ssim(prediction, target), (1.0 + 1e-4) / (1.25 + 1e-4) * both)
    assert_close(ssim(prediction, target, 2.0), (1.0 + 4e-4) / (1.25 + 4e-4) * both)


def test_identical_frames():
    clip = torch.rand(2, 1, 1, 9, 7)
    one = torch.ones(2, 1, dtype=torch.float64)
    assert_close(mse(clip, clip), 0 * one)
    assert_close(mae(clip, clip), 0 * one)
    assert_close(ssim(clip, clip), one)
    assert_close(psnr(clip, clip), 100 * one)


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


@pytest.mark.parametrize("metric", [mse, mae, psnr, ssim])
def test_shapes_that_do_not_fit(metric):
    with pytest.raises(
        ValueError, match=r"prediction has shape \(1, 2, 1, 8, 8\), target has \(1, 3, 1, 8, 8\)"
    ):
        metric(torch.zeros(1, 2, 1, 8, 8), torch.zeros(1, 3, 1, 8, 8))
    with pytest.raises(ValueError, match=r"\(2, 8, 8\); they need \(B, T, C, H, W\)"):
        metric(torch.zeros(2, 8, 8), torch.zeros(2, 8, 8))
    with pytest.raises(ValueError, match="a frame needs pixels"):
        metric(torch.zeros(1, 2, 0, 8, 8), torch.zeros(1, 2, 0, 8, 8))


def test_ssim_errors():
    with pytest.raises(ValueError, match="frames are 6x8 pixels; SSIM needs 7x7 or more"):
        ssim(torch.zeros(1, 2, 1, 6, 8), torch.zeros(1, 2, 1, 6, 8))
    for data_range in (0.0, math.nan):
        with pytest.raises(ValueError, match="data_range is"):
            ssim(torch.zeros(1, 2, 1, 8, 8), torch.zeros(1, 2, 1, 8, 8), data_range)
