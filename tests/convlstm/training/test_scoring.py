"""What a run trains on: equations, gradients at the ends of the range, probabilities that do not saturate."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from convlstm import EncoderForecasterConfig, FullyConnectedForecasterConfig, StackedForecasterConfig
from convlstm.models.forecaster import build
from convlstm.ops.choice import VARIABLE
from convlstm.training.scoring import frame_loss

SMALL: dict[str, Any] = {"output": "sigmoid", "hidden_channels": (3, 2), "kernel_size": 3}


def test_losses_are_summed_over_the_pixels_of_a_frame() -> None:
    z, y = (torch.randn(2, 3, 1, 4, 4, dtype=torch.float64) for _ in range(2))
    z, y = z.requires_grad_(), y.sigmoid()
    p = z.sigmoid()
    assert_close(frame_loss("mse", p, y), ((p - y) ** 2).sum(dim=(2, 3, 4)))
    ours = frame_loss("cross-entropy", p, y)
    assert_close(ours, F.binary_cross_entropy(p, y, reduction="none").sum(dim=(2, 3, 4)))
    [gradient] = torch.autograd.grad(ours.sum(), z)
    assert_close(gradient, p - y)


def test_probabilities_at_their_ends_have_a_finite_loss_and_nan_a_nan() -> None:
    p = torch.tensor([0.0, 1.0, 0.0, 1.0, 1e-38, 0.5]).view(6, 1, 1, 1, 1).requires_grad_()
    y = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.5]).view(6, 1, 1, 1, 1)
    loss = frame_loss("cross-entropy", p, y)
    [gradient] = torch.autograd.grad(loss.sum(), p)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    assert loss[:2].min() > 15
    assert loss[2:4].max() < 1e-6
    assert frame_loss("cross-entropy", torch.full_like(y, torch.nan), y).isnan().all()


@pytest.mark.parametrize("implementation", ["fused", "reference"])
@pytest.mark.parametrize(
    "config",
    [
        StackedForecasterConfig(**SMALL),
        EncoderForecasterConfig(**SMALL),
        FullyConnectedForecasterConfig(output="sigmoid", hidden_size=4, frame_size=(8, 8)),
    ],
    ids=lambda config: type(config).__name__,
)
def test_pixels_that_are_sure_and_wrong_learn_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, implementation: str, config
) -> None:
    monkeypatch.setenv(VARIABLE, implementation)
    model = build(config)
    weight, bias = (model.get_parameter(f"head.{name}") for name in ("weight", "bias"))
    torch.nn.init.zeros_(weight)
    torch.nn.init.constant_(bias, 10.0)  # p of 0.99995, which is 1 in bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        predictions = model(torch.rand(2, 3, 1, 8, 8), 2)
    loss = frame_loss("cross-entropy", predictions, torch.zeros_like(predictions))
    assert_close(loss, torch.full_like(loss, 10.0 * 64), rtol=1e-3, atol=0)
    loss.sum().backward()
    # p - y is 1 everywhere, of 2 sequences and 2 frames of 64 pixels.
    assert_close(bias.grad, torch.full_like(bias, 256 / len(bias)))
