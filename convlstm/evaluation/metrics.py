"""Per-frame metrics in the conventions of video prediction and of precipitation nowcasting.

Letters: B batch, T time, C channels, H W pixels, K thresholds. Frames are (B, T, C, H, W) with pixels in
[0, 1]; a metric of them is (B, T). The conventions, which decide what a number can be compared with:

- MSE and MAE are sums over the values of a frame, of predictions as they come, unclipped, unless asked for
  otherwise.
- SSIM and PSNR are those of predictions clipped to [0, 1].
- Brightness and gradient energy are of frames alone, unclipped. Long forecasts fade, blur or light up: the
  ratio of the forecast's to the truth's shows it where the two no longer meet pixel by pixel.

Everything is computed in float64 (float32 on mps, which has no other): the variances of SSIM are differences
of nearly equal numbers, which in float32 would be wrong in the fourth decimal on bright, flat frames.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange, reduce
from torch import Tensor

__all__ = [
    "Contingency",
    "brightness",
    "contingency",
    "cross_entropy",
    "gradient_energy",
    "mae",
    "mse",
    "psnr",
    "ssim",
]

SSIM_WINDOW = 7
PSNR_CAP = 100.0
PROBABILITY_FLOOR = 1e-6
ROUNDING = 1e-6  # how far below a threshold a value may be rounded and still count as reaching it


def mse(prediction: Tensor, target: Tensor, *, clipped: bool = False, per_pixel: bool = False) -> Tensor:
    """Squared error of each frame.

        MSE = sum over C, H, W of (prediction - target)^2

    Args:
        prediction: (B, T, C, H, W).
        target: of the same shape.
        clipped: clip the prediction to [0, 1] first (default: as it comes).
        per_pixel: the mean over C, H, W in place of the sum (default: the sum, as in the field's tables).

    Returns:
        (B, T), float64.

    Raises:
        ValueError: shapes that differ, or that are not (B, T, C, H, W).
    """
    prediction, target = comparable(prediction, target)
    difference = (prediction.clamp(0, 1) if clipped else prediction) - target
    return reduce(difference.square(), "b t c h w -> b t", "mean" if per_pixel else "sum")


def mae(prediction: Tensor, target: Tensor, *, clipped: bool = False, per_pixel: bool = False) -> Tensor:
    """Absolute error of each frame.

        MAE = sum over C, H, W of |prediction - target|

    Arguments, result and errors are those of `mse`.
    """
    prediction, target = comparable(prediction, target)
    difference = (prediction.clamp(0, 1) if clipped else prediction) - target
    return reduce(difference.abs(), "b t c h w -> b t", "mean" if per_pixel else "sum")


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
    return psnr_of(mse(prediction, target.clamp(0, 1), clipped=True, per_pixel=True))


def psnr_of(error: Tensor) -> Tensor:
    """Return the ratio of frames whose mean squared error per pixel, clipped, this is; see `psnr`."""
    return -10 * error.clamp(min=10 ** (-PSNR_CAP / 10)).log10()


def cross_entropy(prediction: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of each frame, in nats, of predictions that are probabilities.

        BCE = -sum over C, H, W of (target log(prediction) + (1 - target) log(1 - prediction))

    with probabilities from 1e-6 to 1 - 1e-6, those beyond taken for the nearer of the two: one of exactly 0
    or 1 that is wrong would cost infinitely much.

    Args:
        prediction: (B, T, C, H, W), in [0, 1]; nan where a frame leaves it.
        target: of the same shape, in [0, 1].

    Returns:
        (B, T), float64.

    Raises:
        ValueError: shapes that differ, or that are not (B, T, C, H, W).
    """
    prediction, target = comparable(prediction, target)
    outside = (prediction < 0) | (prediction > 1)
    p = prediction.clamp(PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR).masked_fill(outside, torch.nan)
    return -reduce(torch.lerp(torch.log1p(-p), p.log(), target), "b t c h w -> b t", "sum")


def brightness(frames: Tensor) -> Tensor:
    """Total brightness of each frame.

        brightness = sum over C, H, W of frames

    Args:
        frames: (B, T, C, H, W), as they come.

    Returns:
        (B, T), float64.

    Raises:
        ValueError: a shape that is not (B, T, C, H, W).
    """
    return reduce(wide("frames", frames), "b t c h w -> b t", "sum")


def gradient_energy(frames: Tensor) -> Tensor:
    """Squared differences of neighbouring pixels of each frame, down and across: what blur takes away.

        energy = sum over C, H, W of (frames[h + 1, w] - frames[h, w])^2 + (frames[h, w + 1] - frames[h, w])^2

    where both pixels lie within the frame. Argument, result and errors are those of `brightness`.
    """
    frames = wide("frames", frames)
    down, across = (reduce(frames.diff(dim=axis).square(), "b t c h w -> b t", "sum") for axis in (3, 4))
    return down + across


class Contingency(NamedTuple):
    """Counts of values at or above thresholds, forecast or observed, and the ratios made of them.

    Sum the counts first, then take ratios: a mean of ratios weighs a frame with one wet pixel as much as a
    flood. A ratio is nan where its denominator is 0. Source: Wilks, "Statistical Methods in the Atmospheric
    Sciences", section on 2 x 2 contingency tables.
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
        prediction: (B, T, C, H, W).
        target: of the same shape.
        thresholds: K numbers in the range of the pixels. A value reaches one that it is not below; 1e-6 less
            counts too, since a threshold in physical units is rounded on its way to a pixel's value.

    Returns:
        The counts, (K, B, T) each, float64.

    Raises:
        ValueError: shapes that differ, or that are not (B, T, C, H, W).
    """
    prediction, target = comparable(prediction, target)
    counts = [contingency_of(reaching(prediction, t), *observed(target, t)) for t in thresholds]
    if not counts:
        empty = prediction.new_zeros(0, *prediction.shape[:2])
        return Contingency(empty, empty, empty)
    return Contingency(*(torch.stack(kind) for kind in zip(*counts, strict=True)))


def reaching(frames: Tensor, threshold: float) -> Tensor:
    """Return 1 where a value reaches the threshold and 0 elsewhere, in the type of the frames."""
    return frames.clone().ge_(threshold - ROUNDING)  # in place: from booleans it would take a pass more


def observed(target: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return what `contingency_of` needs of the target, once for all predictions of it."""
    reached = reaching(target, threshold)
    return reached, reduce(reached, "b t c h w -> b t", "sum")


def contingency_of(forecast: Tensor, observed: Tensor, count: Tensor) -> Contingency:
    """Return the counts, (B, T) each, of `reaching` of a prediction and `observed` of its target."""
    forecast, observed = (rearrange(x, "b t c h w -> b t (c h w)") for x in (forecast, observed))
    hits = torch.linalg.vecdot(forecast, observed)
    return Contingency(hits, count - hits, forecast.sum(dim=2) - hits)


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
    prediction, target = comparable(prediction, target)
    if not data_range > 0:
        raise ValueError(f"data_range is {data_range!r}; it needs a number above 0, 1 for pixels in [0, 1]")
    return ssim_of(prediction.clamp(0, 1), window_sums(target.clamp(0, 1)), (data_range,))[0]


def comparable(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in float64 if they can be compared, else raise."""
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)}, target has {tuple(target.shape)}; "
            "both need the same (B, T, C, H, W)"
        )
    both = "prediction and target"
    return wide(both, prediction), wide(both, target)


