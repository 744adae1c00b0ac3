"""The recurrent family: the networks that benchmarks/family.py compares, and where their runs lie."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import train
from benchmarks.timing import cpu_name
from convlstm.checkpoint import read_config
from convlstm.files import write_json
from convlstm.training import states_of

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "train.py"
MACHINE = "machine.json"

FULLY = ("--preset", "fully-connected")
CONVOLUTIONAL = ("--model.kernel-size", "3")
COMMON = (
    *("--data.digits", "mnist", "--validations", "5", "--validation-sequences", "1000"),
    *("--test-sequences", "1000"),
)


@dataclass(frozen=True)
class Row:
    """A network of the comparison."""

    name: str
    """Of the run."""
    label: str
    """In tables and pictures."""
    arguments: tuple[str, ...]
    """Of train.py: the network, and its own learning rate."""
    kind: int
    """Of its line in charts."""

    @property
    def settings(self) -> train.Config:
        """All settings of its run but the number of steps."""
        return train.parse([*COMMON, *self.arguments])


ROWS = (
    Row("fc-rnn", "FC-RNN", (*FULLY, "--model.cell", "rnn", "--lr", "1e-3"), 2),
    Row("fc-gru", "FC-GRU", (*FULLY, "--model.cell", "gru", "--lr", "1e-3"), 3),
    Row("fc-lstm", "FC-LSTM", (*FULLY, "--model.cell", "lstm", "--lr", "1e-3"), 4),
    Row("conv-rnn", "ConvRNN", (*CONVOLUTIONAL, "--model.cell", "rnn", "--lr", "4e-3"), 5),
    Row("conv-gru", "ConvGRU", (*CONVOLUTIONAL, "--model.cell", "gru", "--lr", "4e-3"), 1),
    Row("conv-lstm", "ConvLSTM", (*CONVOLUTIONAL, "--model.cell", "lstm", "--lr", "4e-3"), 0),
    Row(
        "conv-lstm-peepholes",
        "ConvLSTM, peepholes",
        (*CONVOLUTIONAL, "--model.cell", "lstm", "--model.peephole", "channel", "--lr", "4e-3"),
        6,
    ),
)


def run_of(folder: Path, row: Row) -> Path:
    """Return the directory of a row's run; train.py, started in the folder, makes it there."""
    return folder / "runs" / row.name


def is_finished(run: Path) -> bool:
    """Return whether a run is tested, too: the last that train.py writes is its rollout."""
    return (run / "rollout.gif").is_file()


def finished(folder: Path) -> list[Row]:
    """Return the rows whose runs are finished; raise FileNotFoundError if there is none."""
    found = [row for row in ROWS if is_finished(run_of(folder, row))]
    if not found:
        raise FileNotFoundError(f"{folder} has no finished run; it needs some of family.py train")
    return found


def train_all(folder: Path, sequences: int, jobs: int, data_root: Path) -> int:
    """Train every row that is not finished, so many at a time; return how many failed.

    Args:
        folder: of the runs; what they print goes to NAME.log in it.
        sequences: that each row is trained on, the same ones in the same order.
        jobs: how many rows at a time; the cores are shared among them.
        data_root: where torchvision keeps MNIST.

    Raises:
        ValueError: sequences that are not whole batches of every row, or runs that are of another number.
    """
    settings = {row: row.settings for row in ROWS}
    for row, config in settings.items():
        if sequences < 1 or sequences % config.batch_size:
            raise ValueError(
                f"sequences is {sequences}; {row.label} needs a multiple of its batch of {config.batch_size}"
            )
        check_sequences(run_of(folder, row), sequences)
    folder.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    write_json(folder / MACHINE, {"machine": cpu_name(), "jobs": jobs, "threads": threads})
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}

    def work(row: Row) -> int:
        run = run_of(folder, row)
        if is_finished(run):
            print(f"{row.label}: finished before", flush=True)
            return 0
        if states_of(run):
            arguments = ["--resume", f"runs/{row.name}"]
        else:
            steps = sequences // settings[row].batch_size
            root = str(data_root.resolve())
            arguments = [
                "--name",
                row.name,
                *COMMON,
                "--data.root",
                root,
                *row.arguments,
                "--steps",
                str(steps),
            ]
        print(f"{row.label}: train.py {' '.join(arguments)}", flush=True)
        return start(folder, row, arguments, environment)

    with ThreadPoolExecutor(jobs) as pool:
        return sum(code != 0 for code in pool.map(work, ROWS))


def check_sequences(run: Path, sequences: int) -> None:
    """Raise ValueError if there is a run that is trained on another number of sequences."""
    if not states_of(run):
        return
    settings: Mapping[str, Any] = read_config(run)["training"]
    there = settings["steps"] * settings["batch_size"]
    if there != sequences:
        raise ValueError(f"sequences is {sequences}, but {run} is of {there}; choose another --folder")


def start(folder: Path, row: Row, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run train.py in the folder, wait for it, and return its exit status."""
    log = folder / f"{row.name}.log"
    with log.open("ab") as output:
        command = [sys.executable, str(SCRIPT), *arguments]
        code = subprocess.run(command, cwd=folder, env=environment, stdout=output, stderr=output).returncode
    print(f"{row.label}: {f'failed with exit status {code}' if code else 'finished'}; see {log}", flush=True)
    return code
