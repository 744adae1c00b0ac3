"""Per-frame metrics of video prediction and of precipitation nowcasting.

Letters: B batch, T time, C channels, H W pixels, K thresholds. Frames are (B, T, C, H, W) with pixels in
[0, 1]; a metric of them is (B, T). These conventions decide which published numbers compare:

- MSE and MAE are sums over the values of a frame, of unclipped predictions, unless asked for otherwise.
- SSIM and PSNR are of predictions clipped to [0, 1].

All metrics compute in float64 (float32 on mps, which has no float64): the variances in SSIM are differences
of nearly equal numbers, and float32 would make the fourth decimal wrong on bright, flat frames.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange, reduce
from torch import Tensor

__all__ = [
    "Contingency",
    "contingency",
    "cross_entropy",
    "mae",
    "mse",
    "psnr",
    "ssim",
]

SSIM_WINDOW = 7
PSNR_CAP = 100.0
PROBABILITY_FLOOR = 1e-6
ROUNDING = 1e-6  # how far below a threshold a rounded value may be and still reach it


def mse(prediction: Tensor, target: Tensor, *, clipped: bool = False, per_pixel: bool = False) -> Tensor:
    """Squared error of each frame: the sum over C, H, W of (prediction - target)^2.

    Args:
        prediction: `(B, T, C, H, W)`.
        target: of the same shape.
        clipped: whether to clip the prediction to [0, 1] first. Default: False.
        per_pixel: whether to take the mean over C, H, W. Default: False, the sum, as in the field's tables.

    Returns:
        `(B, T)`, float64.

    Raises:
        ValueError: the shapes differ, or are not `(B, T, C, H, W)`.

    Example:
        >>> target = torch.zeros(2, 10, 1, 32, 32)
        >>> convlstm.metrics.mse(target + 0.5, target)[0, 0]  # 32 * 32 * 0.25
        tensor(256., dtype=torch.float64)
    """
    difference = _difference(prediction, target, clipped)
    squared = torch.linalg.vecdot(difference, difference)
    return squared / difference.shape[2] if per_pixel else squared


def mae(prediction: Tensor, target: Tensor, *, clipped: bool = False, per_pixel: bool = False) -> Tensor:
    """Absolute error of each frame: the sum over C, H, W of the absolute differences.

    Arguments, result and errors are those of `mse`.

    Example:
        >>> target = torch.zeros(2, 10, 1, 32, 32)
        >>> convlstm.metrics.mae(target + 0.5, target)[0, 0]
        tensor(512., dtype=torch.float64)
    """
    difference = _difference(prediction, target, clipped)
    absolute = difference.abs().sum(dim=2)
    return absolute / difference.shape[2] if per_pixel else absolute


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each frame, in decibels, after clipping to [0, 1].

    It is -10 log10 of the mean squared error over C, H, W, and at most 100: the ratio of identical frames is
    infinite, and one such frame would make every mean infinite. Arguments and errors are those of `mse`.

    Example:
        >>> target = torch.zeros(2, 10, 1, 32, 32)
        >>> convlstm.metrics.psnr(target + 0.1, target)[0, 0]
        tensor(20.0000, dtype=torch.float64)
    """
    error = mse(prediction, target.clamp(0, 1), clipped=True, per_pixel=True)
    return -10 * error.clamp(min=10 ** (-PSNR_CAP / 10)).log10()


