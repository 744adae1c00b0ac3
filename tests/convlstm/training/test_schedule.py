"""Schedules worked out by hand, and those of torch."""

import math

import pytest
import torch

from convlstm import training


def test_cosine_rises_in_a_line_and_falls_along_half_a_cosine() -> None:
    factors = [training.lr_factor(step, 100, "cosine", 0.2) for step in range(100)]
    assert factors[:3] == pytest.approx([0.025, 0.075, 0.125])
    assert max(factors) == pytest.approx(1, abs=1e-3)
    assert factors[60] == pytest.approx((1 + math.cos(math.pi * 0.405 / 0.8)) / 2)
    assert 0 < factors[-1] < 1e-3


def test_one_cycle_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=1000, cycle_momentum=False)
    for step in range(999):
        ours = training.lr_factor(step, 1000, "one-cycle", 0.3)
        assert ours == pytest.approx(theirs.get_last_lr()[0], abs=5e-3)  # ours is at the middle of a step
        optimizer.step()
        theirs.step()


def test_schedules_stretch() -> None:
    short = [training.lr_factor(step, 10, "one-cycle", 0.3) for step in range(10)]
    long = [training.lr_factor(3 * step + 1, 30, "one-cycle", 0.3) for step in range(10)]
    assert short == pytest.approx(long)  # the middles of the steps coincide


def test_no_warm_up() -> None:
    assert training.lr_factor(0, 1000, "cosine", 0.0) == pytest.approx(1, abs=1e-5)


def test_a_part_ends_as_often_as_there_are_parts() -> None:
    assert [step for step in range(8) if training.ends_part(step, 7, 3)] == [3, 5, 7]
    assert [step for step in range(4) if training.ends_part(step, 3, 5)] == [1, 2, 3]
