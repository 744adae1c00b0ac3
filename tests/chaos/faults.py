"""The faults that can happen to a training run, and what must be true right after each."""

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
from tests.chaos.disturbed import TIMEOUT, Process, step_of

RANKS_TIMEOUT = 60  # seconds in which all processes of torchrun end after one of them died


class Wrong(Exception):
    """A run did not do what it must do."""


class Life:
    """One run from its first step to its last, in as many processes, one after the other, as it takes.

    Args:
        folder: The run is runs/NAME in it.
        name: Name of the run.
        options: Arguments of train.py that a new run begins with.
        steps: Number of steps of the whole run.
        processes: Number of processes; more than 1 run under torchrun. Default: 1.
    """

    def __init__(self, folder: Path, name: str, options: Sequence[str], steps: int, processes: int = 1):
        self.folder, self.steps, self.processes = folder, steps, processes
        self.run = folder / "runs" / name
        self._options = [*options, "--name", name, "--steps", str(steps)]
        self.expected_output = ""  # of the next process
        self.damaged: set[Path] = set()  # states
        self.process: Process | None = None
        self._start = 0  # step of the state that the process began with

    @property
    def states(self) -> list[Path]:
        """The undamaged states, the newest first."""
        return [path for path in training.states_of(self.run) if path not in self.damaged]

    @property
    def saved(self) -> int:
        """Step of the newest undamaged state; 0 if there is none."""
        return step_of(self.states[0]) if self.states else 0

    def start(self) -> Process:
        """Start a process that resumes the run, or begins it if it has no state yet."""
        if self.states:
            return Process(["--resume", f"runs/{self.run.name}"], self.folder, self.processes)
        shutil.rmtree(self.run, ignore_errors=True)
        return Process(self._options, self.folder, self.processes)

    def training_process(self) -> Process:
        """Return the process that trains; start one if there is none."""
        if self.process is None:
            self._start = self.saved
            self.process = self.start()
        return self.process

    def trains(self) -> bool:
        """Return whether the process has done a step."""
        return bool(self.training_process().steps_shown(self.steps))

    def end(self, seconds: float = TIMEOUT) -> tuple[int, str]:
        """Wait for the end of the process; return its exit status and its output."""
        process = self.training_process()
        code, self.process = process.end(seconds), None
        shown = process.steps_shown(self.steps)
        if shown and shown[0] not in (self._start, self._start + 1):  # the former if it did no step
            raise Wrong(f"its bar began at step {shown[0]}, after a state of step {self._start}")
        if self.expected_output and (shown or code == 0):
            if self.expected_output not in process.output:
                raise Wrong(f"did not say {self.expected_output!r}: {process.output[-1000:]}")
            self.expected_output = ""
            self.damaged.clear()  # a state of the same name and content may be written again
        return code, process.output

    def lost_steps(self, process: Process, needed: int = 0) -> int:
        """Return how many of the steps that an ended process did must be done again.

        Raises:
            Wrong: if a state of step `needed`, saved before the fault, is gone.
        """
        if self.saved < needed:
            raise Wrong(f"the state of step {needed} was there, now the newest is that of step {self.saved}")
        return max([self._start, *process.steps_shown(self.steps)[-1:]]) - self.saved


Act = Callable[[Life, Random], int | None]
"""Makes a fault happen, waits for what follows and returns the number of lost steps, or None if it missed."""


@dataclass(frozen=True)
class Fault:
    """A kind of fault."""

    name: str
    act: Act
    processes: int = 1
    early: bool = False
    """Whether it may come before the first step."""


def kill(life: Life, random: Random) -> int:
    """Kill the process without a warning."""
    process, needed = life.training_process(), life.saved
    os.kill(process.pid, signal.SIGKILL)
    code, output = life.end()
    require(code in (-signal.SIGKILL, 0), f"exit status {code}: {output[-500:]}")
    return life.lost_steps(process, needed)


def kill_in_writing(life: Life, random: Random) -> int | None:
    """Kill the process while it writes a state."""
    process, end = life.training_process(), time.monotonic() + TIMEOUT
    while not any(name.endswith(".partial") for name in os.listdir(life.run / "states")):
        if time.monotonic() > end or process.ended():
            return None
    lost = kill(life, random)
    return lost if any((life.run / "states").glob(PARTIAL)) else None


def signalled(number: int) -> Act:
    """Return the fault of a signal that a run handles."""

    def act(life: Life, random: Random) -> int:
        process = life.training_process()
        os.kill(process.pid, number)
        code, output = life.end()
        lost = life.lost_steps(process)
        if code == 0:  # the run was done before
            return lost
        trained = "ending this step, then saving" in output
        require(code == 128 + number or (not trained and code == -number), f"exit status {code}: {output}")
        require(lost == 0, f"{lost} steps lost by a signal that is handled")
        if trained:
            require(f"stopped by {signal.Signals(number).name} after step" in output, output[-500:])
        return lost

    return act


def two_interrupts(life: Life, random: Random) -> int:
    """Send a second Ctrl-C soon after the first; it ends the process at once."""
    process = life.training_process()
    os.kill(process.pid, signal.SIGINT)
    process.wait(random.uniform(0, 0.03))
    if not process.ended():
        os.kill(process.pid, signal.SIGINT)
    code, output = life.end(10)
    require(code in (-signal.SIGINT, 128 + signal.SIGINT, 0), f"exit status {code}: {output[-500:]}")
    return life.lost_steps(process)


