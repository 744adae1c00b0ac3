"""Signals and exit codes; what first was not finite; too little memory and the settings that need less."""

import io
import math
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from convlstm import (
    EncoderForecaster,
    EncoderForecasterConfig,
    FullyConnectedForecaster,
    FullyConnectedForecasterConfig,
    StackedForecaster,
    StackedForecasterConfig,
    training,
)

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is for tests under nohup
    SIGNALS.append(signal.SIGHUP)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_until_it_is_asked_for(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [signal.getsignal(n) for n in SIGNALS]
    with training.Stopping() as stopping:
        stopping.check()
        os.kill(os.getpid(), number)
        assert stopping.signal == number
        with pytest.raises(training.Stopped, match=f"stopped by {number.name}"):
            stopping.check(32)  # as a progress callback is called
    assert [signal.getsignal(n) for n in SIGNALS] == before
    assert f"{number.name}: ending this step" in capsys.readouterr().err


def test_one_process_stops_when_another_was_asked_to() -> None:
    with training.Stopping() as stopping:
        stopping.stop_if(False)
        with pytest.raises(training.Stopped, match="SIGTERM"):
            stopping.stop_if(True)


@pytest.mark.parametrize("alone", [True, False])
def test_a_second_ctrl_c_ends_a_lone_process_at_once(alone: bool) -> None:
    with training.Stopping(alone):
        os.kill(os.getpid(), signal.SIGTERM)
        assert (signal.getsignal(signal.SIGINT) is signal.SIG_DFL) is alone


def test_before_the_run_too_a_second_ctrl_c_ends_at_once() -> None:
    found: list[object] = []

    def run() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            found.append(signal.getsignal(signal.SIGINT))
            os.kill(os.getpid(), signal.SIGTERM)  # which does not cut the end short

    assert training.exit_status("x.py", run) == 128 + signal.SIGINT
    assert found == [signal.SIG_DFL]


def test_a_process_whose_torchrun_is_gone_stops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopping = training.Stopping()
    for torchrun in (False, True):
        if torchrun:
            monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")
        monkeypatch.setattr(os, "getppid", lambda: 4321)
        stopping = training.Stopping(alone=False)
        assert not stopping.is_requested()
        monkeypatch.setattr(os, "getppid", lambda: 1)
        assert stopping.is_requested() == torchrun  # a shell may end
    with pytest.raises(training.Stopped, match="SIGTERM"):
        stopping.check()
    assert capsys.readouterr().err == "\ntorchrun is gone: ending this step, then saving\n"


def raising(error: BaseException) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("run", "status", "said"),
    [
        (lambda: None, 0, ""),
        (raising(ValueError("lr is 0;\nit needs more")), 2, "x.py: error: lr is 0; it needs more\n"),
        (raising(MemoryError("out of memory")), 2, "x.py: error: out of memory\n"),
        (raising(training.Stopped(signal.SIGTERM)), 143, "x.py: stopped by SIGTERM\n"),
        (raising(training.Stopped(2, "go on")), 130, "x.py: go on\n"),
    ],
)
def test_the_exit_status_says_what_happened(run, status: int, said: str, capsys) -> None:
    assert training.exit_status("x.py", run) == status
    assert capsys.readouterr().err == said


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError):
        training.exit_status("x.py", raising(RuntimeError()))


