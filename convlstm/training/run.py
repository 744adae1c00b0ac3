"""The directory of a run: its name and lock, its logs, its states, its best network."""

import contextlib
import json
import math
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from convlstm.core.files import METRICS, PARTIAL, read_metrics, write_atomically, write_json
from convlstm.core.saving import CONFIG, WEIGHTS, Savable, save_checkpoint
from convlstm.hub.checkpoint import read_config
from convlstm.training.distributed import Distributed
from convlstm.training.hardware import Stopwatch, memory_peak
from convlstm.training.settings import provenance, resumed
from convlstm.training.states import BEST, load_state, restore_files, save_state, states_of
from convlstm.training.stopping import Stopped

LOCK = ".lock"
SAMPLES = "samples"
PROGRESS = "progress"  # of a state
VALIDATED = "val/mse"  # what each validation logs
MAX_SKIPPED = 10  # steps in a row that are skipped before a run ends


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0
    """Optimizer steps done."""
    best: float = math.inf
    """Lowest validation score, of the training loss."""
    validated: int = 0
    """Step of the last validation."""
    skipped: int = 0
    """Steps that were skipped because their loss or gradient was not finite."""
    skipped_in_a_row: int = 0
    """Skipped steps since the last one that was not."""
    first_nonfinite: str = ""
    """Where the first of the skipped steps in a row went wrong."""

    def validation_is_due(self, steps: int, validations: int) -> bool:
        """Return whether this step ends one of the run's equal parts and was not validated yet."""
        part, before = (step * validations // steps for step in (self.step, self.step - 1))
        return 0 < self.step != self.validated and part > before


def new_path(name: str | None, preset: str) -> Path:
    """Return the directory of a new run: runs/NAME, where NAME is by default the preset, date and time.

    Raises:
        ValueError: `name` is not the name of a folder, or the directory exists.
    """
    if name is not None and (name in ("", "..") or Path(name).name != name):
        raise ValueError(f"name is {name!r}; it needs the name of a folder, which is made under runs/")
    path = Path("runs") / (name or f"{preset}-{datetime.now():%Y%m%d-%H%M%S}")
    if path.exists():
        resume = f", or go on with it: --resume {path}" if states_of(path) else ""
        raise ValueError(f"name: {path} exists; choose another --name{resume}")
    return path


class RunDirectory:
    """The files of a run: metrics.jsonl and the TensorBoard log, states to resume from, samples.

    Args:
        path: directory of the run, which exists.
        distributed: processes of the run; only the first writes files.
        parts: objects with a state_dict, by name: model, ema, optimizer.

    Attributes:
        progress: how far the run is; the training loop keeps it up to date.
    """

    def __init__(self, path: Path, distributed: Distributed, parts: Mapping[str, Any]):
        self.path, self.distributed, self.progress = path, distributed, Progress()
        self._parts = parts
        self._notes: dict[str, Any] = {}  # of config.json
        self._best: dict[str, torch.Tensor] = {}  # the bytes of the files of the best network
        self._saved, self._board, self._purged = time.monotonic(), None, None

    def begin_or_restore(
        self, settings: Any, network: nn.Module, notes: Mapping[str, Any], *, new: bool
    ) -> Progress:
        """Save the state of step 0 of a new run, or restore the newest state; return the progress.

        Args:
            settings: `Config` of train.py.
            network: network to save at step 0.
            notes: further entries of config.json for a new run.
            new: whether the run is new.

        Raises:
            ValueError: see `restore`.
        """
        if new:  # it can be resumed from its first second
            self._notes = provenance(settings) | dict(notes)
            self.save_best(network, {})
            self.save()
        else:
            self.restore()
            self._note_resumed()
        self.watch = Stopwatch(next(network.parameters()).device)
        self._batch_size, self._logged = settings.batch_size, self.progress.step
        return self.progress

    def log(self, values: Mapping[str, float]) -> None:
        """Append the finite ones of some values, by names such as "train/loss", to both logs."""
        if not self.distributed.is_first:
            return
        step = self.progress.step
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        with (self.path / METRICS).open("a") as file:
            file.write(json.dumps({"step": step, **finite}) + "\n")
        self._show(finite, step)

    def log_training(self, values: Mapping[str, float], layer_norms: Mapping[str, float]) -> None:
        """Log values of a training step, with the skipped steps, the speed since the last log, and memory."""
        sequences = (self.progress.step - self._logged) * self._batch_size
        self._logged = self.progress.step
        measured = {
            "skipped": self.progress.skipped,
            "sequences_per_second": sequences / self.watch.lap(),
            "memory_gib": memory_peak(self.watch.device),
        }
        self.log(
            {f"train/{name}": value for name, value in {**values, **measured}.items()} | dict(layer_norms)
        )

    def sample(self, write: Callable[[Path], object]) -> None:
        """Have `write` make an animation, samples/step-STEP.gif."""
        if self.distributed.is_first:
            (self.path / SAMPLES).mkdir(exist_ok=True)
            write(self.path / SAMPLES / f"step-{self.progress.step:08}.gif")

    def skip_step(self, loss: float, find_nonfinite: Callable[[], tuple[int, str]]) -> None:
        """Count a step whose loss or gradient is not finite, and print where it went wrong.

        The weights stay as they are, and the run goes on with the next sequences.

        Args:
            loss: loss of the step.
            find_nonfinite: finds what went wrong in this process, see `find_nonfinite`.

        Raises:
            ArithmeticError: `MAX_SKIPPED` steps in a row were skipped.
        """
        progress = self.progress
        if progress.skipped_in_a_row == 0:
            progress.first_nonfinite = min(self.distributed.gather(find_nonfinite()))[1]
        progress.skipped += 1
        progress.skipped_in_a_row += 1
        what = f"the loss is {loss}" if not math.isfinite(loss) else "the gradient is not finite"
        if progress.skipped_in_a_row >= MAX_SKIPPED:
            first = progress.step - progress.skipped_in_a_row + 1
            raise ArithmeticError(
                f"{what} at step {progress.step}, and so it was in {MAX_SKIPPED} steps in a row; it began at "
                f"step {first} in {progress.first_nonfinite}; lower --lr or --clip-norm and begin anew, from "
                f"the best network so far with --init-from {self.path}"
            )
        self.distributed.print(f"step {progress.step}: {what}, first in {progress.first_nonfinite}; skipped")

    def save_best(self, network: nn.Module, scores: Mapping[str, Any]) -> None:
        """Write the network, its scores and the run's notes as the checkpoint, over the one before."""
        if self.distributed.is_first:
            save_checkpoint(
                self.path, cast(Savable, network), {"step": self.progress.step, **scores, **self._notes}
            )
            self._best = {name: _bytes(self.path / name) for name in (WEIGHTS, CONFIG)}

    def save(self) -> None:
        """Write the state that a resumed run begins with, after everything that was logged before it.

        Raises:
            OSError: it could not be written, as where the disk is full.
        """
        if not self.distributed.is_first:
            return
        self._flush()
        state = {name: part.state_dict() for name, part in self._parts.items()}
        state |= {BEST: self._best, PROGRESS: asdict(self.progress)}
        save_state(self.path, self.progress.step, state)
        self._saved = time.monotonic()

    def save_after(self, minutes: float) -> None:
        """Write the state if the last one is so many minutes old.

        While steps are skipped nothing is written: the weights may be at fault, and few states are kept.
        """
        if time.monotonic() - self._saved >= 60 * minutes and self.progress.skipped_in_a_row == 0:
            self.save()

    def restore(self) -> None:
        """Load the newest whole state into the parts and the progress; drop what was logged after it.

        The files of the best network are written again if they differ from those in the state.

        Raises:
            ValueError: there is no whole state, it does not fit, or a line of metrics.jsonl is damaged.
        """
        state = self.distributed.from_first(lambda: load_state(self.path))
        if "in_a_row" in state.get(PROGRESS, ()):
            raise ValueError(
                f"the state in {self.path} was written by an earlier version: such a run can be loaded, "
                "scored and fine-tuned, but not resumed"
            )
        try:
            for name, part in self._parts.items():
                part.load_state_dict(state[name])
            self.progress = Progress(**state[PROGRESS])
            self._best = dict(state[BEST])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"the state in {self.path} does not fit: {reason}") from error
        if self.distributed.is_first:
            restore_files(self.path, self._best)
            self._restore_logs()

    def _note_resumed(self) -> None:
        """Note in config.json that the run was resumed, and save the state, which holds config.json."""
        if not self.distributed.is_first:
            return
        config = read_config(self.path)
        self._notes = resumed(config, self.progress.step)
        write_json(self.path / CONFIG, config | self._notes)
        self._best[CONFIG] = _bytes(self.path / CONFIG)
        self.save()

    def _restore_logs(self) -> None:
        """Drop what was logged after the state, and a validation at its step that has to be done again."""
        step, validated = self.progress.step, self.progress.validated
        self._purged = step + 1 if validated == step else step
        if not (self.path / METRICS).exists():
            return
        kept = [
            (line, values)
            for line, values in read_metrics(self.path / METRICS)
            if values["step"] <= step and (values["step"] <= validated or VALIDATED not in values)
        ]
        data = b"".join(line for line, _ in kept)
        write_atomically(self.path / METRICS, lambda temporary: temporary.write_bytes(data))
        # TensorBoard drops whole steps: the values of a step that stay are shown again.
        for values in (values for _, values in kept if values["step"] == self._purged):
            self._show({name: value for name, value in values.items() if name != "step"}, step)

    def close(self) -> None:
        """Write out and close the TensorBoard log."""
        if self._board is not None:
            self._board.close()

    def _show(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer().add_scalar(name, value, step)

    def _writer(self) -> Any:
        """Return the TensorBoard log; on resume it drops the steps that will be done again."""
        if self._board is None:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._board = SummaryWriter(str(self.path), purge_step=self._purged)
        return self._board

    def _flush(self) -> None:
        """Write both logs to the disk; the TensorBoard log begins with the first state."""
        self._writer().flush()
        if (self.path / METRICS).exists():
            with (self.path / METRICS).open("rb") as file:
                os.fsync(file.fileno())


@contextlib.contextmanager
def open_run(
    path: Path, distributed: Distributed, parts: Mapping[str, Any], *, new: bool = False
) -> Iterator[RunDirectory]:
    """Open and lock a `RunDirectory`; the directory of a new run must not exist.

    On an error before the first state is saved, a directory that was made is removed. When the run is
    stopped, its state is saved and the `Stopped` says how to resume.

    Raises:
        ValueError: another process trains in the directory.
        OSError: the directory of a new run exists, or the disk is full. The message names the newest state.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_resume_hint(path))
        with distributed.first_alone():
            if distributed.is_first:
                stack.enter_context(_made(path, new))
                stack.enter_context(_locked(path))
        run = stack.enter_context(contextlib.closing(RunDirectory(path, distributed, parts)))
        try:
            yield run
        except Stopped as stop:
            with distributed.first_alone():  # where one process has ended, the others are soon killed
                if not states_of(path):
                    raise
                run.save()
            step = run.progress.step
            raise Stopped(stop.signal, f"{stop} after step {step}; go on with --resume {path}") from None


@contextlib.contextmanager
def _resume_hint(path: Path) -> Iterator[None]:
    """Add to an OSError the state that the run can be resumed from."""
    try:
        yield
    except OSError as error:
        if not (states := states_of(path)):
            raise
        raise OSError(f"{error}; {states[0]} is whole: go on with --resume {path}") from error


@contextlib.contextmanager
def _made(path: Path, new: bool) -> Iterator[None]:
    """Make the directory; remove it again if no state was saved in it."""
    parents, fresh = [folder for folder in path.parents if not folder.exists()], not path.exists()
    path.mkdir(parents=True, exist_ok=not new)
    try:
        yield
    finally:
        if fresh and not states_of(path):
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):  # another run may have been made beside it
                for folder in parents:
                    folder.rmdir()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock the directory, and remove files that a killed process left half-written.

    The operating system releases the lock when the process ends, however it ends. Where there are no locks,
    as on Windows and on some file systems, a warning is printed and the run goes on.
    """
    with (path / LOCK).open("a+") as file:
        try:
            import fcntl  # which Windows does not have

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            other = file.read() or "another process"
            raise ValueError(f"{path} is being trained by {other}; stop it, or wait") from error
        except (OSError, ImportError):
            print(f"{path}: there are no locks here; start no second run in it", file=sys.stderr)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        for left in list(path.rglob(PARTIAL)):
            left.unlink()
        yield


def _bytes(path: Path) -> torch.Tensor:
    return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
