"""A run as it goes: its log, its states, its best network, and how far it is."""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from convlstm.core.files import METRICS, read_metrics, write_atomically, write_json
from convlstm.core.saving import CONFIG, WEIGHTS, save_checkpoint
from convlstm.hub.checkpoint import read_config
from convlstm.training.directory import BEST, locked, made, restore_files, way_on
from convlstm.training.states import load_state, save_state
from convlstm.training.stopping import Stopped
from convlstm.training.world import World

SAMPLES = "samples"
PROGRESS = "progress"  # of a state
VALIDATED = "val/mse"  # what each validation logs


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0
    """Optimizer steps done."""
    steps: int = 0
    """Of the whole run, where its minutes fixed them; else 0."""
    best: float = math.inf
    """The lowest validation score, of what is trained on."""
    validated: int = 0
    """The step at which it was last validated."""
    skipped: int = 0
    """Steps whose numbers were not finite."""
    in_a_row: int = 0
    """Of them, those that were the last ones."""
    trouble: str = ""
    """Where the first of those in a row went wrong."""


class RunDirectory:
    """The files of a run: metrics.jsonl and the TensorBoard log as they grow, states to go on from, samples.

    Args:
        path: the run's directory, which is there.
        world: the processes; all but the first write nothing.
        parts: whatever has a state_dict, by name: model, ema, optimizer.

    Attributes:
        progress: how far the run is; kept up to date by whoever trains.
    """

    def __init__(self, path: Path, world: World, parts: Mapping[str, Any]):
        self.path, self.progress = path, Progress()
        self._world, self._parts = world, parts
        self._best: dict[str, torch.Tensor] = {}  # the bytes of the files of the best network
        self._saved, self._board, self._purged = time.monotonic(), None, None

    def log(self, values: Mapping[str, float]) -> None:
        """Append values, by name such as "train/loss", to metrics.jsonl and to TensorBoard.

        Those that are not finite are left out: JSON has no numbers for them.
        """
        if not self._world.first:
            return
        step = self.progress.step
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        with (self.path / METRICS).open("a") as file:
            file.write(json.dumps({"step": step, **finite}) + "\n")
        self._show(finite, step)

    def sample(self, write: Callable[[Path], object]) -> None:
        """Have `write` make an animation, samples/step-STEP.gif, and show it in TensorBoard, too."""
        if not self._world.first:
            return
        from tensorboard.compat.proto import summary_pb2

        Summary: Any = vars(summary_pb2)["Summary"]
        path = self.path / SAMPLES / f"step-{self.progress.step:08}.gif"
        path.parent.mkdir(exist_ok=True)
        write(path)
        image = Summary.Image(encoded_image_string=path.read_bytes())
        value = Summary.Value(tag="val/rollout", image=image)
        self._writer()._get_file_writer().add_summary(Summary(value=[value]), self.progress.step)

    def save_best(self, network: nn.Module, notes: Mapping[str, Any]) -> None:
        """Write the network and its notes as the run's checkpoint, over the one before."""
        if self._world.first:
            save_checkpoint(self.path, network, notes)
            self._best = {name: _bytes(self.path / name) for name in (WEIGHTS, CONFIG)}

    def note(self, notes: Mapping[str, Any]) -> None:
        """Add to the notes of the run's checkpoint, and save it in the state: a better one may never come.

        Raises:
            OSError: as for `save`.
        """
        if not self._world.first:
            return
        write_json(self.path / CONFIG, read_config(self.path) | dict(notes))
        self._best[CONFIG] = _bytes(self.path / CONFIG)
        self.save()

    def save(self) -> None:
        """Write the state that a resumed run goes on from, after everything that was logged before it.

        Raises:
            OSError: it could not be written, as where the disk is full; said with the state that there is.
        """
        if not self._world.first:
            return
        step = self.progress.step
        with way_on(self.path, f"the state after step {step} was not written"):
            self._flush()
            state = {name: part.state_dict() for name, part in self._parts.items()}
            save_state(self.path, step, state | {BEST: self._best, PROGRESS: asdict(self.progress)})
        self._saved = time.monotonic()

    def save_after(self, minutes: float) -> None:
        """Write the state if the last one was written so many minutes ago, and the last step was a good one.

        While steps are skipped the weights may be what is wrong: the states from before are not given up.
        """
        if time.monotonic() - self._saved >= 60 * minutes and self.progress.in_a_row == 0:
            self.save()

    def restore(self) -> None:
        """Load the newest whole state into the parts and the progress; drop what was logged after it.

        The run's checkpoint is written anew where it is not that of the state.

        Raises:
            ValueError: no whole state, or one that does not fit; a line of metrics.jsonl that no run wrote.
        """
        state = self._world.from_first(lambda: load_state(self.path))
        try:
            for name, part in self._parts.items():
                part.load_state_dict(state[name])
            self.progress = Progress(**state[PROGRESS])
            self._best = dict(state[BEST])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"the state in {self.path} does not fit: {reason}") from error
        if self._world.first:
            restore_files(self.path, self._best)
            self._restore_logs()

    def _restore_logs(self) -> None:
        """Drop what was logged after the state; of its last step, too, a validation yet to be done."""
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
        # TensorBoard takes back whole steps: what stays of one is shown again.
        for values in (values for _, values in kept if values["step"] == self._purged):
            self._show({name: value for name, value in values.items() if name != "step"}, step)

    def close(self) -> None:
        """Write out what TensorBoard still holds back."""
        if self._board is not None:
            self._board.close()

    def _show(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer().add_scalar(name, value, step)

    def _writer(self) -> Any:
        """Return the TensorBoard log; that of a resumed run takes back the steps that are done anew."""
        if self._board is None:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._board = SummaryWriter(str(self.path), purge_step=self._purged)
        return self._board

    def _flush(self) -> None:
        """See to it that what was logged is on the disk; TensorBoard's log begins with the first state."""
        self._writer().flush()
        if (self.path / METRICS).exists():
            with (self.path / METRICS).open("rb") as file:
                os.fsync(file.fileno())


@contextlib.contextmanager
def open_run(
    path: Path, world: World, parts: Mapping[str, Any], *, new: bool = False
) -> Iterator[RunDirectory]:
    """Open a `RunDirectory` for as long as its run lasts; a new run's directory must not be there yet.

    Where an error comes before the first state is saved, what was made of the directory is removed. Where the
    run is stopped, its state is saved and the `Stopped` says how to go on.

    Raises:
        ValueError: the directory of a new run is there, or another process trains in it.
        OSError: as where the disk is full; said with the state that there is.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(way_on(path))
        with world.first_alone():
            if world.first:
                stack.enter_context(made(path, new))
                stack.enter_context(locked(path))
        run = stack.enter_context(contextlib.closing(RunDirectory(path, world, parts)))
        try:
            yield run
        except Stopped as stop:
            with world.first_alone():  # where one process has ended, the others are soon killed
                run.save()
            raise Stopped(
                stop.signal, f"{stop} after step {run.progress.step}; go on with --resume {path}"
            ) from None


def _bytes(path: Path) -> torch.Tensor:
    return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
