"""A run of so many minutes: how many steps fit, from the speed of the first ones."""

import contextlib
import time
from collections import deque
from collections.abc import Iterator

import numpy as np

TRIAL = 200  # steps that measure the speed
LEAST_STEPS = 4000  # that set the schedules in the trial, which is then no more than their beginning
BLOCK, COUNTED = 10, 10  # steps, of which one is logged, and blocks of them that count, the trial's last
SLOWEST = 1  # of these blocks that are left out: a saved state, or what disturbs a machine, was in between
SPARE = 0.02  # share of the time that is left for what a machine does beside


class Allowance:
    """The minutes of a run; its clock starts when it is made, by each process that goes on with the run.

    Args:
        minutes: for all steps and validations, or None: then nothing is ever fixed.
        fixed: whether the steps were fixed before.
    """

    def __init__(self, minutes: float | None, fixed: bool):
        self._minutes = None if fixed else minutes
        self._start, self._done = time.perf_counter(), 0
        self._validation = 0.0  # seconds
        self._ends: deque[float] = deque(maxlen=BLOCK * COUNTED + 1)  # of steps

    def ends_trial(self) -> bool:
        """Note that a step is done; whether it is the one after which the steps are to be fixed."""
        if self._minutes is None:
            return False
        self._done += 1
        self._ends.append(time.perf_counter())
        return self._done == TRIAL

    @contextlib.contextmanager
    def validating(self) -> Iterator[None]:
        """Note how long a validation takes, which is done in here."""
        start = time.perf_counter()
        yield
        self._validation = time.perf_counter() - start

    def steps(self, step: int, validations: int, more: float = 0.0) -> int:
        """Return how many steps the whole run has; called once, when one validation was done after the trial.

            steps = (step * second + (1 - SPARE) * left - validations * validation) / (second + more)

        with the seconds that are left and those that a validation and a step of the trial take, all by the
        clock. At least one step is left, which ends the schedules.

        Args:
            step: the trial's last step; of a run that was stopped in its trial, more than this process did.
            validations: that are to come.
            more: seconds that a step of the run takes more, in the mean, than one of the trial.
        """
        assert self._minutes is not None
        now = time.perf_counter()
        blocks = np.sort(np.diff(np.array(self._ends)[::BLOCK])) / BLOCK
        second = float(blocks[:-SLOWEST].mean())
        spent = now - self._start + (step - self._done) * second
        left = (1 - SPARE) * (60 * self._minutes - spent) - validations * self._validation
        self._minutes = None
        return max(step + 1, int((step * second + left) / (second + more)))