@pytest.mark.parametrize("number", SIGNALS)
def test_before_the_run_a_signal_ends_the_script(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    assert training.exit_status("x.py", lambda: os.kill(os.getpid(), number)) == 128 + number
    assert signal.getsignal(number) is before


def test_under_nohup_a_run_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with training.Stopping() as stopping:
            os.kill(os.getpid(), signal.SIGHUP)
            stopping.check()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_may_come_while_something_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Signalled(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            if stopping.signal is None:
                os.kill(os.getpid(), signal.SIGTERM)
            return len(bytes(data))

    stderr = io.TextIOWrapper(io.BufferedWriter(Signalled()), write_through=True)
    monkeypatch.setattr(sys, "stderr", stderr)
    with training.Stopping() as stopping:
        print("a bar", file=sys.stderr, flush=True)
    assert stopping.signal == signal.SIGTERM


Network = StackedForecaster | EncoderForecaster | FullyConnectedForecaster


def stacked() -> StackedForecaster:
    return StackedForecaster(StackedForecasterConfig(hidden_channels=(3, 2), kernel_size=3))


def encoder() -> EncoderForecaster:
    return EncoderForecaster(EncoderForecasterConfig(hidden_channels=(3, 2), kernel_size=3))


def strided() -> EncoderForecaster:
    config = EncoderForecasterConfig(hidden_channels=(3, 2), kernel_size=3, patch_size=1, strides=(2, 2))
    return EncoderForecaster(config)


def fully_connected() -> FullyConnectedForecaster:
    return FullyConnectedForecaster(FullyConnectedForecasterConfig(frame_size=(8, 8), hidden_size=3))


each_network = pytest.mark.parametrize("make", [stacked, encoder, strided, fully_connected])


def loss_of(model: Network, scale: float = 1.0, data: float = 0.5) -> Tensor:
    return (model(torch.full((1, 2, 1, 8, 8), data), 2) * scale).square().sum()


def found(model: Network, **options: float) -> str:
    loss_of(model, **options).backward()
    return training.find_nonfinite(model, (loss_of(model, **options) for _ in range(1)))[1]


@each_network
def test_the_layer_where_it_began_is_named(make) -> None:
    for name, _ in make().named_parameters():
        model = make()
        with torch.no_grad():
            model.get_parameter(name).fill_(math.nan)
        assert found(model) == name.rpartition(".")[0]


@each_network
def test_the_data_and_the_loss_are_named(make) -> None:
    assert found(make(), data=math.nan) == "the data"
    assert found(make(), scale=1e30) == "the loss"


def test_every_part_of_a_step_is_looked_at() -> None:
    model = stacked()
    loss_of(model).backward()
    losses = (loss_of(model, data=data) for data in (0.5, math.nan))
    assert training.find_nonfinite(model, losses) == (0, "the data")


def test_a_gradient_is_named_where_nothing_before_it_was_wrong() -> None:
    model = stacked()
    loss_of(model).backward()
    for parameter in model.cells[0].parameters():
        assert parameter.grad is not None
        parameter.grad.fill_(math.inf)
    assert training.find_nonfinite(model, (loss_of(model) for _ in range(1))) == (
        3,
        "the gradient of cells.0",
    )


def test_looking_leaves_the_network_as_it_was() -> None:
    model = stacked()
    before = {name: dict(module.__dict__) for name, module in model.named_modules()}
    found(model)
    after = {name: dict(module.__dict__) for name, module in model.named_modules()}
    assert [list(values) for values in before.values()] == [list(values) for values in after.values()]
    assert not model.head._forward_hooks


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_an_error_about_memory_names_the_settings_that_need_less(error: Exception) -> None:
    with (
        pytest.raises(
            MemoryError, match=r"\d GiB .* batch_size 16 and accumulate 2; .* --accumulate 4 .*--recomp"
        ),
        training.explain_out_of_memory(torch.device("cpu"), 16, 2),
    ):
        raise error


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "processes", "advised"),
    [(4, 1, 1, "give --accumulate 2 "), (6, 2, 2, "give --accumulate 3 "), (4, 2, 2, "give --recompute")],
)
def test_no_more_parts_are_advised_than_there_are_sequences(
    batch_size: int, accumulate: int, processes: int, advised: str
) -> None:
    given = torch.device("cpu"), batch_size, accumulate, processes
    with pytest.raises(MemoryError, match=advised), training.explain_out_of_memory(*given):
        raise MemoryError


def test_the_allocator_of_the_cpu_is_understood() -> None:
    with (
        pytest.raises(MemoryError, match="--accumulate 2"),
        training.explain_out_of_memory(torch.device("cpu"), 4, 1),
    ):
        torch.empty(2**60, dtype=torch.uint8)


def test_other_errors_are_left_alone() -> None:
    with (
        pytest.raises(RuntimeError, match="shape"),
        training.explain_out_of_memory(torch.device("cpu"), 1, 1),
    ):
        raise RuntimeError("a shape")
