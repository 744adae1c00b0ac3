"""What the steps of a run train on: shorter sequences and smaller frames first, which take less time."""

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import NamedTuple

SMALL = 3, 4  # of the height and width of a frame, so much is left in a small one


class Stage(NamedTuple):
    """A part of a run.

    Attributes:
        context: frames that are given.
        horizon: frames that are to be predicted.
        small: whether frames are smaller, by `SMALL`.
    """

    context: int
    horizon: int
    small: bool

    @property
    def work(self) -> int:
        """What a step takes, in pixels times a number that all stages share."""
        one, whole = SMALL if self.small else (1, 1)
        return (self.context + self.horizon) * one**2 * SMALL[1] ** 2 // whole**2


class Curriculum:
    """The stages of a run of so many steps.

    Shares are of the run's work, the pixels that it trains on, and not of its steps: those that are shorter
    or smaller take less, and so more of them make up a share. Schedules follow the work, too.

    Args:
        steps: of the run.
        context: frames that are given.
        horizon: frames that are to be predicted.
        short: share of the work, at the beginning, with half the context and half the horizon.
        small: share of the work, at the beginning, on small frames.
    """

    def __init__(self, steps: int, context: int, horizon: int, short: float, small: float):
        bounds = sorted({0.0, short, small, 1.0})
        self._stages = [
            Stage(
                max(1, context // 2) if start < short else context,
                max(1, horizon // 2) if start < short else horizon,
                start < small,
            )
            for start in bounds[:-1]
        ]
        weights = [
            (end - start) / stage.work
            for (start, end), stage in zip(pairwise(bounds), self._stages, strict=True)
        ]
        ends = [round(steps * part / sum(weights)) for part in accumulate(weights)]
        self._starts = [0, *ends[:-1]]
        lengths = [end - start for start, end in pairwise([*self._starts, steps])]
        works = [n * stage.work for n, stage in zip(lengths, self._stages, strict=True)]
        self._done = [0, *accumulate(works)]
        self._steps = steps

    def stage(self, step: int) -> Stage:
        """Return what a step (0 to steps - 1) trains on."""
        return self._stages[self._number(step)]

    def done(self, step: int) -> float:
        """Return the work done before a step, where that of the whole run is the number of its steps."""
        number = self._number(step)
        work = self._done[number] + (step - self._starts[number]) * self._stages[number].work
        return work * self._steps / self._done[-1]

    def above_first(self, of: Callable[[int], float]) -> float:
        """Return by how much the mean step of the run is above its first.

        Args:
            of: gives what is compared, such as seconds, of a step; called for the first one of each stage, if
                there are several.
        """
        if len(self._starts) == 1:
            return 0.0
        first, *others = map(of, self._starts)
        ends = [*self._starts[2:], self._steps]
        steps = (end - start for start, end in zip(self._starts[1:], ends, strict=True))
        return sum(n * (other - first) for n, other in zip(steps, others, strict=True)) / self._steps

    def _number(self, step: int) -> int:
        return bisect_right(self._starts, step) - 1
