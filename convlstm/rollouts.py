"""Rollouts: forecasts of any length from a context, whole or frame by frame."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from convlstm.arguments import positive
from convlstm.base import ConvRecurrent
from convlstm.forecaster import as_forecaster
from convlstm.saving import unwrap

__all__ = ["rollout", "stream"]


def rollout(model: nn.Module, context: Tensor, horizon: int) -> Tensor:
    """Forecast the `horizon` frames that follow the context, without gradients and in evaluation mode.

    Args:
        model: a forecaster, or what else is called as `model(context, horizon)`; its training mode is as
            before afterwards.
        context: (B, T, C, H, W), pixels in [0, 1], on the model's device; T of 1 or more.
        horizon: number of frames, 1 or more; it need not be the one trained on.

    Returns:
        (B, horizon, C, H, W), unclipped, in the type of the context.

    Raises:
        TypeError: a context that is no tensor.
        ValueError: a context or horizon that does not fit, named with what is needed, or a layer for a model.
    """
    if isinstance(unwrap(model), ConvRecurrent):
        as_forecaster(unwrap(model))  # raises
    with torch.no_grad(), _evaluation_mode(model):
        return model(context, horizon)


def stream(model: nn.Module, context: Tensor, horizon: int | None = None) -> Iterator[Tensor]:
    """Forecast frame after frame, in memory that does not grow with their number.

    Args:
        model: a forecaster, also in a wrapper such as torch.compile's.
        context: (B, T, C, H, W), pixels in [0, 1], on the model's device; T of 1 or more.
        horizon: number of frames, 1 or more, or None (default) to go on for as long as frames are asked for.

    Returns:
        An iterator over frames (B, C, H, W), unclipped; the same that `rollout` gives, in the type of the
        context.

    Raises:
        TypeError: a context that is no tensor.
        ValueError: a context or horizon that does not fit, named with what is needed, or a model that is no
            forecaster; at once, not at the first frame.
    """
    forecaster = as_forecaster(unwrap(model))
    if horizon is not None:
        horizon = positive("horizon", horizon)
    with torch.no_grad(), _evaluation_mode(forecaster):
        state = forecaster.encode(context)
    dtype = context.dtype

    def frames() -> Iterator[Tensor]:
        nonlocal state
        done = 0
        while horizon is None or done < horizon:
            # Grad and training mode belong to the caller between two frames.
            with torch.no_grad(), _evaluation_mode(forecaster):
                frame, state = forecaster.step(None, state)
            done += 1
            yield frame.to(dtype)

    return frames()


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    # Module by module: a part that was frozen in evaluation mode stays so.
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
