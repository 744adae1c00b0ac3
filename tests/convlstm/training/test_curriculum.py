"""Shares of a run's work, counted in pixels, and the schedules that follow it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convlstm.training import SMALL_SHARE, Curriculum
from convlstm.training.minutes import LEAST_STEPS, TRIAL

PIXELS = {False: 1.0, True: (SMALL_SHARE[0] / SMALL_SHARE[1]) ** 2}


def works_of(curriculum: Curriculum, steps: int) -> list[float]:
    """What each step takes, in whole frames."""
    stages = [curriculum.stage(step) for step in range(steps)]
    return [(stage.context + stage.horizon) * PIXELS[stage.small] for stage in stages]


@given(st.integers(1, 10**12))
def test_without_stages_the_work_is_the_steps(step: int) -> None:
    curriculum = Curriculum(step + 1, 10, 7, 0.0, 0.0)
    assert curriculum.done(step) == step  # exactly, so that schedules are as they were
    assert curriculum.stage(0) == curriculum.stage(step) == (10, 7, False)
    assert curriculum.mean_above_first(lambda step: pytest.fail("nothing is compared")) == 0


def test_shares_are_of_the_work() -> None:
    steps = 10_000
    curriculum = Curriculum(steps, 10, 10, short=0.65, small=0.35)
    works = works_of(curriculum, steps)
    assert sorted(works) == works
    assert set(works) == {10 * 9 / 16, 10, 20}
    of = {work: works.count(work) * work / sum(works) for work in set(works)}
    assert of == pytest.approx({10 * 9 / 16: 0.35, 10: 0.3, 20: 0.35}, abs=1e-3)


@pytest.mark.parametrize(("short", "small"), [(0.65, 0.35), (0.3, 0.7), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 97])
def test_the_work_done_is_that_of_the_steps_before(steps: int, short: float, small: float) -> None:
    curriculum = Curriculum(steps, 7, 3, short, small)
    works = works_of(curriculum, steps)
    for step in range(steps):
        assert curriculum.done(step) == pytest.approx(sum(works[:step]) / sum(works) * steps)


def test_a_mean_step_beside_the_first() -> None:
    steps = 97
    curriculum = Curriculum(steps, 10, 10, short=0.65, small=0.35)
    works, asked = works_of(curriculum, steps), []

    def seconds(step: int) -> float:
        asked.append(step)
        return 3.0 + works[step]

    assert curriculum.mean_above_first(seconds) == pytest.approx(sum(works) / steps - works[0])
    assert len(asked) == 3


@pytest.mark.parametrize("shares", [(0.1, 0.0), (0.0, 0.1), (0.1, 0.1), (0.9, 0.1), (0.1, 0.9)])
def test_the_trial_lies_within_the_first_stage(shares: tuple[float, float]) -> None:
    curriculum = Curriculum(LEAST_STEPS, 10, 10, *shares)
    assert curriculum.stage(TRIAL) == curriculum.stage(0) != curriculum.stage(LEAST_STEPS - 1)


def test_how_many_sequences_are_of_which_kind_is_told() -> None:
    assert Curriculum(100, 10, 10, 0.0, 0.0).told(4) == ""
    assert Curriculum(150, 10, 7, 0.5, 0.0).told(4) == (
        "408 of 5 + 3 frames; 192 of 10 + 7 frames: as many pixels as 384 of the last kind"
    )
    assert "of 5 + 5 frames, 3/4 as high and wide; " in Curriculum(100, 10, 10, 0.5, 0.2).told(4)


def test_one_frame_has_no_half() -> None:
    assert Curriculum(5, 1, 1, short=1.0, small=0.0).stage(0) == (1, 1, False)
