"""What can happen to a training run: each kind of fault, and what must be true right after it."""

import os
import resource
import shutil
import signal
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from convlstm import training
from convlstm.core.files import PARTIAL
from tests.chaos.disturbed import PATIENCE, Process, step_of

RANKS_END = 60  # seconds after the death of one


class Wrong(Exception):
    """What a run did is not what it must do."""


class Life:
    """One run from its first step to its last, through as many processes, one after the other, as it takes.

    Args:
        folder: it goes to runs/NAME in it.
        name: of the run.
        options: of train.py, that a new run begins with.
        steps: of the whole run.
        processes: 1, or so many by torchrun.
        fork: see `Process`.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        options: Sequence[str],
        steps: int,
        processes: int = 1,
        fork: bool = False,
    ):
        self.folder, self.steps, self.processes, self.fork = folder, steps, processes, fork
        self.run = folder / "runs" / name
        self._options = [*options, "--name", name, "--steps", str(steps)]
        self.says = ""  # what the next process must say
        self.damaged: set[Path] = set()  # states
        self.process: Process | None = None
        self._start = 0  # the step of the state that the process began with

    @property
    def states(self) -> list[Path]:
        """The whole states that there are, the newest first."""
        return [path for path in training.states_of(self.run) if path not in self.damaged]

    @property
    def saved(self) -> int:
        """The step of the newest whole state; 0 where there is none."""
        return step_of(self.states[0]) if self.states else 0

    def start(self) -> Process:
        """Start a process that goes on with the run, or begins it where nothing was saved yet."""
        arguments = ["--resume", f"runs/{self.run.name}"]
        if not self.states:
            shutil.rmtree(self.run, ignore_errors=True)
            arguments = self._options
        if self.fork:  # TensorBoard reads files in the order of the whole second in which they were made
            while any(f".{int(time.time()):010}." in path.name for path in self.run.glob("events*")):
                time.sleep(0.01)
        return Process(arguments, self.folder, self.processes, self.fork)

    def go_on(self) -> Process:
        """Return the process that trains; start one if there is none."""
        if self.process is None:
            self._start = self.saved
            self.process = self.start()
        return self.process

    def end(self, seconds: float = PATIENCE) -> tuple[int, str]:
        """Wait for the end of the process; return its exit status and what it wrote."""
        process = self.go_on()
        code, self.process = process.end(seconds), None
        first = process.first_step(self.steps)
        if first and first not in (self._start, self._start + 1):  # the former where it did none
            raise Wrong(f"its bar began at step {first}, after a state of step {self._start}")
        if self.says and (first or code == 0):
            if self.says not in process.output:
                raise Wrong(f"did not say {self.says!r}: {process.output[-1000:]}")
            self.says = ""
            self.damaged.clear()  # one of the same name and content may be written again
        return code, process.output

    def again(self, process: Process, needed: int = 0) -> int:
        """Return how many of the steps that an ended process did are to be done again.

        Raises:
            Wrong: what was saved before the fault, up to the step `needed`, is not there.
        """
        if self.saved < needed:
            raise Wrong(f"the state of step {needed} was there, now the newest is that of step {self.saved}")
        return max(process.step(self.steps), self._start) - self.saved


Act = Callable[[Life, Random], int | None]
"""Makes a fault happen and waits for what follows; returns how many steps are to be done again, or None if it
did not hit."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault."""

    name: str
    act: Act
    processes: int = 1
    early: bool = False  # whether it may come before the first step


def kill(life: Life, random: Random) -> int:
    """Kill the process without a warning."""
    process, needed = life.go_on(), life.saved
    os.kill(process.pid, signal.SIGKILL)
    code, output = life.end()
    _require(code in (-signal.SIGKILL, 0), f"exit status {code}: {output[-500:]}")
    return life.again(process, needed)


def kill_in_writing(life: Life, random: Random) -> int | None:
    """Kill the process while it writes a state."""
    process, end = life.go_on(), time.monotonic() + PATIENCE
    while not any(name.endswith(".partial") for name in os.listdir(life.run / "states")):
        if time.monotonic() > end or process.ended():
            return None
    again = kill(life, random)
    return again if any((life.run / "states").glob(PARTIAL)) else None


def signalled(number: int) -> Act:
    """Return the fault of one signal that a run handles."""

    def act(life: Life, random: Random) -> int:
        process = life.go_on()
        os.kill(process.pid, number)
        code, output = life.end()
        again = life.again(process)
        if code == 0:  # it was done
            return again
        trained = "ending this step, then saving" in output
        _require(code == 128 + number or (not trained and code == -number), f"exit status {code}: {output}")
        _require(again == 0, f"{again} steps lost by a signal that is handled")
        if trained:
            _require(f"stopped by {signal.Signals(number).name} after step" in output, output[-500:])
        return again

    return act


def two_interrupts(life: Life, random: Random) -> int:
    """Ctrl-C, and soon another, which ends the process at once."""
    process = life.go_on()
    os.kill(process.pid, signal.SIGINT)
    process.pause(random.uniform(0, 0.03))
    if not process.ended():
        os.kill(process.pid, signal.SIGINT)
    code, output = life.end(10)
    _require(code in (-signal.SIGINT, 128 + signal.SIGINT, 0), f"exit status {code}: {output[-500:]}")
    return life.again(process)


