"""Rollouts: whole and streamed are the same frames, and nothing of the caller's state is touched."""

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage, optimize
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.testing import assert_close

from convlstm import (
    ConvLSTM,
    EncoderForecaster,
    Forecaster,
    FullyConnectedForecaster,
    StackedForecaster,
    rollout,
    stream,
)
from convlstm.models import rollouts


@pytest.fixture(params=["stacked", "encoder-forecaster", "strided", "fully connected"])
def model(request) -> Forecaster:
    if request.param == "stacked":
        return StackedForecaster(hidden_channels=(4, 3), kernel_size=3)
    if request.param == "fully connected":
        return FullyConnectedForecaster(frame_size=(8, 12), hidden_size=16)
    strided = {"patch_size": 2, "strides": (1, 2)} if request.param == "strided" else {}
    return EncoderForecaster(hidden_channels=(4, 3), kernel_size=3, **strided)


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
    frames = list(itertools.islice(stream(model, context), 12))  # for as long as asked
    assert_close(torch.stack(frames, dim=1), rollout(model, context, 12), rtol=0, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        for given in (context, context.bfloat16()):
            assert {frame.dtype for frame in stream(model, given, 2)} == {given.dtype}


@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_is_as_before(model: Forecaster, context: Tensor, training: bool) -> None:
    model.train(training)
    first, *others = model.children()
    first.eval()  # a part in evaluation mode stays so
    modes = []
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    frames = stream(model, context)
    for forecast in (lambda: rollout(model, context, 2), lambda: next(frames), lambda: next(frames)):
        forecast()
        assert model.training is training
        assert [part.training for part in model.children()] == [False] + [training] * len(others)
        assert torch.is_grad_enabled()
    assert modes == [False]
    with pytest.raises(ValueError, match="channels"):
        rollout(model, torch.rand(2, 4, 3, 8, 12), 2)
    assert model.training is training


@pytest.mark.parametrize("horizon", [0, 2.0, True])
def test_a_horizon_that_does_not_fit_is_refused_at_once(model: Forecaster, context: Tensor, horizon) -> None:
    with pytest.raises(ValueError, match="horizon is"):
        rollout(model, context, horizon)
    with pytest.raises(ValueError, match="horizon is"):
        stream(model, context, horizon)
    if model.feedback:
        with pytest.raises(ValueError, match="horizon is"):
            rollout(model, context, horizon, sharpen=2)
    with pytest.raises(ValueError, match="context has shape"):
        stream(model, context[:, :0])


@pytest.mark.parametrize("sharpen", [0, 2])
def test_frames_and_context_are_the_callers_to_change(
    model: Forecaster, context: Tensor, sharpen: float
) -> None:
    sharpen *= model.feedback
    expected = rollout(model, context, 5, sharpen=sharpen)
    frames = stream(model, context, 5, sharpen=sharpen)
    context.zero_()
    changed = [frame.add_(1) for frame in frames]
    assert_close(torch.stack(changed, dim=1), expected + 1, rtol=0, atol=1e-6)


@pytest.fixture(params=["stacked", "fully connected"])
def reader(request) -> Forecaster:
    """Return a network that reads its own predictions, of which some lie outside of [0, 1]."""
    if request.param == "stacked":
        model = StackedForecaster(hidden_channels=(4, 3), kernel_size=3, channels=2)
    else:
        model = FullyConnectedForecaster(frame_size=(8, 12), hidden_size=16, channels=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def sharpened(frames: Tensor, strength: float) -> Tensor:
    """Return frames (B, C, H, W) after unsharp masking, by scipy, channel by channel."""
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    read = []
    for p in frames.flatten(0, 1).numpy():  # (H, W)
        q = p + strength * (p - ndimage.convolve(p, kernel, mode="nearest"))
        brightness = p.clip(0, 1).sum()

        def excess(b: float, q=q, brightness=brightness) -> float:
            return (q - b).clip(0, 1).sum() - brightness

        read.append((q - optimize.brentq(excess, q.min() - 1, q.max(), xtol=1e-14)).clip(0, 1))
    return torch.from_numpy(np.stack(read)).view_as(frames)


@pytest.mark.parametrize("strength", [0.5, 2, np.float32(3)])
def test_a_sharpened_rollout_reads_sharpened_predictions(reader: Forecaster, strength: float) -> None:
    reader, context = reader.double(), torch.rand(2, 4, 2, 8, 12).double()
    with torch.no_grad():
        frame, state = reader.step(None, reader.encode(context))
        expected = [frame]
        for _ in range(6):
            frame, state = reader.step(sharpened(frame, float(strength)), state)
            expected.append(frame)
    found = rollout(reader, context, 7, sharpen=strength)
    assert_close(found, torch.stack(expected, dim=1), rtol=0, atol=1e-7)
    assert_close(torch.stack(list(stream(reader, context, 7, sharpen=strength)), dim=1), found)
    assert found.min() < 0  # it is what is read that is clipped
    plain = rollout(reader, context, 7, sharpen=0)
    assert_close(plain, rollout(reader, context, 7), rtol=0, atol=0)
    assert_close(found[:, 0], plain[:, 0])  # the context is read as it is
    assert not torch.isclose(found[:, 1], plain[:, 1]).all()


@pytest.mark.parametrize("strength", [0.5, 3, 100])
def test_a_sharpened_frame_is_as_bright_as_it_was(strength: float) -> None:
    frames = torch.rand(3, 2, 9, 7) * torch.tensor([0.01, 1, 3])[:, None, None, None] - 0.1
    frames[0, 0] = 0  # black, and stays so
    frames[2, 1] = 7  # more than white: read as white
    read = rollouts._sharpened(frames, strength)
    assert read.min() >= 0
    assert read.max() <= 1
    brightness = frames.clamp(0, 1).sum(dim=(2, 3))
    assert_close(read.sum(dim=(2, 3)), brightness, rtol=1e-4, atol=1e-4)
    assert not read[0, 0].any()
    assert (read[2, 1] == 1).all()
    before, after = (x[1].diff(dim=-1).square().sum() for x in (frames, read))  # two frames, not clipped
    assert after > before


def test_sharpened_in_a_wrapper_and_in_the_type_of_the_context(reader: Forecaster) -> None:
    context = torch.rand(2, 4, 2, 8, 12)
    expected = rollout(reader, context, 4, sharpen=2)
    assert_close(rollout(AveragedModel(reader), context, 4, sharpen=2), expected, rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        for given in (context, context.bfloat16()):
            assert rollout(reader, given, 3, sharpen=2).dtype == given.dtype


def test_a_frame_in_bfloat16_is_read_as_bright_as_it_was() -> None:
    faint = (0.1 * torch.rand(1, 1, 64, 64)).bfloat16()
    read = rollouts._sharpened(faint, 2.0)
    assert read.dtype == torch.bfloat16
    assert_close(read.float().sum(), faint.float().sum(), rtol=5e-4, atol=0)


def test_what_is_no_number_stays_in_its_sequence() -> None:
    frames = torch.rand(2, 2, 8, 1)
    expected = rollouts._sharpened(frames[1:], 2.0)
    frames[0, 0, 0, 0] = torch.nan
    assert_close(rollouts._sharpened(frames, 2.0)[1:], expected, rtol=0, atol=0)
    assert expected.isfinite().all()


@pytest.mark.parametrize("strength", [-0.1, 1000.1, float("nan"), float("inf"), True, "2"])
def test_a_strength_that_does_not_fit_is_refused_at_once(reader: Forecaster, strength) -> None:
    context = torch.rand(2, 4, 2, 8, 12)
    with pytest.raises(ValueError, match="sharpen is"):
        rollout(reader, context, 3, sharpen=strength)
    with pytest.raises(ValueError, match="sharpen is"):
        stream(reader, context, sharpen=strength)


def test_only_forecasters_that_read_their_own_predictions_are_sharpened(context: Tensor) -> None:
    class Last(torch.nn.Module):
        def forward(self, context: Tensor, horizon: int) -> Tensor:
            return context[:, -1:].expand(-1, horizon, -1, -1, -1)

    assert rollout(Last(), context, 3).shape == (2, 3, 1, 8, 12)
    for model in (Last(), EncoderForecaster(hidden_channels=(4, 3), kernel_size=3)):
        message = f"sharpen is 2 for {type(model).__name__}; it needs a forecaster that reads its own predic"
        with pytest.raises(ValueError, match=message):
            rollout(model, context, 3, sharpen=2)


@pytest.mark.parametrize("forecast", [rollout, stream])
def test_a_name_is_no_network(forecast) -> None:
    with pytest.raises(ValueError, match="model is a str; it needs a forecaster, such as"):
        forecast("moving_mnist_small", torch.rand(1, 2, 1, 64, 64), 1)
    with pytest.raises(ValueError, match="model is a ConvLSTM layer, which forecasts no frames"):
        forecast(ConvLSTM(1, 2, 3), torch.rand(1, 2, 1, 64, 64), 1)
