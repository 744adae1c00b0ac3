"""Rollouts: forecasts of any length from a context, whole or frame by frame."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from convlstm.core.checks import finite, positive
from convlstm.core.saving import unwrap
from convlstm.models.forecaster import Forecaster, as_forecaster
from convlstm.nn.base import ConvRecurrent

__all__ = ["rollout", "stream"]

HALVINGS = 50  # of the interval that b lies in, to 1e-15 of it: one wild pixel may have widened it
MAX_SHARPEN = 1000  # stronger is of no use, and float32 overflows in the end


def rollout(model: nn.Module, context: Tensor, horizon: int, *, sharpen: float = 0.0) -> Tensor:
    """Forecast the `horizon` frames that follow the context, without gradients and in evaluation mode.

    A network trained on squared errors predicts the mean of what may follow, which is blurred. Feeding
    blurred predictions back compounds the blur until shapes vanish. With `sharpen` above 0 the network reads
    each of its predictions p after unsharp masking (Gonzalez and Woods, "Digital Image Processing", section
    3.6 of the 3rd edition), at the brightness of p::

        q = p + sharpen (p - k * p)
        read = clip(q - b, 0, 1), such that sum(read) = sum(clip(p, 0, 1))

    where `k * p` is p smoothed by [1 2 1] / 4 along rows and columns, with the edges repeated outwards, and b
    is a number for each sequence and channel. Of all frames with pixels in [0, 1] and this brightness, `read`
    is the nearest to q in squared error. The predictions p are returned as they are. Shapes last longer,
    wrong ones too: far from the context the squared error is larger than that of a blur.
    `studies/beyond.py --sharpen` measures what a strength does to a network; 3 suits `moving_mnist_small`.

    Args:
        model: a forecaster, or any module that is called as `model(context, horizon)`; its training mode is
            restored afterwards. With `sharpen` it needs a forecaster, and a wrapper such as torch.compile's
            is bypassed.
        context: `(B, T, C, H, W)`, pixels in [0, 1], on the model's device; T of 1 or more.
        horizon: number of frames, 1 or more; it need not be the one trained on.
        sharpen: strength of the unsharp masking, 0 to 1,000, for a forecaster that reads its own predictions
            (default: 0, predictions are read as they are).

    Returns:
        `(B, horizon, C, H, W)`, unclipped, in the type of the context.

    Raises:
        TypeError: context is not a tensor.
        ValueError: context, horizon or sharpen does not fit, or model is a layer or a name.

    Example:
        >>> model = convlstm.from_pretrained("moving_mnist_mini")
        >>> convlstm.rollout(model, torch.rand(1, 10, 1, 64, 64), horizon=20).shape
        torch.Size([1, 20, 1, 64, 64])
    """
    if not isinstance(model, nn.Module) or isinstance(unwrap(model), ConvRecurrent):
        as_forecaster(unwrap(model))  # raises
    if check_strength(model, sharpen):
        horizon = positive("horizon", horizon)
        return torch.stack(list(stream(model, context, horizon, sharpen=sharpen)), dim=1)
    with torch.no_grad(), _evaluation_mode(model):
        return model(context, horizon)


def stream(
    model: nn.Module, context: Tensor, horizon: int | None = None, *, sharpen: float = 0.0
) -> Iterator[Tensor]:
    """Forecast frame by frame, in memory that does not grow with their number.

    Args:
        model: a forecaster, also in a wrapper such as torch.compile's.
        context: as for `rollout`.
        horizon: number of frames, 1 or more, or None (default) to go on for as long as frames are asked for.
        sharpen: as for `rollout`.

    Returns:
        An iterator over the frames that `rollout` returns, `(B, C, H, W)`, unclipped, in the type of the
        context.

    Raises:
        TypeError: context is not a tensor.
        ValueError: context, horizon or sharpen does not fit, or model is not a forecaster. Errors are raised
            at once, not at the first frame.

    Example:
        >>> model = convlstm.from_pretrained("moving_mnist_mini")
        >>> next(convlstm.stream(model, torch.rand(1, 10, 1, 64, 64))).shape
        torch.Size([1, 1, 64, 64])
    """
    forecaster = as_forecaster(unwrap(model))
    strength = check_strength(forecaster, sharpen)
    if horizon is not None:
        horizon = positive("horizon", horizon)
    with torch.no_grad(), _evaluation_mode(forecaster):
        state = forecaster.encode(context)
    dtype = context.dtype

    def frames() -> Iterator[Tensor]:
        nonlocal state
        done, read = 0, None  # the first step reads the last frame of the context, as it is
        while horizon is None or done < horizon:
            # Grad and training mode belong to the caller between two frames.
            with torch.no_grad(), _evaluation_mode(forecaster):
                frame, state = forecaster.step(read, state)
                read = _sharpened(frame, strength) if strength else None
            done += 1
            yield frame.to(dtype)

    return frames()


def check_strength(model: nn.Module, sharpen: float) -> float:
    """Return `sharpen` as a float; raise ValueError unless it is a strength that the model can use."""
    strength = finite("sharpen", sharpen, least=0, most=MAX_SHARPEN)
    inner = unwrap(model)
    if strength and not (isinstance(inner, Forecaster) and inner.feedback):
        raise ValueError(
            f"sharpen is {sharpen!r} for {type(inner).__name__}; it needs a forecaster that reads its own "
            "predictions, such as StackedForecaster"
        )
    return strength


def _sharpened(frame: Tensor, strength: float) -> Tensor:
    """Return a frame (B, C, H, W) after unsharp masking, as `rollout` defines it."""
    p = frame.to(torch.promote_types(frame.dtype, torch.float32))
    outer = pad(p, (1, 1, 1, 1), mode="replicate")
    rows = outer[..., :-2, :] + 2 * outer[..., 1:-1, :] + outer[..., 2:, :]
    smooth = (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 16
    q = p + strength * (p - smooth)
    brightness = p.clamp(0, 1).sum(dim=(2, 3), keepdim=True)  # (B, C, 1, 1)
    low, high = q.amin(dim=(2, 3), keepdim=True) - 1, q.amax(dim=(2, 3), keepdim=True)
    for _ in range(HALVINGS):
        b = (low + high) / 2
        too_bright = (q - b).clamp(0, 1).sum(dim=(2, 3), keepdim=True) > brightness
        low, high = torch.where(too_bright, b, low), torch.where(too_bright, high, b)
    return (q - high).clamp(0, 1).to(frame.dtype)


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
