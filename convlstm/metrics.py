"""Per-frame metrics in the conventions of video prediction.

Letters: B batch, T time, C channels, H W pixels. Frames are (B, T, C, H, W) with pixels in [0, 1]; a metric
of them is (B, T). The conventions, which decide what a number can be compared with:

- MSE and MAE are sums over the values of a frame, of predictions as they come, unclipped.
- SSIM and PSNR are those of predictions clipped to [0, 1].

Everything is computed in float64 (float32 on mps, which has no other).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

__all__ = ["mae", "mse", "psnr", "ssim"]

SSIM_WINDOW = 7
PSNR_CAP = 100.0


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared error of each frame, summed over its channels and pixels, unclipped.

    Args:
        prediction: (B, T, C, H, W).
        target: of the same shape.

    Returns:
        (B, T), float64; the mean over values would be this divided by C * H * W.

    Raises:
        ValueError: shapes that differ, or that are not (B, T, C, H, W).
    """
    prediction, target = comparable(prediction, target)
    return reduce((prediction - target).square(), "b t c h w -> b t", "sum")


def mae(prediction: Tensor, target: Tensor) -> Tensor:
    """Absolute error of each frame, summed over its channels and pixels, unclipped.

    Arguments, result and errors are those of `mse`.
    """
    prediction, target = comparable(prediction, target)
    return reduce((prediction - target).abs(), "b t c h w -> b t", "sum")


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each frame, after clipping to [0, 1].

        PSNR = -10 log10(mean over C, H, W of (prediction - target)^2)

    Args:
        prediction: (B, T, C, H, W).
        target: of the same shape.

    Returns:
        (B, T), float64, in decibels, at most 100: identical frames would have an infinite ratio, and one of
        them would make every mean infinite.

    Raises:
        ValueError: shapes that differ, or that are not (B, T, C, H, W).
    """
    prediction, target = comparable(prediction, target)
    error = reduce((prediction.clamp(0, 1) - target.clamp(0, 1)).square(), "b t c h w -> b t", "mean")
    return -10 * error.clamp(min=10 ** (-PSNR_CAP / 10)).log10()


def ssim(prediction: Tensor, target: Tensor, data_range: float = 1.0) -> Tensor:
    """Structural similarity of each frame, after clipping to [0, 1].

    With the means mx and my, the variances vx and vy and the covariance vxy of a 7x7 window,

        SSIM = (2 mx my + c1) (2 vxy + c2) / ((mx^2 + my^2 + c1) (vx + vy + c2)),
        c1 = (0.01 data_range)^2, c2 = (0.03 data_range)^2,

    averaged over all windows that lie within the frame, and over the channels (Wang et al. 2004, equation
    13, with a uniform window and sample covariances: the defaults of scikit-image).

    Args:
        prediction: (B, T, C, H, W), H and W 7 or more.
        target: of the same shape.
        data_range: of the values; 1 (default) is the true one. Tables of Moving MNIST are commonly made
            with 2, which reads higher.

    Returns:
        (B, T), float64, in [-1, 1].

    Raises:
        ValueError: shapes that differ or are not (B, T, C, H, W), frames smaller than 7x7, or a data_range
            that is not above 0.
    """
    return ssim_of(window_moments(*comparable(prediction, target)), data_range)


def comparable(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in float64 if they can be compared, else raise."""
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)}, target has {tuple(target.shape)}; "
            "both need the same (B, T, C, H, W)"
        )
    if prediction.ndim != 5:
        raise ValueError(f"prediction and target have shape {tuple(target.shape)}; they need (B, T, C, H, W)")
    if 0 in prediction.shape[2:]:
        raise ValueError(f"prediction and target have shape {tuple(target.shape)}; a frame needs pixels")
    wide = torch.float32 if prediction.device.type == "mps" else torch.float64
    return prediction.to(wide), target.to(wide)


class WindowMoments(NamedTuple):
    """Means, variances and covariance in every window of two clips: (B, T, C * windows) each."""

    mx: Tensor
    my: Tensor
    vx: Tensor
    vy: Tensor
    vxy: Tensor


def window_moments(x: Tensor, y: Tensor) -> WindowMoments:
    """Return what `ssim_of` needs of two comparable clips, whatever the data range; see `ssim`."""
    batch, _, _, *size = x.shape
    if min(size) < SSIM_WINDOW:
        raise ValueError(
            f"frames are {size[0]}x{size[1]} pixels; SSIM needs {SSIM_WINDOW}x{SSIM_WINDOW} or more"
        )
    x, y = x.clamp(0, 1), y.clamp(0, 1)
    products = torch.stack([x, y, x * x, y * y, x * y])  # (5, B, T, C, H, W)
    means = rearrange(products, "moment b t c h w -> (moment b t) c h w")
    means = F.avg_pool2d(means, SSIM_WINDOW, stride=1)  # (5 * B * T, C, H - 6, W - 6)
    mx, my, xx, yy, xy = rearrange(means, "(moment b t) c h w -> moment b t (c h w)", moment=5, b=batch)
    sample = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)  # from the covariance of a population to that of a sample
    return WindowMoments(mx, my, sample * (xx - mx * mx), sample * (yy - my * my), sample * (xy - mx * my))


def ssim_of(moments: WindowMoments, data_range: float) -> Tensor:
    """Return (B, T), the structural similarity of clips with these moments; see `ssim`."""
    if not data_range > 0:
        raise ValueError(f"data_range is {data_range!r}; it needs a number above 0, 1 for pixels in [0, 1]")
    mx, my, vx, vy, vxy = moments
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    numerator = (2 * mx * my + c1) * (2 * vxy + c2)
    denominator = (mx * mx + my * my + c1) * (vx + vy + c2)
    return reduce(numerator / denominator, "b t windows -> b t", "mean")
