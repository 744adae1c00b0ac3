"""Signals and exit codes; what first was not finite; too little memory and the settings that need less."""

import math
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from convlstm import (
    EncoderForecasterConfig,
    Forecaster,
    FullyConnectedForecasterConfig,
    StackedForecasterConfig,
)
from convlstm.models.forecaster import ForecasterConfig, build
from convlstm.training.stopping import Stopped, Stopping, exit_status, explain_out_of_memory, find_nonfinite

CPU = torch.device("cpu")
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP]


@pytest.fixture(autouse=True)
def _no_signal_is_ignored() -> Iterator[None]:
    """Handle signals as in a terminal: in the background SIGINT is ignored, under nohup SIGHUP."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_until_it_is_asked_for(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [signal.getsignal(n) for n in SIGNALS]
    with Stopping() as stopping:
        stopping.check()
        os.kill(os.getpid(), number)
        assert stopping.signal == number
        with pytest.raises(Stopped, match=f"stopped by {number.name}"):
            stopping.check(32)  # as a progress callback is called
    assert [signal.getsignal(n) for n in SIGNALS] == before
    assert f"{number.name}: ending this step" in capsys.readouterr().err


@pytest.mark.parametrize("alone", [True, False])
def test_a_second_ctrl_c_ends_a_lone_process_at_once(alone: bool) -> None:
    with Stopping(alone):
        os.kill(os.getpid(), signal.SIGTERM)
        assert (signal.getsignal(signal.SIGINT) is signal.SIG_DFL) is alone


@pytest.mark.parametrize("number", SIGNALS)
def test_before_the_run_a_signal_ends_the_script_and_a_second_ctrl_c_at_once(number: signal.Signals) -> None:
    before, found = signal.getsignal(number), []

    def run() -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            found.append(signal.getsignal(signal.SIGINT))
            os.kill(os.getpid(), signal.SIGTERM)  # which does not cut the end short

    assert exit_status("x.py", run) == 128 + number
    assert found == [signal.SIG_DFL]
    assert signal.getsignal(number) is before


def test_a_process_whose_torchrun_is_gone_stops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopping = Stopping()
    for torchrun in (False, True):
        if torchrun:
            monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")
        monkeypatch.setattr(os, "getppid", lambda: 4321)
        stopping = Stopping(alone=False)
        assert not stopping.is_requested()
        monkeypatch.setattr(os, "getppid", lambda: 1)
        assert stopping.is_requested() == torchrun  # a shell may end
    with pytest.raises(Stopped, match="SIGTERM"):
        stopping.check()
    with pytest.raises(Stopped, match="SIGTERM"):
        Stopping().stop_if(True)  # as another process was asked to
    assert capsys.readouterr().err == "\ntorchrun is gone: ending this step, then saving\n"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (None, 0, ""),
        (ValueError("lr is 0;\nit needs more"), 2, "x.py: error: lr is 0; it needs more\n"),
        (MemoryError("out of memory"), 2, "x.py: error: out of memory\n"),
        (Stopped(signal.SIGTERM), 143, "x.py: stopped by SIGTERM\n"),
        (Stopped(2, "go on"), 130, "x.py: go on\n"),
    ],
)
def test_the_exit_status_says_what_happened(
    error: BaseException | None, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status("x.py", Mock(side_effect=error)) == status
    assert capsys.readouterr().err == message


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError):
        exit_status("x.py", Mock(side_effect=RuntimeError))


def test_under_nohup_a_run_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stopping() as stopping:
            os.kill(os.getpid(), signal.SIGHUP)
            stopping.check()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_may_come_while_something_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Mock(write=Mock(side_effect=RuntimeError("reentrant call"))))
    with Stopping() as stopping:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.signal == signal.SIGTERM


LOSING = """
import os, signal, sys
from tqdm import tqdm
tqdm.monitor_interval = 0  # no thread that writes too soon
from convlstm.training.distributed import Distributed
from convlstm.training.stopping import Stopping, exit_status

for number in (signal.SIGINT, signal.SIGHUP):  # which may be ignored around the tests
    signal.signal(number, signal.SIG_DFL)

def run():
    with Stopping() as stopping, tqdm(total=9) as bar:
        print("begins")
        sys.stdin.readline()  # until nobody reads
        if {number}:
            signal.raise_signal({number})  # in this thread, at once
        bar.update()
        bar.refresh()
        Distributed().print("step 1")
        print("step 2")
        open({saved!r}, "w").close()
        stopping.check()

