"""A training run that may be disturbed, and a comparison of what two runs leave."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

import train
from convlstm.core.files import METRICS, PARTIAL, read_metrics
from convlstm.training.states import states_of

MEASURED = ("train/sequences_per_second", "train/memory_gib")  # values that differ between any two runs
TIMEOUT = 120  # seconds that a process gets for anything it must do


class Wrong(Exception):
    """A run did not do what it must do."""


class DisturbedRun:
    """One run from its first step to its last, in as many processes, one after the other, as it takes.

    Args:
        folder: The run is runs/NAME in it.
        name: Name of the run.
        options: Arguments of train.py that a new run begins with.
        steps: Number of steps of the whole run.
        processes: Number of processes that train at a time; more than 1 run under torchrun.

    Attributes:
        pid: Number of the process that trains, or trained last; that of torchrun if there are several.
        code: Its exit status, negative if a signal killed it; None while it runs.
        output: What it has written so far.
        ended: Whether the next call of `start` starts another.
        expected_output: What the next process must write.
        damaged: States that were damaged.
    """

    def __init__(self, folder: Path, name: str, options: Sequence[str], steps: int, processes: int):
        self.path, self._folder, self._steps = folder / "runs" / name, folder, steps
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        self._command = [sys.executable, *(torchrun if processes > 1 else []), train.__file__]
        self._options = [*options, "--name", name, "--steps", str(steps)]
        self.resume_command = [*self._command, "--resume", f"runs/{name}"]
        self.pid, self.code, self.output, self.ended = 0, None, "", True
        self.expected_output, self.damaged = "", set[Path]()

    @property
    def states(self) -> list[Path]:
        """The undamaged states, the newest first."""
        return [path for path in states_of(self.path) if path not in self.damaged]

    @property
    def saved(self) -> int:
        """Step of the newest undamaged state; 0 if there is none."""
        return step_of(self.states[0]) if self.states else 0

    def start(self) -> int:
        """Return the number of the process; start one if there is none, which resumes or begins the run."""
        self._needed = self.saved
        if self.ended:
            command, self._first_step = self.resume_command, self.saved
            if not self.states:
                command = [*self._command, *self._options]
                shutil.rmtree(self.path, ignore_errors=True)
            self._pipe, write = os.pipe()  # not a file, which a full disk would cut short, too
            os.set_blocking(self._pipe, False)
            options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": write, "stderr": write}
            self._process = subprocess.Popen(command, cwd=self._folder, start_new_session=True, **options)
            os.close(write)
            self.pid, self.code, self.output, self.ended = self._process.pid, None, "", False
        return self.pid

    def wait(self, seconds: float, condition: Callable[[], bool] = lambda: False) -> bool:
        """Wait so many seconds, or until the condition holds; return whether the process still runs."""
        end = time.monotonic() + seconds
        while True:
            self.code = self._process.poll()
            try:
                while data := os.read(self._pipe, 1 << 16):
                    self.output += data.decode(errors="replace")
            except BlockingIOError:
                pass
            if self.code is not None or condition() or time.monotonic() >= end:
                return self.code is None
            time.sleep(0.001)

    def steps_shown(self) -> list[int]:
        """Return the steps above 0 that the progress bar showed, in order."""
        return [int(n) for n in re.findall(rf"(\d+)/{self._steps} \[", self.output) if n != "0"]

    def end(self, *statuses: int, seconds: float = TIMEOUT) -> int:
        """Wait for the end of the process; return how many of its steps must be done again.

        Args:
            statuses: Exit statuses that it may have, beside 0, that of a run that was done before the fault.
                Without any, it may have every one.
            seconds: Time that it has. Default: 120.

        Raises:
            Wrong: It does not end, has another status, began at the wrong step or did not write what was
                expected; or a state is gone that was saved when `start` was last called.
        """
        if self.wait(seconds):
            os.killpg(self.pid, signal.SIGKILL)
            self.require(False, f"did not end within {seconds} s")
        os.close(self._pipe)
        self.ended = True
        self.require(not statuses or self.code in (0, *statuses), "ended in another way")
        shown = self.steps_shown()
        right = not shown or shown[0] in (self._first_step, self._first_step + 1)  # the former without a step
        self.require(right, f"began at step {shown[:1]}, after a state of step {self._first_step}")
        if self.expected_output and (shown or self.code == 0):
            self.require(self.expected_output in self.output, f"did not say {self.expected_output!r}")
            self.expected_output = ""
            self.damaged.clear()  # a state of the same name and content may be written again
        self.require(self.saved >= self._needed, f"has lost the state of step {self._needed}")
        return max([self._first_step, *shown[-1:]]) - self.saved

    def require(self, right: bool, wrong: str) -> None:
        """Raise Wrong, with what the process wrote, unless all is right."""
        if not right:
            raise Wrong(f"{wrong}; exit status {self.code}: {self.output[-1500:]}")


def step_of(state: Path) -> int:
    """Return the number in the name of a state."""
    return int(state.name.split("-")[0])


def left_by(run: Path) -> dict[str, Any]:
    """Return what a run left: weights, newest state, logs, scores, GIFs; no times and no memory."""
    newest = states_of(run)[0]
    state = torch.load(newest, weights_only=True)
    del state["best"]  # the files of the best network: config.json in them names the command
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of steps that are logged again
    board = EventAccumulator(str(run), size_guidance={SCALARS: 0}).Reload()
    tags: Any = board.Tags()
    scalars = {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in tags[SCALARS]}
    lines = [values for _, values in read_metrics(run / METRICS)]
    return {
        "weights": load_file(run / "model.safetensors"),
        "newest state": step_of(newest),
        "state": state,
        "metrics.jsonl": [{name: v for name, v in line.items() if name not in MEASURED} for line in lines],
        "TensorBoard": {tag: values for tag, values in scalars.items() if tag not in MEASURED},
        "steps of what was measured": {tag: [step for step, _ in scalars[tag]] for tag in MEASURED},
        "scores": [json.loads(path.read_text()) for path in sorted(run.glob("test-*.json"))],
        "rollout": (run / "rollout.gif").read_bytes(),
        "samples": {path.name: path.read_bytes() for path in (run / "samples").glob("*.gif")},
        "half-written files": [str(path) for path in run.rglob(PARTIAL)],
    }


def differences(found: Any, wanted: Any, where: str = "") -> list[str]:
    """Return the places at which two nested values of tensors and plain values are not equal bit for bit."""
    if isinstance(wanted, torch.Tensor):
        same = found.dtype == wanted.dtype and found.numpy().tobytes() == wanted.numpy().tobytes()
        return [] if same else [where.strip()]
    if isinstance(wanted, dict) and found.keys() == wanted.keys():
        return [d for key in wanted for d in differences(found[key], wanted[key], f"{where} {key}")]
    if isinstance(wanted, list | tuple) and len(found) == len(wanted):
        pairs = enumerate(zip(found, wanted, strict=True))
        return [d for n, (one, other) in pairs for d in differences(one, other, f"{where} {n}")]
    return [] if found == wanted else [where.strip()]
