"""How many steps fit into so many minutes, by a clock of the tests' own."""

from types import SimpleNamespace

import pytest

from convlstm.training import minutes
from convlstm.training.minutes import COUNTED, FORWARD, SPARE, TRIAL, Allowance


class Clock:
    """Stands still between what the tests let pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 0.0
        monkeypatch.setattr(minutes, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def trial(self, allowance: Allowance, seconds: float, first: int = 1) -> None:
        """Let the trial's steps pass, each in so many seconds."""
        for step in range(first, TRIAL + 1):
            self.now += seconds
            assert allowance.ends_trial(step) == (step == TRIAL)


def test_a_run_ends_inside_its_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    allowance = Allowance(20)
    clock.now += 60.0  # of a compiler, say
    clock.trial(allowance, 0.05)
    validated = 5 * 200 / 4
    steps = allowance.steps(validated)
    left = (steps - TRIAL + FORWARD * validated) * 0.05
    assert clock.now + left <= 20 * 60
    assert clock.now + left + 0.05 >= 20 * 60 - SPARE * 20 * 60


def test_what_settles_at_first_is_not_taken_for_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    allowance = Allowance(10)
    clock.now += 30.0
    for step in range(1, TRIAL - COUNTED + 1):
        clock.now += 1.0
        assert not allowance.ends_trial(step)
    clock.trial(allowance, 0.1, first=TRIAL - COUNTED + 1)
    assert allowance.steps(0) == TRIAL + int((1 - SPARE) * (600 - clock.now) / 0.1)


def test_a_trial_that_was_interrupted_counts_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    allowance = Allowance(10)
    clock.trial(allowance, 0.5, first=TRIAL - 9)  # the last ten steps
    assert allowance.steps(0) == TRIAL + int((1 - SPARE) * (600 - TRIAL * 0.5) / 0.5)


def test_minutes_that_the_trial_used_up_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    allowance = Allowance(1)
    clock.trial(allowance, 0.5)
    with pytest.raises(
        ValueError, match=r"minutes is 1, but its first 200 steps.* took 1\.7; it needs 1\.7 or"
    ):
        allowance.steps(0)


def test_without_minutes_nothing_is_fixed() -> None:
    allowance = Allowance(None)
    assert not any(allowance.ends_trial(step) for step in range(1, 2 * TRIAL))


def test_after_the_trial_nothing_is_fixed() -> None:
    assert not any(Allowance(1.0).ends_trial(step) for step in range(TRIAL + 1, 2 * TRIAL))
