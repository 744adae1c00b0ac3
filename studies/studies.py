"""Studies: runs of train.py that differ in a few settings, on the same sequences in the same order."""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import train
from benchmarks.timing import machine_name
from convlstm.core.files import write_json
from convlstm.hub.checkpoint import read_config
from convlstm.report import read_run
from convlstm.training import choose_bfloat16, choose_device, states_of

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "train.py"
MACHINE = "machine.json"  # after a row's name: what it was last trained on
CHILDREN: set[subprocess.Popen[bytes]] = set()  # that run now
IDLE = 0.9  # the quantile of a run's speeds that is taken for that of an idle machine


@dataclass(frozen=True)
class Row:
    """A run of a study."""

    name: str
    """Of the run."""
    label: str
    """In tables and pictures."""
    arguments: tuple[str, ...]
    """Of train.py, beside those that all rows of the study have."""
    kind: int = 0
    """Of its line in charts."""
    seed: int = 0
    """Of the run; rows that differ in nothing else are of one change."""


@dataclass(frozen=True)
class Study:
    """What is compared."""

    rows: tuple[Row, ...]
    common: tuple[str, ...]
    """Arguments of train.py that all rows have."""

    def settings(self, row: Row) -> train.Config:
        """Return all settings of a row's run but the number of steps."""
        return train.parse(self.arguments(row))

    def arguments(self, row: Row) -> list[str]:
        """Return the arguments of train.py that make a row what it is."""
        return [*self.common, *row.arguments, "--seed", str(row.seed)]

    def repeated(self, seeds: int) -> "Study":
        """Return the study with every row from so many seeds, and what has more of them already."""
        there = {(row.label, row.seed) for row in self.rows}
        more = (
            replace(row, name=f"{row.name}-seed-{seed}", seed=seed)
            for row in self.rows
            for seed in range(1, seeds)
            if row.seed == 0 and (row.label, seed) not in there
        )
        return replace(self, rows=(*self.rows, *more))

    def finished(self, folder: Path) -> list[Row]:
        """Return the rows whose runs are finished; raise FileNotFoundError if there is none."""
        found = [row for row in self.rows if is_finished(run_of(folder, row))]
        if not found:
            raise FileNotFoundError(f"{folder} has no finished run; it needs some to be trained first")
        return found

    def train(self, folder: Path, sequences: int, jobs: int, data_root: Path) -> int:
        """Train every row that is not finished, so many at a time; return how many failed.

        Args:
            folder: of the runs; what they print goes to NAME.log in it.
            sequences: that each row is trained on, the same ones in the same order.
            jobs: how many rows at a time; the cores are shared among them.
            data_root: where torchvision keeps MNIST.

        Raises:
            ValueError: no jobs; sequences that are not whole batches of every row; runs of another number.
        """
        if jobs < 1:
            raise ValueError(f"jobs is {jobs}; it needs 1 or more")
        settings = {row: self.settings(row) for row in self.rows}
        for row, config in settings.items():
            if sequences < 1 or sequences % config.batch_size:
                raise ValueError(
                    f"sequences is {sequences}; {row.label} needs a multiple of its batch of "
                    f"{config.batch_size}"
                )
            check_sequences(run_of(folder, row), sequences)
        threads = max(1, (os.cpu_count() or 1) // jobs)
        missing = [row for row in self.rows if not is_finished(run_of(folder, row))]
        device = choose_device("auto")
        machine = {"machine": machine_name(device), "jobs": jobs, "threads": threads}
        precision = ["--bfloat16", choose_bfloat16("auto", device)]  # the same in all rows
        folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}

        def work(row: Row) -> int:
            run = run_of(folder, row)
            if states_of(run):
                arguments = ["--resume", f"runs/{row.name}"]
            else:
                own = ["--steps", str(sequences // settings[row].batch_size), "--name", row.name]
                root = ["--data.root", str(data_root.resolve())]
                arguments = [*self.arguments(row), *own, *root, *precision]
            print(f"{row.name}: train.py {' '.join(arguments)}", flush=True)
            write_json(folder / f"{row.name}-{MACHINE}", machine)
            return start(folder, row, arguments, environment)

        print(f"{len(self.rows) - len(missing)} of {len(self.rows)} rows are finished", flush=True)
        with stopping_children(), ThreadPoolExecutor(jobs) as pool:
            try:
                return sum(code != 0 for code in pool.map(work, missing))
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                for child in list(CHILDREN):  # those that end meanwhile leave it
                    child.terminate()  # which saves its state
                raise


def add_train(commands: Any, **options: Any) -> argparse.ArgumentParser:
    """Add the command that trains the rows of a study, to the command line of its script; return it."""
    training = commands.add_parser("train", **options)
    training.add_argument("--sequences", type=int, default=10_000, help="that each row is trained on")
    training.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="rows at a time")
    training.add_argument("--data-root", type=Path, default=ROOT / "data", help="where MNIST is, or goes")
    return training


@contextlib.contextmanager
def stopping_children() -> Iterator[None]:
    """Take a SIGTERM for a Ctrl-C meanwhile; where one came, the program ends when its children have.

    Raises:
        SystemExit: of 128 + SIGINT.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def run_of(folder: Path, row: Row) -> Path:
    """Return the directory of a row's run; train.py, started in the folder, makes it there."""
    return folder / "runs" / row.name


def machines_of(folder: Path, rows: Sequence[Row]) -> str:
    """Return in words what rows were trained on, and how, a line for each such way."""
    read = (json.loads((folder / f"{row.name}-{MACHINE}").read_text(encoding="utf-8")) for row in rows)
    told = (
        f"{machine['machine']}; runs at a time: {machine['jobs']}, threads of each: {machine['threads']}."
        for machine in read
    )
    return "\n".join(dict.fromkeys(told))


def is_finished(run: Path) -> bool:
    """Return whether a run is tested, too: the last that train.py writes is its rollout."""
    return (run / "rollout.gif").is_file()


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
        # In a group of its own: a Ctrl-C reaches it once, through this program.
        child = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        CHILDREN.add(child)
        code = child.wait()
        CHILDREN.remove(child)
    ended = {0: "finished", 128 + signal.SIGINT: "stopped", 128 + signal.SIGTERM: "stopped"}
    print(f"{row.name}: {ended.get(code, f'failed with exit status {code}')}; see {log}", flush=True)
    return code


def seconds_per_sequence(run: Path) -> float:
    """Return what a sequence took in training; a tenth of the stretches, less disturbed, were faster."""
    key = "train/sequences_per_second"
    return 1 / float(np.quantile([values[key] for values in read_run(run).metrics if key in values], IDLE))
