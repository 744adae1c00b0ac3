"""The strided convolutions between the cells of an EncoderForecaster."""

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch.testing import assert_close

from convlstm import EncoderForecaster, EncoderForecasterConfig, export, rollout
from convlstm.models.encoder_forecaster import convolution_down, convolution_up


def test_ones_are_the_form_without_convolutions() -> None:
    ones = EncoderForecasterConfig(hidden_channels=(3, 4), strides=(1, 1))
    assert ones == EncoderForecasterConfig(hidden_channels=(3, 4))
    names = EncoderForecaster(ones).state_dict().keys()
    assert {name.partition(".")[0] for name in names} == {"encoder", "forecaster", "head"}


@pytest.mark.parametrize("stride", [2, 3, 4, 5])
def test_convolutions_change_the_size_by_the_stride_and_every_pixel_counts_alike(stride: int) -> None:
    frames = torch.ones(1, 1, 6, 7)
    down, up = convolution_down(1, 1, stride), convolution_up(1, 1, stride)
    for module in (down, up):
        for parameter in module.parameters():
            torch.nn.init.ones_(parameter)
    enlarged = up(frames)
    assert enlarged.shape == (1, 1, 6 * stride, 7 * stride)
    inside = enlarged[..., stride:-stride, stride:-stride]
    assert_close(inside, torch.full_like(inside, 5.0))  # two taps per axis, and the bias
    read = enlarged.detach().requires_grad_()
    assert down(read).shape == (1, 1, 6, 7)
    (gradient,) = torch.autograd.grad(down(read).sum(), read)
    assert gradient.min() >= 1


@pytest.mark.parametrize("make", [convolution_down, convolution_up])
@pytest.mark.parametrize("stride", [2, 3])
def test_what_passes_keeps_its_mean_square_at_first(make: Any, stride: int) -> None:
    passed = make(32, 64, stride)(torch.randn(4, 32, 12 * stride, 12 * stride))[..., 1:-1, 1:-1]
    assert 0.85 < passed.square().mean() < 1.15


@pytest.mark.slow
def test_it_forecasts_in_onnxruntime_at_any_size_that_divides(tmp_path: Path) -> None:
    model = EncoderForecaster(
        cell="rnn", peephole=None, hidden_channels=(2, 3), kernel_size=3, patch_size=1, strides=(1, 2)
    )
    exported = export(model, tmp_path / "model.onnx", context=2, horizon=1, size=(8, 12))
    assert exported.free == ("batch", "rows", "columns")
    context = torch.rand(2, 2, 1, 4, 10)
    run = onnxruntime.InferenceSession(tmp_path / "model.onnx").run
    (frames,) = run(None, {"context": context.numpy()})
    assert_close(torch.as_tensor(frames), rollout(model, context, 1), rtol=0, atol=1e-5)
