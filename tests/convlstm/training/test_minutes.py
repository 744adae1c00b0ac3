"""How many steps fit into so many minutes, by a clock of the tests' own."""

from types import SimpleNamespace

import pytest

from convlstm.training import minutes
from convlstm.training.minutes import BLOCK, COUNTED, SPARE, TRIAL, Allowance


class Clock:
    """Stands still between what the tests let pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 0.0
        monkeypatch.setattr(minutes, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def trial(self, allowance: Allowance, seconds: float, done: int = 0) -> None:
        """Let the trial's steps pass, each in so many seconds."""
        for step in range(done + 1, TRIAL + 1):
            self.now += seconds
            assert allowance.ends_trial() == (step == TRIAL)


def test_a_run_ends_inside_its_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    allowance = Allowance(20, fixed=False)
    clock.now += 60.0  # of a compiler, say
    clock.trial(allowance, 0.05)
    with allowance.validating():
        clock.now += 8.0
    steps = allowance.steps(TRIAL, validations=5)
    end = clock.now + (steps - TRIAL) * 0.05 + 5 * 8.0
    assert end <= 20 * 60
    assert end + 0.05 >= 20 * 60 - SPARE * 20 * 60


def test_steps_that_take_longer_later_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    allowance = Allowance(20, fixed=False)
    clock.trial(allowance, 0.05)
    steps = allowance.steps(TRIAL, 0, more=0.03)  # half of them as the trial's, half 0.06 more
    end = 0.05 * steps / 2 + 0.11 * steps / 2
    assert 20 * 60 * (1 - SPARE) <= end <= 20 * 60


def test_what_settles_and_what_interrupts_is_not_taken_for_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    allowance = Allowance(10, fixed=False)
    clock.now += 30.0
    for number in range(TRIAL - 1):
        settled = number >= TRIAL - BLOCK * COUNTED
        clock.now += 0.1 if settled and number not in (130, 131) else 1.0
        assert not allowance.ends_trial()
    clock.now += 0.1
    assert allowance.ends_trial()
    assert allowance.steps(TRIAL, 0) == TRIAL + int((1 - SPARE) * (600 - clock.now) / 0.1 + 1e-6)


def test_what_comes_again_and_again_is_taken_for_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    allowance = Allowance(10, fixed=False)
    for number in range(TRIAL):
        clock.now += 0.6 if number % 10 == 9 else 0.1  # every tenth step is logged
        assert allowance.ends_trial() == (number == TRIAL - 1)
    left = (1 - SPARE) * (600 - clock.now)
    assert allowance.steps(TRIAL, 0) == pytest.approx(TRIAL + left / 0.15, abs=1)


def test_a_run_that_was_stopped_in_its_trial_has_one_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first step is slow, as that of every process, and what was done before counts by the speed."""
    clock = Clock(monkeypatch)
    allowance = Allowance(10, fixed=False)
    clock.now += 40.0
    assert not allowance.ends_trial()
    clock.trial(allowance, 0.5, done=1)
    before = 190
    left = (1 - SPARE) * (600 - clock.now - before * 0.5)
    assert allowance.steps(before + TRIAL, 0) == before + TRIAL + int(left / 0.5)


def test_minutes_that_the_trial_used_up_leave_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    allowance = Allowance(1, fixed=False)
    clock.trial(allowance, 0.5)
    assert allowance.steps(TRIAL, 5) == TRIAL + 1


@pytest.mark.parametrize("allowance", [Allowance(None, fixed=False), Allowance(1.0, fixed=True)])
def test_nothing_is_fixed_without_minutes_or_twice(allowance: Allowance) -> None:
    assert not any(allowance.ends_trial() for _ in range(2 * TRIAL))


def test_after_the_trial_nothing_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    allowance = Allowance(10, fixed=False)
    clock.trial(allowance, 0.1)
    allowance.steps(TRIAL, 0)
    assert not any(allowance.ends_trial() for _ in range(2 * TRIAL))