def wide(name: str, frames: Tensor) -> Tensor:
    """Return frames in float64 if they are (B, T, C, H, W), else raise."""
    if frames.ndim != 5:
        raise ValueError(f"{name} have shape {tuple(frames.shape)}; they need (B, T, C, H, W)")
    if 0 in frames.shape[2:]:
        raise ValueError(f"{name} have shape {tuple(frames.shape)}; a frame needs pixels")
    return frames.to(torch.float32 if frames.device.type == "mps" else torch.float64)


def require_windows(frames: Tensor) -> None:
    """Raise ValueError for frames (B, T, C, H, W) that are smaller than a window of SSIM."""
    H, W = frames.shape[3:]
    if min(H, W) < SSIM_WINDOW:
        raise ValueError(f"frames are {H}x{W} pixels; SSIM needs {SSIM_WINDOW}x{SSIM_WINDOW} or more")


class WindowSums(NamedTuple):
    """What `ssim_of` needs of the target, once for all predictions of it; values are flat, see there."""

    shape: tuple[int, ...]
    y: Tensor
    yy: Tensor
    sum_y: Tensor
    sum_y_squared: Tensor


def window_sums(target: Tensor) -> WindowSums:
    """Return the sums over windows of target frames (B, T, C, H, W), clipped; raise if they are too small."""
    require_windows(target)
    y = target.reshape(-1)
    sums = _slide(y, target.shape[4])
    return WindowSums(tuple(target.shape), y, y * y, sums, sums * sums)


def ssim_of(prediction: Tensor, target: WindowSums, data_ranges: Sequence[float]) -> list[Tensor]:
    """Return (B, T) for each data range, the similarity of clipped frames to a target; see `ssim`.

    All frames are one flat row of values, since sums of its shifted copies are as fast as memory allows.
    Windows that wrap around an edge of a frame are computed like the others, and left out of the mean.
    """
    B, T, C, H, W = target.shape
    n = SSIM_WINDOW**2
    x = prediction.reshape(-1)
    sum_x, sum_xy = _slide(x, W), _slide(x * target.y, W)
    sum_squares = _slide(torch.addcmul(target.yy, x, x), W)  # of x^2 + y^2, whose variances meet added up
    products = sum_x * target.sum_y
    squares = torch.addcmul(target.sum_y_squared, sum_x, sum_x)
    covariances = sum_xy.sub_(products, alpha=1 / n)  # (n - 1) vxy
    variances = sum_squares.sub_(squares, alpha=1 / n)  # (n - 1) (vx + vy)
    result, done = [], 0.0
    for data_range in data_ranges:
        # Sums, not means: the constants are as many times as large, less what was added for the range before.
        c1, c2 = (scale**2 * (data_range**2 - done**2) for scale in (0.01 * n, 0.03 * (n - 1) ** 0.5))
        done = data_range
        above = products.add_(c1 / 2) * covariances.add_(c2 / 2)  # a quarter of the numerator
        ratio = above.div_(squares.add_(c1) * variances.add_(c2))
        within = ratio.as_strided((B * T, C, H - 6, W - 6), (C * H * W, H * W, W, 1))
        result.append(4 * rearrange(within.mean(dim=(1, 2, 3)), "(b t) -> b t", b=B))
    return result


def _slide(values: Tensor, width: int) -> Tensor:
    """Return the sums over 7x7 windows of frames in one flat row, each where its window begins."""
    for step in (width, 1):  # down, then across
        n = len(values) - 6 * step
        two = values[:-step] + values[step:]
        four = torch.add(two[:n], two[2 * step : 2 * step + n])
        values = four.add_(two[4 * step : 4 * step + n]).add_(values[6 * step :])
    return values
