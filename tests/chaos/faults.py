"""The faults that can happen to a training run, and what must be true right after each.

A fault is a function of the run, of which a process trains, and of a source of random numbers. It returns the
number of steps that must be done again, or None if it came too early or too late to happen.
"""

import os
import resource
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from convlstm.core.files import PARTIAL
from tests.chaos.disturbed import TIMEOUT, DisturbedRun, Wrong, step_of

RANKS_TIMEOUT = 60  # seconds in which all processes of torchrun end after one of them died

Act = Callable[[DisturbedRun, Random], int | None]
Damage = Callable[[Path, Random], None]


@dataclass(frozen=True)
class Fault:
    """A kind of fault."""

    name: str
    act: Act
    processes: int = 1
    early: bool = False
    """Whether it may come before the first step."""


def kill(run: DisturbedRun, random: Random) -> int:
    """Kill the process without a warning."""
    os.kill(run.start(), signal.SIGKILL)
    return run.end(-signal.SIGKILL)


def kill_in_writing(run: DisturbedRun, random: Random) -> int | None:
    """Kill the process while it writes a state."""
    end = time.monotonic() + TIMEOUT
    while not any((run.path / "states").glob(PARTIAL)):
        if time.monotonic() > end or not run.wait(0):
            return None
    lost = kill(run, random)
    return lost if any((run.path / "states").glob(PARTIAL)) else None


def signalled(number: int) -> Act:
    """Return the fault of a signal that a run handles; before its first step it may end by the signal."""

    def act(run: DisturbedRun, random: Random) -> int:
        os.kill(run.start(), number)
        lost = run.end(128 + number, -number)
        run.require(run.code == 0 or lost == 0, f"{lost} steps lost by a signal that is handled")
        if run.code != 0 and "ending this step, then saving" in run.output:
            stopped = f"stopped by {signal.Signals(number).name} after step" in run.output
            run.require(stopped and run.code == 128 + number, "did not say that it was stopped")
        return lost

    return act


def two_interrupts(run: DisturbedRun, random: Random) -> int:
    """Send a second Ctrl-C soon after the first; it ends the process at once."""
    os.kill(run.start(), signal.SIGINT)
    if run.wait(random.uniform(0, 0.03)):
        os.kill(run.pid, signal.SIGINT)
    return run.end(-signal.SIGINT, 128 + signal.SIGINT, seconds=10)


def damaged_state(damage: Damage) -> Act:
    """Return the fault that kills the process and then damages the newest state."""

    def act(run: DisturbedRun, random: Random) -> int | None:
        lost = kill(run, random)
        if len(run.states) < 2:
            return None
        newest, before = run.states[:2]
        damage(newest, random)
        run.damaged.add(newest)
        run.expected_output = (
            f"{newest.name} is damaged (its checksum differs): removed; going on from {before.name}"
        )
        return lost + step_of(newest) - step_of(before)

    return act


def damaged_checkpoint(run: DisturbedRun, random: Random) -> int | None:
    """Kill the process, then damage a file of the best network."""
    lost = kill(run, random)
    path = run.path / random.choice(["config.json", "model.safetensors"])
    if not run.states:
        return None
    random.choice([truncate, flip])(path, random)
    run.expected_output = f"{path.name} is not as it was when the state was saved; it is written anew"
    return lost


def truncate(path: Path, random: Random) -> None:
    """Cut a file short."""
    os.truncate(path, random.randrange(path.stat().st_size))


def flip(path: Path, random: Random) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    path.write_bytes(data)


def full_disk(run: DisturbedRun, random: Random) -> int | None:
    """Let no file grow beyond a part of the state's size from now on."""
    if not run.states:
        return None
    largest = random.randrange(run.states[0].stat().st_size)
    resource.prlimit(run.start(), resource.RLIMIT_FSIZE, (largest, largest))
    return end_with_error(run, "File too large")


def read_only(run: DisturbedRun, random: Random) -> int | None:
    """Let nothing be made in the run's folders from now on."""
    if not run.states:
        return None
    run.start()
    folders = [run.path, *(path for path in run.path.iterdir() if path.is_dir())]
    for folder in folders:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        return end_with_error(run, "Permission denied")
    finally:
        for folder in folders:
            folder.chmod(stat.S_IRWXU)


def end_with_error(run: DisturbedRun, message: str) -> int:
    """Require that the run ends with a message and says how to resume it, unless it was done before."""
    lost = run.end(2)
    resumable = f"go on with --resume runs/{run.path.name}" in run.output
    run.require(run.code == 0 or (message in run.output and resumable), f"did not say {message!r}")
    return lost


def second_run(run: DisturbedRun, random: Random) -> int:
    """Let another process try to resume the same run; the first goes on."""
    os.kill(run.start(), signal.SIGSTOP)  # or it might be done before the other has started
    options: dict[str, Any] = {"cwd": run.path.parents[1], "capture_output": True, "text": True}
    try:
        other = subprocess.run(run.resume_command, timeout=TIMEOUT, **options)
    finally:
        os.kill(run.pid, signal.SIGCONT)
    if other.returncode != 2 or f"is being trained by process {run.pid}" not in other.stderr:
        raise Wrong(f"a second process had exit status {other.returncode}: {other.stderr[-1500:]}")
    return 0


def rank_killed(run: DisturbedRun, random: Random) -> int:
    """Kill one of two processes of a run."""
    pid = run.start()
    ranks = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(int(random.choice(ranks)), signal.SIGKILL)
    lost = run.end(seconds=RANKS_TIMEOUT)
    reasons = [line for line in run.output.splitlines() if "train.py: error:" in line]
    told_once = len(reasons) == 1 and "lost the others" in reasons[0]
    run.require(run.code == 0 or told_once, f"did not say once why it ended: {reasons}")
    return lost


def launcher_signalled(number: int, send: Callable[[int, int], None]) -> Act:
    """Return the fault of a signal to torchrun: sent to it, or to its whole group, as Ctrl-C does."""

    def act(run: DisturbedRun, random: Random) -> int:
        send(run.start(), number)
        lost = run.end(seconds=RANKS_TIMEOUT)
        run.require(lost == 0, f"{lost} steps lost by a signal that is handled")
        stopped = run.output.count(f"stopped by {signal.Signals(number).name} after step")
        run.require(run.code == 0 or stopped == 1, f"said {stopped} times that it was stopped")
        return lost

    return act


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
    Fault("SIGTERM to torchrun", launcher_signalled(signal.SIGTERM, os.kill), processes=2),
    Fault("Ctrl-C under torchrun", launcher_signalled(signal.SIGINT, os.killpg), processes=2),
]
