"""Runs that are killed, stopped and damaged at random moments, and resumed, beside an undisturbed one.

    python tests/chaos/chaos.py --write                  105 faults of all kinds, about a quarter of an hour;
                                                         the table is written for the documentation
    python tests/chaos/chaos.py --faults 1000 --seed 1

A tiny run is trained undisturbed, alone and by two processes. Then it is trained again and again while faults
happen to it at random moments. After each fault the run is resumed, and its output, its exit status and the
number of lost steps are checked. At its end the weights, the newest state (network, average, optimizer,
progress), metrics.jsonl, TensorBoard's log, the scores and the GIFs must equal those of the undisturbed run,
bit for bit; only speed and memory may differ. The exit status is 1 if anything is lost.

It needs Linux. RLIMIT_FSIZE, which lets no file grow beyond a size, stands for a full disk.
"""

import argparse
import ctypes
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the checkout's folders are used, uninstalled
# For the processes that are started: one thread each, and a progress bar that shows each step.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TQDM_MININTERVAL": "0"}
os.environ |= {"PYTHONUNBUFFERED": "1"}
from benchmarks.timing import add_write, markdown, write_measured
from tests.chaos import faults
from tests.chaos.disturbed import TIMEOUT, DisturbedRun, Wrong, differences, left_by
from tests.chaos.faults import FAULTS, Fault

TINY = (
    "--preset tiny --device cpu --bfloat16 off --batch-size 2 --context 2 --horizon 2 --validations 3 "
    "--test-sequences 8 --validation-sequences 4 --data.image-size 32 --model.hidden-channels 4 4 "
    "--save-minutes 0.002"
)
STEPS = {1: 90, 2: 60}  # of a run, by the number of its processes
MOMENTS = 0.3  # seconds of training within which a fault comes
EARLY = 0.15  # share of the early faults that come before the first step
START = 4.0  # seconds after a process's start within which these come


class Chaos:
    """Series of faults, and what came of them, by the names of the faults.

    Args:
        folder: Folder of the runs.
        seed: Seed of the random moments.

    Attributes:
        runs: Number of runs so far.
        count: How often a fault happened.
        resumes: How often the run was resumed from a state afterwards.
        lost_steps: The most steps that had to be done again.
        lost_runs: How often the run did not do what it must, or ended otherwise than the undisturbed one.
    """

    def __init__(self, folder: Path, seed: int):
        self._folder, self._random, self.runs = folder, random.Random(seed), 0
        self.count, self.resumes, self.lost_steps, self.lost_runs = (Counter[str]() for _ in range(4))

    def series(self, kinds: list[Fault], processes: int) -> None:
        """Let faults happen to runs of so many processes."""

        def new_run(name: str) -> DisturbedRun:
            return DisturbedRun(self._folder, name, TINY.split(), STEPS[processes], processes)

        undisturbed = new_run(f"undisturbed-{processes}")
        undisturbed.start()
        undisturbed.end(0)
        wanted = left_by(undisturbed.path)
        left = list(kinds)
        while left:
            self.runs += 1
            run, met = new_run(f"run-{self.runs}"), []
            try:
                while left and self._happens(left[0], run, met):
                    met.append(left.pop(0).name)
                run.start()
                run.end(0)
                if found := differences(left_by(run.path), wanted):
                    raise Wrong(f"differs in {len(found)} places: {', '.join(found[:5])}")
                print(f"{run.path.name}: equal, after {len(met)} faults", flush=True)
            except (Wrong, OSError, ValueError, LookupError, subprocess.TimeoutExpired) as wrong:
                if left:  # the fault that was about to happen
                    met.append(left.pop(0).name)
                self.lost_runs[met[-1]] += 1
                print(f"{run.path.name}: LOST, after {', '.join(met)}: {wrong}", flush=True)
                if run.pid and run.code is None:
                    os.killpg(run.pid, signal.SIGKILL)
            self.count.update(met)

    def _happens(self, fault: Fault, run: DisturbedRun, met: list[str]) -> bool:
        """Let a fault happen, however often it misses; return False if the run ends before it."""
        while True:
            early = fault.early and run.ended and not run.expected_output and self._random.random() < EARLY
            if run.ended and met:
                self.resumes[met[-1]] += bool(run.states)
            run.start()
            if not early and not run.wait(TIMEOUT, lambda: bool(run.steps_shown())):
                return False
            if not run.wait(self._random.uniform(0, START if early else MOMENTS)):
                return False
            lost = fault.act(run, self._random)
            if lost is not None:
                self.lost_steps[fault.name] = max(self.lost_steps[fault.name], lost)
                print(f"{run.path.name}: {fault.name}; {lost} steps again", flush=True)
                return True

    def table(self) -> str:
        """Return what happened as Markdown."""
        head = ["fault", "times", "resumed", "steps done again, at most", "runs lost"]
        counters = (self.count, self.resumes, self.lost_steps, self.lost_runs)
        rows = [[f.name, *(str(c[f.name]) for c in counters)] for f in FAULTS if self.count[f.name]]
        most = max(self.lost_steps.values(), default=0)
        totals = [self.count.total(), self.resumes.total(), most, self.lost_runs.total()]
        return markdown(head, [*rows, ["all", *map(str, totals)]])


def obey_permissions() -> bool:
    """Return whether folders can be made read-only for the processes that this one starts.

    Root may write into read-only folders; the right to do so is taken from the processes that it starts.
    """
    if os.geteuid() != 0:
        return True
    drop = ctypes.CDLL(None).prctl  # 24 is PR_CAPBSET_DROP; CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    return all(drop(24, capability, 0, 0, 0) == 0 for capability in (1, 2))


def main(arguments: list[str] | None = None) -> int:
    """Let the faults happen, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=105, help="number of faults (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: %(default)s)")
    add_write(parser)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or the processes might ignore it
    shuffled = random.Random(options.seed)
    alone = [fault for fault in FAULTS if fault.processes == 1]
    several = [fault for fault in FAULTS if fault.processes > 1]
    if not obey_permissions():
        print("root may write into read-only folders: that fault is left out")
        alone = [fault for fault in alone if fault.act is not faults.read_only]
    # Those of several processes are slow: each of them as often as one in 35.
    slow = (several * options.faults)[: 3 * (options.faults // 35)]
    fast = (alone * options.faults)[: options.faults - len(slow)]
    with tempfile.TemporaryDirectory() as folder:
        chaos = Chaos(Path(folder), options.seed)
        for kinds, processes in ((fast, 1), (slow, 2)):
            shuffled.shuffle(kinds)
            if kinds:
                chaos.series(kinds, processes)
    print(f"\n{chaos.table()}\n")
    if lost := chaos.lost_runs.total():
        print(f"{lost} of {chaos.runs} runs lost something")
        return 1
    print(f"nothing was lost: {chaos.runs} runs ended as the undisturbed one, bit for bit")
    if options.write:
        write_measured("reliability", chaos.table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
