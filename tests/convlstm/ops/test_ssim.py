"""The compiled similarity of frames against scikit-image and against its definition in torch's operations."""

import math

import pytest
import torch
from skimage.metrics import structural_similarity
from torch.testing import assert_close

from convlstm.evaluation.metrics import ssim

similarities = pytest.importorskip("convlstm.ops.kernels.cpu_ssim").similarities

SHAPES = [(2, 3, 1, 64, 64), (1, 1, 1, 7, 7), (3, 2, 3, 9, 13), (1, 4, 2, 31, 8), (1, 2, 1, 7, 150)]


@pytest.mark.parametrize("shape", SHAPES)
def test_against_skimage_and_torch(shape: tuple[int, ...]):
    target = torch.rand(shape, dtype=torch.float64)
    prediction = (target + 0.3 * torch.randn(shape)).clamp(0, 1)
    for data_range, found in zip((1.0, 2.0), similarities(prediction, target, (1.0, 2.0)), strict=True):
        assert_close(found, ssim(prediction, target, data_range), rtol=0, atol=1e-12)
        expected = structural_similarity(
            prediction[0, 0].numpy(), target[0, 0].numpy(), data_range=data_range, channel_axis=0
        )
        assert_close(found[0, 0].item(), expected, rtol=0, atol=1e-9)


def test_dark_and_flat_frames_below_bright_ones_against_skimage():
    # Rows are added to sums and taken away again: where they vanish, what is left would show.
    target = torch.zeros(1, 3, 1, 40, 15, dtype=torch.float64)
    target[:, 1] = 0.9
    target[:, 2, :, :12] = torch.rand(12, 15)
    prediction = (target + 1e-3 * torch.randn(target.shape)).clamp(0, 1)
    prediction[:, 2, :, 12:] = 0
    [found] = similarities(prediction, target, (1.0,))
    for t in range(3):
        expected = structural_similarity(prediction[0, t, 0].numpy(), target[0, t, 0].numpy(), data_range=1.0)
        assert_close(found[0, t].item(), expected, rtol=0, atol=1e-9)


def test_frames_that_are_not_laid_out_as_they_are_named():
    still = torch.rand(2, 1, 2, 9, 11, dtype=torch.float64).expand(-1, 3, -1, -1, -1)
    turned = torch.rand(11, 9, 2, 3, 2, dtype=torch.float64).permute(4, 3, 2, 1, 0)
    [found] = similarities(still, turned, (1.0,))
    assert_close(found, ssim(still, turned), rtol=0, atol=1e-12)


def test_not_a_number_is_not_hidden():
    prediction, target = torch.rand(2, 1, 3, 1, 8, 8, dtype=torch.float64)
    prediction[0, 1, 0, 4, 4] = math.nan
    [found] = similarities(prediction, target, (1.0,))
    assert found.isnan().tolist() == [[False, True, False]]
