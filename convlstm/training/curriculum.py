"""What the steps of a run train on: shorter sequences and smaller frames first, which take less time."""

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import NamedTuple

SMALL_SHARE = 3, 4  # of the height and width of a frame, so much is left in a small one


class Stage(NamedTuple):
    """A part of a run.

    Attributes:
        context: frames that are given.
        horizon: frames that are to be predicted.
        small: whether frames are smaller, by `SMALL_SHARE`.
    """

    context: int
    horizon: int
    small: bool

    @property
    def work(self) -> int:
        """The pixels that a step trains on, times a number that all stages share."""
        part, whole = SMALL_SHARE
        return (self.context + self.horizon) * (part if self.small else whole) ** 2

    def __str__(self) -> str:
        part, whole = SMALL_SHARE
        smaller = f", {part}/{whole} as high and wide" if self.small else ""
        return f"{self.context} + {self.horizon} frames{smaller}"


class Curriculum:
    """The stages of a run of so many steps.

    Shares are of the run's work, the pixels that it trains on, and not of its steps: those that are shorter
    or smaller take less, and so more of them make up a share. Schedules follow the work, too.

    Args:
        steps: of the run.
        context: frames that are given.
        horizon: frames that are to be predicted.
        short: share of the work, at the beginning, with half the context and half the horizon.
        small: share of the work, at the beginning as well, on small frames.
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
        self._lengths = [end - start for start, end in pairwise([*self._starts, steps])]
        works = [n * stage.work for n, stage in zip(self._lengths, self._stages, strict=True)]
        self._done = [0, *accumulate(works)]
        self._steps = steps

    def stage(self, step: int) -> Stage:
        """Return what a step (0 to steps - 1) trains on."""
        return self._stages[self._number(step)]

    def done(self, step: int) -> float:
        """Return the work done before a step, in mean steps: as many as there are steps make up the run."""
        number = self._number(step)
        work = self._done[number] + (step - self._starts[number]) * self._stages[number].work
        return work * self._steps / self._done[-1]

    def mean_above_first(self, seconds: Callable[[int], float]) -> float:
        """Return by how much the mean step of the run takes longer than its first.

        Args:
            seconds: gives what a step takes; called for the first one of each stage, if there are several.
        """
        if len(self._stages) == 1:
            return 0.0
        first, *others = map(seconds, self._starts)
        more = (n * (other - first) for n, other in zip(self._lengths[1:], others, strict=True))
        return sum(more) / self._steps

    def told(self, batch_size: int) -> str:
        """Say how many sequences are of which kind; nothing if all are of one."""
        if len(self._stages) == 1:
            return ""
        kinds = zip(self._lengths, self._stages, strict=True)
        counts = "; ".join(f"{n * batch_size:,} of {stage}" for n, stage in kinds)
        equal = round(self._done[-1] * batch_size / self._stages[-1].work)
        return f"{counts}: as many pixels as {equal:,} of the last kind"

    def _number(self, step: int) -> int:
        return bisect_right(self._starts, step) - 1
