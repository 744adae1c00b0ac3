"""Training runs in processes that may be disturbed, and a comparison of what two runs leave."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import IMAGES, SCALARS, EventAccumulator

import train
from convlstm import training
from convlstm.core.files import METRICS, PARTIAL, read_metrics

MEASURED = ("train/sequences_per_second", "train/memory_gib")  # values that differ between any two runs
TIMEOUT = 120  # seconds that a process gets for anything it must do


class Process:
    """A training run in a process of its own, or in those of torchrun.

    Args:
        arguments: Arguments of train.py.
        folder: Folder in which it runs: the run is runs/NAME in it.
        processes: Number of processes; more than 1 run under torchrun. Default: 1.

    Attributes:
        output: What it has written so far.
        code: Its exit status, negative if a signal killed it; None while it runs.
    """

    def __init__(self, arguments: list[str], folder: Path, processes: int = 1):
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *(torchrun if processes > 1 else []), train.__file__, *arguments]
        self._pipe, write = os.pipe()
        os.set_blocking(self._pipe, False)
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": write, "stderr": write}
        self._process = subprocess.Popen(command, cwd=folder, start_new_session=True, **options)
        os.close(write)
        self.pid, self.output, self.code = self._process.pid, "", None

    def ended(self) -> bool:
        """Return whether it has ended; read what it wrote."""
        self.code = self._process.poll()
        try:
            while data := os.read(self._pipe, 1 << 16):
                self.output += data.decode(errors="replace")
        except BlockingIOError:
            pass
        return self.code is not None

    def wait(self, seconds: float, condition: Callable[[], bool] = lambda: False) -> bool:
        """Wait so many seconds, or until the condition holds; return whether it still runs."""
        end = time.monotonic() + seconds
        while not (over := self.ended()) and not condition() and time.monotonic() < end:
            time.sleep(0.001)
        return not over

    def end(self, seconds: float = TIMEOUT) -> int:
        """Wait for its end and return its exit status.

        Raises:
            TimeoutError: if it does not end; it is killed.
        """
        if self.wait(seconds):
            os.killpg(self.pid, signal.SIGKILL)
            raise TimeoutError(f"did not end within {seconds} s; it wrote: {self.output[-500:]}")
        assert self.code is not None
        os.close(self._pipe)
        return self.code

    def steps_shown(self, steps: int) -> list[int]:
        """Return the steps above 0, of so many, that its progress bar showed, in order."""
        return [int(n) for n in re.findall(rf"(\d+)/{steps} \[", self.output) if n != "0"]


def step_of(state: Path) -> int:
    """Return the number in the name of a state."""
    return int(state.name.split("-")[0])


def left_by(run: Path) -> dict[str, Any]:
    """Return what a run left: weights, newest state, logs, scores, GIFs; no times and no memory."""
    newest = training.states_of(run)[0]
    state = torch.load(newest, weights_only=True)
    del state["best"]  # the files of the best network: config.json in them names the command
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of steps that are logged again
    board = EventAccumulator(str(run), size_guidance={SCALARS: 0, IMAGES: 0}).Reload()
    tags: Any = board.Tags()
    scalars = {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in tags[SCALARS]}
    images = {tag: [(e.step, e.encoded_image_string) for e in board.Images(tag)] for tag in tags[IMAGES]}
    lines = [values for _, values in read_metrics(run / METRICS)]
    return {
        "weights": load_file(run / "model.safetensors"),
        "newest state": step_of(newest),
        "state": state,
        "metrics.jsonl": [{name: v for name, v in line.items() if name not in MEASURED} for line in lines],
        "TensorBoard": {tag: values for tag, values in scalars.items() if tag not in MEASURED} | images,
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
