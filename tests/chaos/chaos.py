"""Runs that are killed, stopped and damaged at random moments, and resumed, beside an undisturbed one.

    python tests/chaos/chaos.py                          105 faults of all kinds, about a quarter of an hour
    python tests/chaos/chaos.py --faults 1000 --seed 1
    python tests/chaos/chaos.py --faults 24 --fork       without torchrun, a minute

A tiny run is trained undisturbed, alone and by two processes. Then it is trained again and again while faults
happen to it at random moments; after each it is resumed, and what it must have said, its exit status and the
steps that are to be done again are checked. At its end the weights, the newest state (network, average,
optimizer, progress), metrics.jsonl, TensorBoard's log, the scores and the GIFs must be equal, bit for bit,
to those of the undisturbed run; only speed and memory may differ. Exits with 1 if anything is lost.

It needs Linux. A full disk is played by RLIMIT_FSIZE, which lets no file grow beyond a size.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the checkout's folders are used, uninstalled
# Before torch and tqdm are imported, by this process and by those that it starts: a bar that shows each step.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TQDM_MININTERVAL": "0"}
os.environ |= {"PYTHONUNBUFFERED": "1"}
from tests.chaos import permissions

if __name__ == "__main__":
    permissions.obey()  # before the imports, which take long and are made anew after it
from benchmarks.timing import markdown
from tests.chaos import faults
from tests.chaos.disturbed import differences, left_by, prepare_forks
from tests.chaos.faults import KINDS, Kind, Life, Wrong

TINY = (
    "--preset tiny --device cpu --bfloat16 off --batch-size 2 --context 2 --horizon 2 --validations 3 "
    "--test-sequences 8 --validation-sequences 4 --data.image-size 32 --model.hidden-channels 4 4 "
    "--save-minutes 0.002"
)
STEPS = {1: 90, 2: 60}  # of a run alone, and by two processes
MOMENTS = 0.3  # seconds of training within which a fault comes
EARLY = 0.15  # share of the signals that come earlier, within so many seconds of a process's start:
START = {False: 4.0, True: 0.3}  # of Python, and of a fork


class Chaos:
    """A series of faults.

    Args:
        folder: for the runs.
        seed: of the random moments.
        fork: see `disturbed.Process`.
    """

    def __init__(self, folder: Path, seed: int, fork: bool):
        self._folder, self._random, self._fork = folder, random.Random(seed), fork
        self.count, self.resumes, self.again = Counter[str](), Counter[str](), Counter[str]()
        self.lost = Counter[str]()
        self.runs = 0

    def _life(self, name: str, processes: int) -> Life:
        steps = STEPS[processes]
        return Life(self._folder, name, TINY.split(), steps, processes, self._fork)

    def series(self, kinds: list[Kind], processes: int) -> None:
        """Let faults happen to runs of so many processes."""
        undisturbed = self._life(f"undisturbed-{processes}", processes)
        code, output = undisturbed.end()
        if code:
            raise SystemExit(f"the undisturbed run failed: {output}")
        wanted = left_by(undisturbed.run)
        left = list(kinds)
        while left:
            self.runs += 1
            life, met = self._life(f"run-{self.runs}", processes), []
            try:
                while left and self._happens(left[0], life, met):
                    met.append(left.pop(0).name)
                    self.count[met[-1]] += 1
                code, output = life.end()
                if code:
                    raise Wrong(f"exit status {code}: {output}")
                found = differences(left_by(life.run), wanted)
                if found:
                    raise Wrong(f"differs in {len(found)} places: {', '.join(found[:5])}")
                print(f"{life.run.name}: equal, after {len(met)} faults", flush=True)
            except (Wrong, OSError, ValueError, LookupError) as wrong:  # TimeoutError is an OSError
                if left:  # it was at this one
                    met.append(left.pop(0).name)
                    self.count[met[-1]] += 1
                culprit = met[-1]
                self.lost[culprit] += 1
                print(f"{life.run.name}: LOST, after {', '.join(met)}: {wrong}", flush=True)
                if life.process is not None and life.process.code is None:
                    os.killpg(life.process.pid, signal.SIGKILL)

    def _happens(self, kind: Kind, life: Life, met: list[str]) -> bool:
        """Let a fault happen, however often it misses; return False where the run ends before it."""
        while True:
            if life.process is None and met:
                self.resumes[met[-1]] += bool(life.states)
            early = kind.early and life.process is None and not life.says and self._random.random() < EARLY
            process = life.go_on()
            if not early and not process.until(partial(process.trains, life.steps)):
                return False
            if not process.pause(self._random.uniform(0, START[self._fork] if early else MOMENTS)):
                return False
            again = kind.act(life, self._random)
            if again is not None:
                self.again[kind.name] = max(self.again[kind.name], again)
                print(f"{life.run.name}: {kind.name}; {again} steps again", flush=True)
                return True

    def table(self) -> str:
        """Return what happened as Markdown."""
        head = ["fault", "times", "resumed", "steps done again, at most", "runs lost"]
        rows = [
            [k.name, *(str(c[k.name]) for c in (self.count, self.resumes, self.again, self.lost))]
            for k in KINDS
            if self.count[k.name] or self.lost[k.name]
        ]
        totals = [
            self.count.total(),
            self.resumes.total(),
            max(self.again.values(), default=0),
            self.lost.total(),
        ]
        return markdown(head, [*rows, ["all", *map(str, totals)]])


def main(arguments: list[str] | None = None) -> int:
    """Let the faults happen, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=105)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fork", action="store_true", help="fork processes in place of starting them")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or what is started might ignore it
    shuffled = random.Random(options.seed)
    alone = [kind for kind in KINDS if kind.processes == 1]
    several = [] if options.fork else [kind for kind in KINDS if kind.processes > 1]
    if not permissions.hold():
        print("root may write into read-only folders: that fault is left out")
        alone = [kind for kind in alone if kind.act is not faults.read_only]
    # Those of several processes are slow: each of them as often as one in 35.
    slow = (several * options.faults)[: 3 * (options.faults // 35)]
    fast = (alone * options.faults)[: options.faults - len(slow)]
    if options.fork:
        prepare_forks()
    with tempfile.TemporaryDirectory() as folder:
        chaos = Chaos(Path(folder), options.seed, options.fork)
        for kinds, processes in ((fast, 1), (slow, 2)):
            shuffled.shuffle(kinds)
            chaos.series(kinds, processes)
    print(f"\n{chaos.table()}\n")
    lost = chaos.lost.total()
    print(
        f"{lost} of {chaos.runs} runs lost something"
        if lost
        else f"nothing was lost: {chaos.runs} runs ended as the undisturbed one, bit for bit"
    )
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
