"""A study: runs of train.py that differ in a few settings, on the same sequences in the same order.

`Study.train` trains them, `finished` lists those that are done, and the functions below read what the tables
of a study say of a run.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import train
from benchmarks.timing import machine_name
from convlstm.core.checks import positive
from convlstm.core.files import write_json
from convlstm.hub.checkpoint import read_config
from convlstm.models.forecaster import Forecaster, build
from convlstm.report import read_run
from convlstm.training.hardware import choose_bfloat16, choose_device
from convlstm.training.states import states_of

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "train.py"
MACHINE = "machine.json"  # NAME-machine.json: what a row was last trained on
IDLE_QUANTILE = 0.9  # of the speeds in a run's log: the speed of a machine with nothing else to do


@dataclass(frozen=True)
class Row:
    """A run of a study."""

    name: str
    """Name of the run."""
    label: str
    """Name in tables and charts. Rows that differ in their seed alone share it."""
    arguments: tuple[str, ...]
    """Arguments of train.py, beside those that all rows of the study have."""
    seed: int = 0
    """Seed of the run."""


@dataclass(frozen=True)
class Study:
    """Runs that are compared."""

    rows: tuple[Row, ...]
    common: tuple[str, ...]
    """Arguments of train.py that all rows have."""

    def settings(self, row: Row) -> train.Config:
        """Return the settings of a row's run, except for the number of steps."""
        return train.parse(self.arguments(row))

    def arguments(self, row: Row) -> list[str]:
        """Return the arguments of train.py that define a row."""
        return [*self.common, *row.arguments, "--seed", str(row.seed)]

    def repeated(self, seeds: int) -> "Study":
        """Return the study with each row under seeds 0 to `seeds - 1`; rows with other seeds stay."""
        present = {(row.label, row.seed) for row in self.rows}
        added = (
            replace(row, name=f"{row.name}-seed-{seed}", seed=seed)
            for row in self.rows
            for seed in range(1, seeds)
            if row.seed == 0 and (row.label, seed) not in present
        )
        return replace(self, rows=(*self.rows, *added))

    def finished(self, folder: Path) -> list[Row]:
        """Return the rows whose runs are finished; raise FileNotFoundError if none is."""
        rows = [row for row in self.rows if is_finished(run_of(folder, row))]
        if not rows:
            raise FileNotFoundError(f"{folder} has no finished run; train the study first")
        return rows

    def train(self, folder: Path, sequences: int, jobs: int, data_root: Path) -> int:
        """Train each row that is not finished and return how many failed.

        A SIGTERM or Ctrl-C stops the running rows with their states saved. The same call resumes them.

        Args:
            folder: Folder of the runs. The output of each goes to NAME.log in it.
            sequences: Number of training sequences of each row.
            jobs: Number of rows that train at a time. They share the cores.
            data_root: Folder in which torchvision keeps MNIST.

        Raises:
            ValueError: if `sequences` is not a multiple of a row's batch size, or if a row was begun with
                another number of sequences.
            SystemExit: with 130 if it was stopped.
        """
        positive("jobs", jobs)
        positive("sequences", sequences)
        settings = {row: self.settings(row) for row in self.rows}
        for row, config in settings.items():
            if sequences % config.batch_size:
                raise ValueError(
                    f"sequences is {sequences}; {row.label} needs a multiple of its batch size, "
                    f"{config.batch_size}"
                )
            check_sequences(run_of(folder, row), sequences)
        threads = max(1, (os.cpu_count() or 1) // jobs)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        device = choose_device("auto")
        machine = {"machine": machine_name(device), "jobs": jobs, "threads": threads}
        shared = ["--data.root", str(data_root.resolve()), "--bfloat16", choose_bfloat16("auto", device)]
        unfinished = [row for row in self.rows if not is_finished(run_of(folder, row))]
        children: list[subprocess.Popen[Any]] = []
        folder.mkdir(parents=True, exist_ok=True)

        def run(row: Row) -> int:
            if states_of(run_of(folder, row)):
                arguments = ["--resume", f"runs/{row.name}"]
            else:
                steps = str(sequences // settings[row].batch_size)
                arguments = [*self.arguments(row), "--steps", steps, "--name", row.name, *shared]
            print(f"{row.name}: train.py {' '.join(arguments)}", flush=True)
            write_json(folder / f"{row.name}-{MACHINE}", machine)
            with (folder / f"{row.name}.log").open("ab") as log:
                command = [sys.executable, str(SCRIPT), *arguments]
                # In a session of its own, so that a Ctrl-C reaches it once, from here.
                options: dict[str, Any] = {"stdout": log, "stderr": log, "start_new_session": True}
                children.append(child := subprocess.Popen(command, cwd=folder, env=environment, **options))
                code = child.wait()
            print(f"{row.name}: exit status {code}; see {log.name}", flush=True)
            return code

        print(f"{len(self.rows) - len(unfinished)} of {len(self.rows)} rows are finished", flush=True)
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
        with ThreadPoolExecutor(jobs) as pool:
            try:
                return sum(code != 0 for code in pool.map(run, unfinished))
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                for child in children:
                    child.terminate()
                print("stopped; the same command resumes it", file=sys.stderr)
                raise SystemExit(128 + signal.SIGINT) from None
            finally:
                signal.signal(signal.SIGTERM, before)


def add_train(commands: Any, **options: Any) -> argparse.ArgumentParser:
    """Add the command `train`, which trains the rows of a study, to a script's command line; return it."""
    parser = commands.add_parser("train", **options)
    parser.add_argument("--sequences", type=int, default=10_000, help="training sequences of each row")
    parser.add_argument(
        "--jobs", type=int, default=min(2, os.cpu_count() or 1), help="rows that train at a time"
    )
    parser.add_argument("--data-root", type=Path, default=ROOT / "data", help="folder of MNIST")
    return parser


def run_of(folder: Path, row: Row) -> Path:
    """Return the directory of a row's run; train.py, started in the folder, makes it there."""
    return folder / "runs" / row.name


def is_finished(run: Path) -> bool:
    """Return whether a run is trained and tested: the rollout is the last file that train.py writes."""
    return (run / "rollout.gif").is_file()


def check_sequences(run: Path, sequences: int) -> None:
    """Raise ValueError if there is a run that trains on another number of sequences."""
    if states_of(run):
        settings = read_config(run)["training"]
        begun = settings["steps"] * settings["batch_size"]
        if begun != sequences:
            raise ValueError(f"sequences is {sequences}, but {run} has {begun}; choose another --folder")


def machines_of(folder: Path, rows: Sequence[Row]) -> str:
    """Return a line for each machine, and way of using it, that rows were trained on."""
    machines = (json.loads((folder / f"{row.name}-{MACHINE}").read_text(encoding="utf-8")) for row in rows)
    lines = (
        f"{machine['machine']}; runs at a time: {machine['jobs']}, threads of each: {machine['threads']}."
        for machine in machines
    )
    return "\n".join(dict.fromkeys(lines))


def seconds_per_sequence(run: Path) -> float:
    """Return the training time of a sequence in seconds, where other work disturbed the run least."""
    key = "train/sequences_per_second"
    speeds = [values[key] for values in read_run(run).metrics if key in values]
    return 1 / float(np.quantile(speeds, IDLE_QUANTILE))


def macs(model: Forecaster, height: int, width: int, context: int = 1, horizon: int = 1) -> int:
    """Return the multiply-accumulate operations of one forecast, those of convolutions and matrices.

    A network that reads its own predictions takes `context + horizon - 1` steps, each with as many.

    Args:
        model: Network whose config is counted.
        height: Height of a frame in pixels.
        width: Width of a frame in pixels.
        context: Number of given frames. Default: 1.
        horizon: Number of forecast frames. Default: 1.
    """
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        frames = torch.empty(1, context, model.config.channels, height, width)
        build(model.config)(frames, horizon)
    return counter.get_total_flops() // 2  # a multiplication and an addition each