sys.exit(exit_status("x.py", run))
"""


@pytest.mark.parametrize(("number", "terminal"), [(0, False), (signal.SIGINT, False), (signal.SIGHUP, True)])
def test_output_that_nobody_reads_any_more_ends_the_run_as_a_signal_does(
    tmp_path: Path, number: int, terminal: bool
) -> None:
    saved = tmp_path / "saved"
    command = [sys.executable, "-c", LOSING.format(number=int(number), saved=str(saved))]
    read, write = pty.openpty() if terminal else os.pipe()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=write, stderr=write)
    os.close(write)
    output = b""
    while b"\n" not in output.partition(b"begins")[2]:  # shown at once, although a pipe is buffered
        part = os.read(read, 1000)
        assert part, output
        output += part
    os.close(read)
    process.communicate(b"\n")
    assert process.returncode == 128 + (number or signal.SIGPIPE)
    assert saved.exists()


def test_a_thread_may_train() -> None:
    found = []

    def run() -> None:
        with Stopping() as stopping:
            stopping.check()
            found.append(stopping.signal)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [None]


SIZES: dict[str, Any] = {"hidden_channels": (3, 2), "kernel_size": 3}
STACKED = StackedForecasterConfig(**SIZES)
CONFIGS = [
    STACKED,
    EncoderForecasterConfig(**SIZES),
    EncoderForecasterConfig(**SIZES, patch_size=1, strides=(2, 2)),
    FullyConnectedForecasterConfig(frame_size=(8, 8), hidden_size=3),
]


def loss_of(model: Forecaster, scale: float = 1.0, data: float = 0.5) -> Tensor:
    return (model(torch.full((1, 2, 1, 8, 8), data), 2) * scale).square().sum()


def found(model: Forecaster, **options: float) -> str:
    loss_of(model, **options).backward()
    return find_nonfinite(model, (loss_of(model, **options) for _ in range(1)))[1]


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_the_layer_where_it_began_is_named(config: ForecasterConfig) -> None:
    for name, _ in build(config).named_parameters():
        model = build(config)
        with torch.no_grad():
            model.get_parameter(name).fill_(math.nan)
        assert found(model) == name.rpartition(".")[0]


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_the_data_and_the_loss_are_named(config: ForecasterConfig) -> None:
    assert found(build(config), data=math.nan) == "the data"
    assert found(build(config), scale=1e30) == "the loss"


def test_every_part_of_a_step_is_looked_at() -> None:
    model = build(STACKED)
    loss_of(model).backward()
    losses = (loss_of(model, data=data) for data in (0.5, math.nan))
    assert find_nonfinite(model, losses) == (0, "the data")


def test_a_gradient_is_named_where_nothing_before_it_was_wrong() -> None:
    model = build(STACKED)
    loss_of(model).backward()
    for parameter in model.get_submodule("cells.0").parameters():
        assert parameter.grad is not None
        parameter.grad.fill_(math.inf)
    assert find_nonfinite(model, (loss_of(model) for _ in range(1))) == (
        3,
        "the gradient of cells.0",
    )


def test_looking_leaves_the_network_as_it_was() -> None:
    model = build(STACKED)
    before = {name: dict(module.__dict__) for name, module in model.named_modules()}
    found(model)
    after = {name: dict(module.__dict__) for name, module in model.named_modules()}
    assert [list(values) for values in before.values()] == [list(values) for values in after.values()]
    assert not model.get_submodule("head")._forward_hooks


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_an_error_about_memory_names_the_settings_that_need_less(error: Exception) -> None:
    needs = r"\d GiB .* batch_size 16 and accumulate 2; .* --accumulate 4 .*--recomp"
    with pytest.raises(MemoryError, match=needs), explain_out_of_memory(CPU, 16, 2):
        raise error


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "processes", "advised"),
    [(4, 1, 1, "give --accumulate 2 "), (6, 2, 2, "give --accumulate 3 "), (4, 2, 2, "give --recompute")],
)
def test_no_more_parts_are_advised_than_there_are_sequences(
    batch_size: int, accumulate: int, processes: int, advised: str
) -> None:
    given = CPU, batch_size, accumulate, processes
    with pytest.raises(MemoryError, match=advised), explain_out_of_memory(*given):
        torch.empty(2**60, dtype=torch.uint8)  # what the CPU's allocator raises is understood


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="shape"), explain_out_of_memory(CPU, 1, 1):
        raise RuntimeError("a shape")
