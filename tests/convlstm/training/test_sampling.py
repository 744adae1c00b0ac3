"""Scheduled sampling: a schedule in optimizer steps, draws by (seed, step, sequence) alone."""

import torch
from torch.testing import assert_close

import train
from convlstm.training.sampling import draw_use_target, true_frame_probability


def test_the_schedule_falls_in_a_line_to_zero() -> None:
    half, none = (train.Config(steps=8, teacher_forcing=fraction) for fraction in (0.5, 0.0))
    probabilities = [true_frame_probability(half, step) for step in (0, 1, 2, 4, 7)]
    assert probabilities == [1.0, 0.75, 0.5, 0.0, 0.0]
    assert true_frame_probability(none, 0) == 0.0


def test_a_draw_is_the_same_in_any_batch() -> None:
    whole = draw_use_target(0.5, 3, 17, torch.arange(100, 108), 10)
    assert whole.shape == (8, 9)
    assert whole.dtype == torch.bool
    part = draw_use_target(0.5, 3, 17, torch.tensor([105, 101]), 10)
    assert_close(part, whole[[5, 1]])


def test_draws_differ_with_seed_step_and_sequence() -> None:
    first = draw_use_target(0.5, 0, 0, torch.arange(50), 10)
    assert not torch.equal(first, draw_use_target(0.5, 1, 0, torch.arange(50), 10))
    assert not torch.equal(first, draw_use_target(0.5, 0, 1, torch.arange(50), 10))
    assert len({tuple(row.tolist()) for row in first}) > 40


def test_the_share_of_true_frames_is_the_probability() -> None:
    for probability in (0.0, 0.25, 1.0):
        share = draw_use_target(probability, 0, 5, torch.arange(4000), 11).double().mean().item()
        assert abs(share - probability) < 0.01  # 4.6 standard deviations at 0.25


def test_one_frame_needs_no_draw() -> None:
    assert draw_use_target(0.5, 0, 0, torch.arange(3), 1).shape == (3, 0)
