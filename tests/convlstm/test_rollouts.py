"""Rollouts: whole and streamed are the same frames, and nothing of the caller's state is touched."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from convlstm import (
    EncoderForecaster,
    EncoderForecasterConfig,
    Forecaster,
    FullyConnectedForecaster,
    FullyConnectedForecasterConfig,
    StackedForecaster,
    StackedForecasterConfig,
    rollout,
    stream,
)


@pytest.fixture(params=["stacked", "encoder-forecaster", "strided", "fully connected"])
def model(request) -> Forecaster:
    if request.param == "stacked":
        return StackedForecaster(StackedForecasterConfig(hidden_channels=(4, 3), kernel_size=3))
    if request.param == "fully connected":
        return FullyConnectedForecaster(FullyConnectedForecasterConfig(frame_size=(8, 12), hidden_size=16))
    strided = {"patch_size": 2, "strides": (1, 2)} if request.param == "strided" else {}
    return EncoderForecaster(EncoderForecasterConfig(hidden_channels=(4, 3), kernel_size=3, **strided))


@pytest.fixture
def context() -> Tensor:
    return torch.rand(2, 4, 1, 8, 12)


def test_rollout_is_the_model_without_gradients(model: Forecaster, context: Tensor) -> None:
    frames = rollout(model, context, 7)
    assert frames.shape == (2, 7, 1, 8, 12)
    assert not frames.requires_grad
    # Without gradients torch.nn's layers round in another way.
    atol = 1e-6 if isinstance(model, FullyConnectedForecaster) else 0
    assert_close(frames, model(context, 7), rtol=0, atol=atol)


def test_stream_yields_the_same_frames(model: Forecaster, context: Tensor) -> None:
    frames = list(stream(model, context, 7))
    assert all(not frame.requires_grad for frame in frames)
    assert_close(torch.stack(frames, dim=1), rollout(model, context, 7), rtol=0, atol=1e-6)


def test_stream_goes_on_for_as_long_as_asked(model: Forecaster, context: Tensor) -> None:
    frames = list(itertools.islice(stream(model, context), 25))
    assert_close(torch.stack(frames, dim=1), rollout(model, context, 25), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frames_have_the_type_of_the_context(model: Forecaster, context: Tensor, dtype: torch.dtype) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        whole = rollout(model, context.to(dtype), 4)
        frames = list(stream(model, context.to(dtype), 4))
    assert {whole.dtype, *(frame.dtype for frame in frames)} == {dtype}
    assert_close(torch.stack(frames, dim=1), whole)


@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_is_as_before(model: Forecaster, context: Tensor, training: bool) -> None:
    model.train(training)
    modes = []
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    rollout(model, context, 2)
    assert modes == [False]
    frames = stream(model, context)
    next(frames)
    assert model.training is training
    assert torch.is_grad_enabled()
    next(frames)
    assert model.training is training


def test_a_part_in_evaluation_mode_stays_so(model: Forecaster, context: Tensor) -> None:
    model.train()
    next(model.children()).eval()
    rollout(model, context, 2)
    assert [module.training for module in model.children()] == [False] + [True] * (
        len(list(model.children())) - 1
    )


def test_the_training_mode_is_as_before_after_an_error(model: Forecaster) -> None:
    model.train()
    with pytest.raises(ValueError, match="channels"):
        rollout(model, torch.rand(2, 4, 3, 8, 12), 2)
    assert model.training


@pytest.mark.parametrize("horizon", [0, -1, 2.0, True])
def test_a_horizon_that_does_not_fit_is_refused_at_once(model: Forecaster, context: Tensor, horizon) -> None:
    with pytest.raises(ValueError, match="horizon is"):
        rollout(model, context, horizon)
    with pytest.raises(ValueError, match="horizon is"):
        stream(model, context, horizon)


def test_a_context_that_does_not_fit_is_refused_at_once(model: Forecaster) -> None:
    with pytest.raises(ValueError, match="context has shape"):
        stream(model, torch.rand(2, 0, 1, 8, 12))


def test_frames_and_context_are_the_callers_to_change(model: Forecaster, context: Tensor) -> None:
    expected = rollout(model, context, 5)
    frames = stream(model, context, 5)
    context.zero_()
    changed = [frame.add_(1) for frame in frames]
    assert_close(torch.stack(changed, dim=1), expected + 1, rtol=0, atol=1e-6)
