"""A run of so many minutes: how many steps fit, from the speed of the first ones."""

import time
from collections import deque

TRIAL = 200  # steps that measure the speed
LEAST_STEPS = 4000  # that set the schedules in the trial, which is then no more than their beginning
COUNTED = 100  # of the trial's steps, the last: compilers and caches have settled
FORWARD = 1 / 3  # of a training step's time, to forecast as many sequences
SPARE = 0.02  # share of the time that is left for saved states and for what a machine does beside


class Allowance:
    """The minutes of a run; its clock starts when it is made.

    Args:
        minutes: for all steps and validations, or None: then nothing is ever fixed.
    """

    def __init__(self, minutes: float | None):
        self._minutes = minutes
        self._start = time.perf_counter()
        self._ends = deque([self._start], maxlen=COUNTED + 1)  # of steps

    def ends_trial(self, step: int) -> bool:
        """Note that a step (1, 2, ...) is done; whether it is the one after which the steps are fixed."""
        if self._minutes is None or step > TRIAL:
            return False
        self._ends.append(time.perf_counter())
        return step == TRIAL

    def steps(self, validated: float) -> int:
        """Return how many steps the whole run has, those of the trial included.

            steps = TRIAL + ((1 - SPARE) * left - FORWARD * validated * second) / second

        with the seconds that are left and those that a step takes, both by the clock.

        Args:
            validated: sequences scored in all validations together, in batches of a step.

        Raises:
            ValueError: no more than the trial fits.
        """
        assert self._minutes is not None
        second = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        # Of a trial that was interrupted this process's clock knows only the end.
        spent = max(time.perf_counter() - self._start, TRIAL * second)
        left = (1 - SPARE) * (60 * self._minutes - spent)
        more = int(left / second - FORWARD * validated)
        if more < 1:
            needed = (spent + (FORWARD * validated + 1) * second / (1 - SPARE)) / 60
            raise ValueError(
                f"minutes is {self._minutes:g}, but its first {TRIAL} steps, which measure the speed, took "
                f"{spent / 60:.2g}; it needs {needed:.2g} or more, or --steps in its place"
            )
        return TRIAL + more
