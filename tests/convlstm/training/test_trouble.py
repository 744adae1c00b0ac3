"""What goes wrong in a step is named: the layer, the step, the settings that help."""

import math
from pathlib import Path

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
from convlstm.training import World

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
    return training.where_it_began(model, [lambda: loss_of(model, **options)])[1]


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
    parts = [lambda: loss_of(model), lambda: loss_of(model, data=math.nan)]
    assert training.where_it_began(model, parts) == (0, "the data")


def test_a_gradient_is_named_where_nothing_before_it_was_wrong() -> None:
    model = stacked()
    loss_of(model).backward()
    for parameter in model.cells[0].parameters():
        assert parameter.grad is not None
        parameter.grad.fill_(math.inf)
    assert training.where_it_began(model, [lambda: loss_of(model)]) == (3, "the gradient of cells.0")


def test_looking_leaves_the_network_as_it_was() -> None:
    model = stacked()
    before = {name: dict(module.__dict__) for name, module in model.named_modules()}
    found(model)
    after = {name: dict(module.__dict__) for name, module in model.named_modules()}
    assert [list(values) for values in before.values()] == [list(values) for values in after.values()]
    assert not model.head._forward_hooks


def test_skipped_steps_are_counted_and_after_ten_in_a_row_the_run_ends(tmp_path: Path) -> None:
    run = training.RunDirectory(tmp_path, World(), {})
    places = iter(["cells.1", "never asked"])

    def skip() -> str:
        run.progress.step += 1
        return training.skip_step(run, math.nan, World(), lambda: (1, next(places)))

    run.progress.step = 150
    assert skip() == "step 151: the loss is nan, first in cells.1; skipped"
    for _ in range(training.PATIENCE - 2):
        skip()
    with pytest.raises(ArithmeticError, match=r"step 160, .* 10 steps .* step 151 in cells.1; lower --lr"):
        skip()
    assert run.progress.skipped == run.progress.in_a_row == training.PATIENCE


def test_the_norms_of_the_layers_make_the_whole() -> None:
    model = stacked()
    loss_of(model).backward()
    norms = training.gradient_norms(model)
    assert list(norms) == ["gradient_norm/cells.0", "gradient_norm/cells.1", "gradient_norm/head"]
    whole = torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf).item()
    assert math.hypot(*norms.values()) == pytest.approx(whole)


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
        training.explained_memory(torch.device("cpu"), 16, 2),
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
    with pytest.raises(MemoryError, match=advised), training.explained_memory(*given):
        raise MemoryError


def test_the_allocator_of_the_cpu_is_understood() -> None:
    with (
        pytest.raises(MemoryError, match="--accumulate 2"),
        training.explained_memory(torch.device("cpu"), 4, 1),
    ):
        torch.empty(2**60, dtype=torch.uint8)


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="shape"), training.explained_memory(torch.device("cpu"), 1, 1):
        raise RuntimeError("a shape")