def cross_entropy(prediction: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of each frame, in nats, of predictions that are probabilities.

    Summed over C, H, W::

        BCE = -sum (target log(prediction) + (1 - target) log(1 - prediction))

    Probabilities are clipped to [1e-6, 1 - 1e-6]: a wrong prediction of exactly 0 or 1 would cost infinitely
    much. A frame with predictions outside [0, 1] is nan. Arguments and errors are those of `mse`.

    Example:
        >>> target = torch.zeros(2, 10, 1, 32, 32)
        >>> convlstm.metrics.cross_entropy(target + 0.5, target)[0, 0]
        tensor(709.7827, dtype=torch.float64)
    """
    prediction, target = _comparable(prediction, target)
    outside = (prediction < 0) | (prediction > 1)
    p = prediction.clamp(PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR).masked_fill(outside, torch.nan)
    return -reduce(torch.lerp(torch.log1p(-p), p.log(), target), "b t c h w -> b t", "sum")


def ssim(prediction: Tensor, target: Tensor, data_range: float = 1.0) -> Tensor:
    """Structural similarity of each frame, after clipping to [0, 1].

    With the means mx and my, the variances vx and vy and the covariance vxy of a 7x7 window::

        SSIM = (2 mx my + c1) (2 vxy + c2) / ((mx^2 + my^2 + c1) (vx + vy + c2)),
        c1 = (0.01 data_range)^2, c2 = (0.03 data_range)^2,

    averaged over all windows within the frame and over the channels (Wang et al. 2004, equation 13, with a
    uniform window and sample covariances: the defaults of scikit-image).

    Args:
        prediction: `(B, T, C, H, W)`, H and W 7 or more.
        target: of the same shape.
        data_range: of the values. Default: 1, the true one. Tables of Moving MNIST are commonly made with 2,
            which reads higher.

    Returns:
        `(B, T)`, float64, in [-1, 1].

    Raises:
        ValueError: the shapes differ or are not `(B, T, C, H, W)`, the frames are smaller than 7x7, or
            data_range is not above 0.

    Example:
        >>> target = torch.rand(2, 10, 1, 32, 32)
        >>> convlstm.metrics.ssim(target, target)[0, 0]
        tensor(1., dtype=torch.float64)
    """
    prediction, target = (frames.clamp(0, 1) for frames in _comparable(prediction, target))
    require_windows(target)
    if not data_range > 0:
        raise ValueError(f"data_range is {data_range!r}; it needs a number above 0, 1 for pixels in [0, 1]")
    return similarities(prediction, target, (data_range,))[0]


def similarities(prediction: Tensor, target: Tensor, data_ranges: Sequence[float]) -> list[Tensor]:
    """Return `ssim` of float64 frames in [0, 1] for each data range.

    All frames are one flat row of values: on CPUs sums of its shifted copies are several times as fast as
    those of separate frames. Windows that wrap around an edge are computed, too, and left out of the mean.
    """
    B, T, C, H, W = target.shape
    n = SSIM_WINDOW**2
    x, y = prediction.reshape(-1), target.reshape(-1)
    mx, my = _window_sums(x, W) / n, _window_sums(y, W) / n
    product, squares = mx * my, mx * mx + my * my
    covariance = (_window_sums(x * y, W) / n - product) * (n / (n - 1))
    variances = (_window_sums(x * x + y * y, W) / n - squares) * (n / (n - 1))  # vx + vy
    result = []
    for data_range in data_ranges:
        c1, c2 = ((scale * data_range) ** 2 for scale in (0.01, 0.03))
        similarity = (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))
        within = similarity.as_strided((B, T, C, H - 6, W - 6), (T * C * H * W, C * H * W, H * W, W, 1))
        result.append(reduce(within, "b t c h w -> b t", "mean"))
    return result


class Contingency(NamedTuple):
    """Counts of values at or above thresholds, forecast or observed, and the ratios made of them.

    Sum the counts first, then take ratios: a mean of ratios weighs a frame with one wet pixel as much as a
    flood. A ratio is nan where its denominator is 0. Source: Wilks, "Statistical Methods in the Atmospheric
    Sciences", section on 2 x 2 contingency tables.

    Example:
        >>> counts = convlstm.metrics.Contingency(*torch.tensor([[30.0], [10.0], [20.0]]))
        >>> counts.csi(), counts.pod(), counts.far(), counts.bias()
        (tensor([0.5000]), tensor([0.7500]), tensor([0.4000]), tensor([1.2500]))
    """

    hits: Tensor
    """Observed and forecast."""
    misses: Tensor
    """Observed, not forecast."""
    false_alarms: Tensor
    """Forecast, not observed."""

    def csi(self) -> Tensor:
        """Critical success index: hits / (hits + misses + false alarms)."""
        return self.hits / (self.hits + self.misses + self.false_alarms)

    def pod(self) -> Tensor:
        """Probability of detection: hits / (hits + misses)."""
        return self.hits / (self.hits + self.misses)

    def far(self) -> Tensor:
        """False alarm ratio: false alarms / (hits + false alarms)."""
        return self.false_alarms / (self.hits + self.false_alarms)

    def bias(self) -> Tensor:
        """Frequency bias, forecast by observed: (hits + false alarms) / (hits + misses)."""
        observed = self.hits + self.misses
        return ((self.hits + self.false_alarms) / observed).where(observed > 0, math.nan)


def contingency(prediction: Tensor, target: Tensor, thresholds: Sequence[float]) -> Contingency:
    """Count in each frame where values reach thresholds, forecast and observed.

    Args:
        prediction: `(B, T, C, H, W)`.
        target: of the same shape.
        thresholds: K numbers in the range of the pixels. A value reaches a threshold from 1e-6 below it:
            a threshold in physical units is rounded when it becomes a pixel's value.

    Returns:
        The counts, `(K, B, T)` each, float64.

    Raises:
        ValueError: the shapes differ, or are not `(B, T, C, H, W)`.

    Example:
        >>> target = torch.zeros(2, 10, 1, 32, 32)
        >>> target[..., :16] = 1
        >>> counts = convlstm.metrics.contingency(torch.ones_like(target), target, [0.25, 0.5])
        >>> counts.csi()[0, 0, 0]  # of the first threshold, sequence and frame
        tensor(0.5000, dtype=torch.float64)
    """
    prediction, target = _comparable(prediction, target)
    prediction, target = (rearrange(frames, "b t c h w -> b t (c h w)") for frames in (prediction, target))
    counts = prediction.new_empty(3, len(thresholds), *prediction.shape[:2])
    for k, threshold in enumerate(thresholds):
        # In place: 1 and 0 in float64, without a pass that converts booleans.
        forecast, observed = (frames.clone().ge_(threshold - ROUNDING) for frames in (prediction, target))
        hits = torch.linalg.vecdot(forecast, observed)
        counts[:, k] = torch.stack([hits, observed.sum(dim=2) - hits, forecast.sum(dim=2) - hits])
    return Contingency(*counts)


def require_windows(frames: Tensor) -> None:
    """Raise ValueError if frames (B, T, C, H, W) are smaller than the window of SSIM."""
    H, W = frames.shape[3:]
    if min(H, W) < SSIM_WINDOW:
        raise ValueError(f"frames are {H}x{W} pixels; SSIM needs {SSIM_WINDOW}x{SSIM_WINDOW} or more")


def _difference(prediction: Tensor, target: Tensor, clipped: bool) -> Tensor:
    """Return prediction - target, (B, T, values of a frame)."""
    prediction, target = _comparable(prediction, target)
    prediction = prediction.clamp(0, 1) if clipped else prediction
    return rearrange(prediction - target, "b t c h w -> b t (c h w)")


def _comparable(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in float64; raise ValueError if their shapes do not fit."""
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)}, target has {tuple(target.shape)}; "
            "both need the same (B, T, C, H, W)"
        )
    if target.ndim != 5 or 0 in target.shape[2:]:
        raise ValueError(
            f"prediction and target have shape {tuple(target.shape)}; they need (B, T, C, H, W), with pixels"
        )
    wide = torch.float32 if target.device.type == "mps" else torch.float64
    return prediction.to(wide), target.to(wide)


def _window_sums(values: Tensor, width: int) -> Tensor:
    """Return the sums over 7x7 windows of frames in one flat row, each where its window begins."""
    for step in (width, 1):  # down, then across
        n = len(values) - 6 * step
        two = values[:-step] + values[step:]
        four = two[:n] + two[2 * step : 2 * step + n]
        values = four + two[4 * step : 4 * step + n] + values[6 * step :]
    return values