def damaged_state(damage: Callable[[Path, Random], None]) -> Act:
    """Return the fault of a kill after which the newest state is damaged."""

    def act(life: Life, random: Random) -> int | None:
        again = kill(life, random)
        if len(life.states) < 2:
            return None
        newest, before = life.states[:2]
        damage(newest, random)
        life.damaged.add(newest)
        life.says = f"{newest.name} is damaged (its checksum differs): removed; going on from {before.name}"
        return again + step_of(newest) - step_of(before)

    return act


def damaged_checkpoint(life: Life, random: Random) -> int | None:
    """A kill after which a file of the best network is damaged."""
    again = kill(life, random)
    path = life.run / random.choice(["config.json", "model.safetensors"])
    if not life.states:
        return None
    random.choice([truncate, flip])(path, random)
    life.says = f"{path.name} is not as it was when the state was saved; it is written anew"
    return again


def truncate(path: Path, random: Random) -> None:
    """Cut a file short."""
    os.truncate(path, random.randrange(path.stat().st_size))


def flip(path: Path, random: Random) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    path.write_bytes(data)


def full_disk(life: Life, random: Random) -> int | None:
    """From now on no file may grow beyond a size that the state has."""
    process = life.go_on()
    if not life.states:
        return None
    needed, largest = life.saved, random.randrange(life.states[0].stat().st_size)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest, largest))
    code, output = life.end()
    if code != 0:
        _require(code == 2 and "File too large" in output, f"exit status {code}: {output[-1500:]}")
        _require(f"go on with --resume runs/{life.run.name}" in output, output[-1500:])
    return life.again(process, needed)


def read_only(life: Life, random: Random) -> int | None:
    """From now on nothing can be made in the run's folders."""
    process = life.go_on()
    if not life.states:
        return None
    folders, needed = [life.run, *(p for p in life.run.iterdir() if p.is_dir())], life.saved
    for folder in folders:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        code, output = life.end()
        if code != 0:
            _require(code == 2 and "Permission denied" in output, f"exit status {code}: {output[-500:]}")
            _require(f"go on with --resume runs/{life.run.name}" in output, output[-500:])
    finally:
        for folder in folders:
            folder.chmod(stat.S_IRWXU)
    return life.again(process, needed)


def second_run(life: Life, random: Random) -> int:
    """Another process wants to go on with the same run; the first goes on."""
    process = life.go_on()
    os.kill(process.pid, signal.SIGSTOP)  # or it might be done before the other has started
    try:
        other = life.start()
        code = other.end()
    finally:
        os.kill(process.pid, signal.SIGCONT)
    said = f"is being trained by process {process.pid}" in other.output
    _require(code == 2 and said, f"exit status {code}: {other.output[-500:]}")
    return 0


def rank_killed(life: Life, random: Random) -> int:
    """Kill one of two processes of a run."""
    process, needed = life.go_on(), life.saved
    rank = random.choice(_children(process.pid))
    os.kill(rank, signal.SIGKILL)
    code, output = life.end(RANKS_END)
    if code != 0:
        reasons = [line for line in output.splitlines() if "train.py: error:" in line]
        _require(len(reasons) == 1 and "lost the others" in reasons[0], f"reasons {reasons} in {output}")
    return life.again(process, needed)


def launcher_signalled(number: int, whole_group: bool) -> Act:
    """Return the fault of a signal to torchrun, or to it and to its processes, as Ctrl-C sends it."""

    def act(life: Life, random: Random) -> int:
        process = life.go_on()
        (os.killpg if whole_group else os.kill)(process.pid, number)
        code, output = life.end(RANKS_END)
        again = life.again(process)
        _require(again == 0, f"{again} steps lost by a signal that is handled: {output}")
        said = f"stopped by {signal.Signals(number).name} after step"
        _require(code == 0 or output.count(said) == 1, f"not once {said!r}: {output}")
        return again

    return act


def _children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _require(right: bool, text: str) -> None:
    if not right:
        raise Wrong(text)


KINDS = [
    Kind("SIGKILL", kill, early=True),
    Kind("SIGKILL while a state is written", kill_in_writing),
    Kind("SIGTERM", signalled(signal.SIGTERM), early=True),
    Kind("SIGINT (Ctrl-C)", signalled(signal.SIGINT), early=True),
    Kind("SIGUSR1", signalled(signal.SIGUSR1), early=True),
    Kind("Ctrl-C twice", two_interrupts),
    Kind("newest state cut short", damaged_state(truncate)),
    Kind("a bit of the newest state flipped", damaged_state(flip)),
    Kind("model.safetensors or config.json damaged", damaged_checkpoint),
    Kind("full disk", full_disk),
    Kind("read-only directory", read_only),
    Kind("a second run into the directory", second_run),
    Kind("one of 2 processes killed", rank_killed, processes=2),
    Kind("SIGTERM to torchrun", launcher_signalled(signal.SIGTERM, whole_group=False), processes=2),
    Kind("Ctrl-C under torchrun", launcher_signalled(signal.SIGINT, whole_group=True), processes=2),
]
