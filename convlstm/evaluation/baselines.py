"""Forecasts without learning, beside which every network is scored.

Letters: B batch, T time, C channels, H W pixels. A baseline maps (context, horizon) to a forecast, batched
and on the context's device; a context is (B, T, C, H, W), T of 1 or more.
"""

import torch
from einops import reduce, repeat
from torch import Tensor

from convlstm.core.checks import positive


def copy_last(context: Tensor, horizon: int) -> Tensor:
    """Predict that nothing moves: repeat the last frame of the context. The baseline to beat.

    Args:
        context: (B, T, C, H, W), T of 1 or more.
        horizon: number of frames, 1 or more.

    Returns:
        (B, horizon, C, H, W), a view of the context.

    Raises:
        ValueError: the context has another shape or no frame, or the horizon is below 1.
    """
    horizon = _check(context, horizon)
    return repeat(context[:, -1], "b c h w -> b t c h w", t=horizon)


def mean_frame(context: Tensor, horizon: int) -> Tensor:
    """Predict the mean of the context's frames, repeated.

    Arguments, result and errors are those of `copy_last`; the result is not a view of the context.
    """
    horizon = _check(context, horizon)
    return repeat(context.mean(dim=1), "b c h w -> b t c h w", t=horizon)


def translate(context: Tensor, horizon: int) -> Tensor:
    """Predict that the whole picture keeps moving as between the last two frames of the context.

    Frame k of the forecast is the last frame, moved by k times `motion` (whole pixels, the same for all
    channels); pixels that come in over an edge are 0. A context of one frame does not move.

    Arguments, result and errors are those of `copy_last`; the result is not a view of the context.
    """
    horizon = _check(context, horizon)
    last = context[:, -1]
    C, H, W = last.shape[1:]
    if context.shape[1] == 1:
        return repeat(last, "b c h w -> b t c h w", t=horizon).clone()
    steps = torch.arange(1, horizon + 1, device=context.device)
    down, right = (motion(context[:, -2], last)[:, axis, None] * steps for axis in (0, 1))  # (B, T) each
    rows = torch.arange(H, device=context.device) - down[..., None]  # (B, T, H), where each comes from
    columns = torch.arange(W, device=context.device) - right[..., None]  # (B, T, W)
    near_rows, near_columns = rows.clamp(0, H - 1), columns.clamp(0, W - 1)
    inside = (rows == near_rows)[..., :, None] & (columns == near_columns)[..., None, :]  # (B, T, H, W)
    source = near_rows[..., :, None] * W + near_columns[..., None, :]
    source = repeat(source, "b t h w -> b c (t h w)", c=C)
    moved = last.flatten(2).gather(2, source).unflatten(2, (horizon, H, W)).transpose(1, 2)
    return moved * inside[:, :, None]


def motion(before: Tensor, after: Tensor) -> Tensor:
    """Return how far the picture moved from one frame to the next, by phase correlation.

    With the Fourier transforms X and Y of the two frames (their mean over the channels),

        motion = argmax over shifts of F^-1[Y X* / |Y X*|]

    where a shift by more than half of a side counts as one in the other direction. Source: Kuglin and Hines
    1975, "The Phase Correlation Image Alignment Method".

    Args:
        before: (B, C, H, W).
        after: of the same shape.

    Returns:
        int64 (B, 2): pixels down and to the right; 0 where a frame is empty.
    """
    x, y = (torch.fft.fft2(reduce(frame.float(), "b c h w -> b h w", "mean")) for frame in (before, after))
    product = y * x.conj()
    # As in scikit-image: a frequency in which there is nothing has no phase.
    product = product / product.abs().clamp(min=100 * torch.finfo(torch.float32).eps)
    correlation = torch.fft.ifft2(product).abs()
    H, W = correlation.shape[1:]
    peak = correlation.flatten(1).argmax(dim=1)
    shift = torch.stack([peak // W, peak % W], dim=1)
    size = shift.new_tensor([H, W])
    return shift - size * (shift > size // 2)


BASELINES = {"copy last frame": copy_last, "mean frame": mean_frame, "translation": translate}
"""The baselines of every evaluation, by the names that tables give them."""


def _check(context: Tensor, horizon: int) -> int:
    horizon = positive("horizon", horizon)
    if context.ndim != 5 or context.shape[1] == 0:
        raise ValueError(
            f"context has shape {tuple(context.shape)}; it needs (B, T, C, H, W), T of 1 or more"
        )
    return horizon