def damaged_state(damage: Callable[[Path, Random], None]) -> Act:
    """Return the fault that kills the process and then damages the newest state."""

    def act(life: Life, random: Random) -> int | None:
        lost = kill(life, random)
        if len(life.states) < 2:
            return None
        newest, before = life.states[:2]
        damage(newest, random)
        life.damaged.add(newest)
        life.expected_output = (
            f"{newest.name} is damaged (its checksum differs): removed; going on from {before.name}"
        )
        return lost + step_of(newest) - step_of(before)

    return act


def damaged_checkpoint(life: Life, random: Random) -> int | None:
    """Kill the process, then damage a file of the best network."""
    lost = kill(life, random)
    path = life.run / random.choice(["config.json", "model.safetensors"])
    if not life.states:
        return None
    random.choice([truncate, flip])(path, random)
    life.expected_output = f"{path.name} is not as it was when the state was saved; it is written anew"
    return lost


def truncate(path: Path, random: Random) -> None:
    """Cut a file short."""
    os.truncate(path, random.randrange(path.stat().st_size))


def flip(path: Path, random: Random) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    path.write_bytes(data)


def full_disk(life: Life, random: Random) -> int | None:
    """Let no file grow beyond a part of the state's size from now on."""
    process = life.training_process()
    if not life.states:
        return None
    needed, largest = life.saved, random.randrange(life.states[0].stat().st_size)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest, largest))
    ends_with_error(life, "File too large")
    return life.lost_steps(process, needed)


def read_only(life: Life, random: Random) -> int | None:
    """Let nothing be made in the run's folders from now on."""
    process = life.training_process()
    if not life.states:
        return None
    folders, needed = [life.run, *(p for p in life.run.iterdir() if p.is_dir())], life.saved
    for folder in folders:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        ends_with_error(life, "Permission denied")
    finally:
        for folder in folders:
            folder.chmod(stat.S_IRWXU)
    return life.lost_steps(process, needed)


def ends_with_error(life: Life, message: str) -> None:
    """Require that the run ends with a message and says how to resume it, unless it was done before."""
    code, output = life.end()
    if code != 0:
        require(code == 2 and message in output, f"exit status {code}: {output[-1500:]}")
        require(f"go on with --resume runs/{life.run.name}" in output, output[-1500:])


def second_run(life: Life, random: Random) -> int:
    """Let another process try to resume the same run; the first goes on."""
    process = life.training_process()
    os.kill(process.pid, signal.SIGSTOP)  # or it might be done before the other has started
    try:
        other = life.start()
        code = other.end()
    finally:
        os.kill(process.pid, signal.SIGCONT)
    said = f"is being trained by process {process.pid}" in other.output
    require(code == 2 and said, f"exit status {code}: {other.output[-500:]}")
    return 0


def rank_killed(life: Life, random: Random) -> int:
    """Kill one of two processes of a run."""
    process, needed = life.training_process(), life.saved
    rank = random.choice(children(process.pid))
    os.kill(rank, signal.SIGKILL)
    code, output = life.end(RANKS_TIMEOUT)
    if code != 0:
        reasons = [line for line in output.splitlines() if "train.py: error:" in line]
        require(len(reasons) == 1 and "lost the others" in reasons[0], f"reasons {reasons} in {output}")
    return life.lost_steps(process, needed)


def launcher_signalled(number: int, whole_group: bool) -> Act:
    """Return the fault of a signal to torchrun, or to its whole group, as Ctrl-C sends it."""

    def act(life: Life, random: Random) -> int:
        process = life.training_process()
        (os.killpg if whole_group else os.kill)(process.pid, number)
        code, output = life.end(RANKS_TIMEOUT)
        lost = life.lost_steps(process)
        require(lost == 0, f"{lost} steps lost by a signal that is handled: {output}")
        said = f"stopped by {signal.Signals(number).name} after step"
        require(code == 0 or output.count(said) == 1, f"not once {said!r}: {output}")
        return lost

    return act


def children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def require(right: bool, text: str) -> None:
    if not right:
        raise Wrong(text)


FAULTS = [
    Fault("SIGKILL", kill, early=True),
    Fault("SIGKILL while a state is written", kill_in_writing),
    Fault("SIGTERM", signalled(signal.SIGTERM), early=True),
    Fault("SIGINT (Ctrl-C)", signalled(signal.SIGINT), early=True),
    Fault("SIGUSR1", signalled(signal.SIGUSR1), early=True),
    Fault("Ctrl-C twice", two_interrupts),
    Fault("newest state cut short", damaged_state(truncate)),
    Fault("a bit of the newest state flipped", damaged_state(flip)),
    Fault("model.safetensors or config.json damaged", damaged_checkpoint),
    Fault("full disk", full_disk),
    Fault("read-only directory", read_only),
    Fault("a second run into the directory", second_run),
    Fault("one of 2 processes killed", rank_killed, processes=2),
    Fault("SIGTERM to torchrun", launcher_signalled(signal.SIGTERM, whole_group=False), processes=2),
    Fault("Ctrl-C under torchrun", launcher_signalled(signal.SIGINT, whole_group=True), processes=2),
]
