import numpy as np
import pytest
import torch
from skimage.registration import phase_cross_correlation
from torch.testing import assert_close

from convlstm.evaluation import BASELINES, copy_last
from convlstm.evaluation.baselines import mean_frame, motion, translate


def test_copies_and_means_of_the_context():
    context = torch.rand(2, 3, 2, 5, 4)
    mean = (context[:, 0] + context[:, 1] + context[:, 2]) / 3
    assert_close(copy_last(context, 4), context[:, 2:].expand(2, 4, 2, 5, 4))
    assert_close(mean_frame(context, 4), mean[:, None].expand(2, 4, 2, 5, 4))


def moving(shift: tuple[int, int], length: int, channels: int) -> torch.Tensor:
    """Return (T, C, 40, 33): a square of noise that moves by a shift a frame and may leave."""
    frames = torch.zeros(length, channels, 100, 93)
    square = torch.rand(channels, 7, 6)
    for t in range(length):
        y, x = 44 + t * shift[0], 42 + t * shift[1]
        frames[t, :, y : y + 7, x : x + 6] = square
    return frames[:, :, 30:70, 30:63]


@pytest.mark.parametrize("channels", [1, 3])
def test_what_moves_on_is_extrapolated_exactly(channels: int):
    shifts = [(0, 0), (2, 3), (-3, 1), (1, -5), (-4, -2)]
    clips = torch.stack([moving(shift, 9, channels) for shift in shifts])  # a motion of its own for each
    assert motion(clips[:, 1], clips[:, 2]).tolist() == [list(shift) for shift in shifts]
    assert_close(translate(clips[:, :3], 6), clips[:, 3:], rtol=0, atol=0)


def test_motion_against_skimage():
    before = torch.rand(6, 1, 17, 24)
    after = torch.stack([x.roll((n - 3, 2 * n - 5), (1, 2)) for n, x in enumerate(before)])
    after += 0.1 * torch.rand(after.shape)
    for x, y, found in zip(before, after, motion(before, after).tolist(), strict=True):
        # The shift that brings the second image onto the first, so the motion turned round.
        expected, _, _ = phase_cross_correlation(x[0].numpy(), y[0].numpy(), normalization="phase")
        assert found == (-np.asarray(expected)).tolist()


def test_a_motion_that_cannot_be_known_is_none():
    empty = torch.zeros(2, 2, 1, 9, 8)
    assert motion(empty[:, 0], empty[:, 1]).tolist() == [[0, 0], [0, 0]]
    context = torch.rand(2, 1, 1, 9, 8)  # of a single frame
    assert_close(translate(context, 3), copy_last(context, 3))


@pytest.mark.parametrize("baseline", BASELINES.values())
def test_any_length_and_any_type(baseline):
    for dtype in (torch.float32, torch.float64):
        forecast = baseline(torch.rand(2, 3, 1, 5, 4, dtype=dtype), 7)
        assert forecast.shape == (2, 7, 1, 5, 4)
        assert forecast.dtype == dtype
    with pytest.raises(ValueError, match="horizon is 0"):
        baseline(torch.rand(2, 3, 1, 5, 4), 0)
    for shape in ((2, 3, 5, 4), (2, 0, 1, 5, 4)):
        with pytest.raises(ValueError, match="context has shape"):
            baseline(torch.rand(shape), 1)
