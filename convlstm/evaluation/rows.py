"""The pass over a source: predictors run batch by batch, and every metric of every frame is noted.

Letters: N sequences, B batch, T horizon, C channels, H W pixels, K thresholds, M metrics. Of a sequence only
T (M + 3 K) numbers are kept, never a frame.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from convlstm.core.checks import positive
from convlstm.evaluation.metrics import (
    Contingency,
    contingency,
    cross_entropy,
    mae,
    mse,
    psnr,
    require_windows,
    similarities,
)
from convlstm.evaluation.sources import Predict, Source
from convlstm.ops.choice import is_fused

# How many values are scored at a time: by a thread as many as stay in its cache, on a GPU as many as keep it
# busy.
CACHED, BUSY = 2**16, 2**22
SSIM_RANGES = (1.0, 2.0)


class Rows(NamedTuple):
    """What was measured of one predictor."""

    names: tuple[str, ...]
    """Names of the metrics, in the order of their rows."""
    metrics: Tensor
    """The metrics, (M, N, T), float64 on the CPU."""
    counts: Contingency
    """The counts at each threshold, (K, N, T) each, float64 on the CPU."""
    frame: tuple[int, int, int]
    """Channels C, height H and width W of a frame."""


@torch.no_grad()
def measure(
    predictors: Mapping[str, Predict],
    source: Source,
    context: int,
    horizon: int,
    *,
    sequences: int | None = None,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    thresholds: Sequence[float] = (),
    probabilities: Collection[str] = (),
    progress: Callable[[int], object] | None = None,
) -> dict[str, Rows]:
    """Run several predictors over the same sequences, each of which is made or read only once.

    Args:
        predictors: by name.
        source: the sequences, of `context + horizon` frames or more; frames beyond are left out.
        context: number of frames given to the predictors.
        horizon: number of frames to predict.
        sequences: number of sequences, from the first on. Default: all.
        batch_size: sequences at a time. Default: 32.
        device: where the predictors run. Default: the CPU.
        thresholds: of the contingency counts, in the range of the pixels. Default: none.
        probabilities: names of the predictors whose output is one, which have a cross-entropy.
        progress: called after each batch with its number of sequences, such as `tqdm(...).update`.

    Raises:
        ValueError: an argument is out of its bounds, sequences are too short, or a forecast has another shape
            than the frames that follow the context.
    """
    context, horizon = positive("context", context), positive("horizon", horizon)
    batch_size = positive("batch_size", batch_size)
    sequences = positive("sequences", len(source) if sequences is None else sequences)
    if sequences > len(source):
        raise ValueError(
            f"sequences is {sequences}; the source has {len(source)}, ask for that many or fewer"
        )
    scores: dict[str, list[Tensor]] = {name: [] for name in predictors}  # (M + 3 K, B, T) each
    names: dict[str, tuple[str, ...]] = {}
    frame = (0, 0, 0)
    for start in range(0, sequences, batch_size):
        indices = range(start, min(start + batch_size, sequences))
        clips = source.batch(indices, device)
        if clips.shape[1] < context + horizon:
            raise ValueError(
                f"source gives sequences of shape {tuple(clips.shape)}; a context of {context} and a horizon "
                f"of {horizon} need (B, T, C, H, W) with T of {context + horizon} or more"
            )
        seen, target = clips[:, :context], clips[:, context : context + horizon]
        frame = (target.shape[2], target.shape[3], target.shape[4])
        for name, predict in predictors.items():
            forecast = predict(seen.clone(), horizon)  # a copy, which the predictor may change
            names[name], found = _score(forecast, target, thresholds, name in probabilities)
            scores[name].append(found.cpu().double())
        if progress is not None:
            progress(len(indices))
    result = {}
    for name, batches in scores.items():
        metrics, counts = torch.cat(batches, dim=1).tensor_split([len(names[name])])
        counts = Contingency(*rearrange(counts, "(kind k) n t -> kind k n t", kind=3))
        result[name] = Rows(names[name], metrics, counts, frame)
    return result


def _score(
    forecast: Tensor, target: Tensor, thresholds: Sequence[float], probability: bool
) -> tuple[tuple[str, ...], Tensor]:
    """Return the M names of the metrics and (M + 3 K, B, T) of a forecast (B, T, C, H, W).

    A few frames are scored at a time.
    """
    if forecast.shape != target.shape:
        raise ValueError(
            f"a predictor gave shape {tuple(forecast.shape)}; the frames to come have {tuple(target.shape)}"
        )
    require_windows(target)
    values = CACHED * torch.get_num_threads() if target.device.type == "cpu" else BUSY
    pieces = [
        rearrange(clips, "b t c h w -> (b t) 1 c h w").split(max(values // target[0, 0].numel(), 1))
        for clips in (forecast, target)
    ]
    wide = torch.float32 if target.device.type == "mps" else torch.float64
    names, scores = (), []
    for frames, true_frames in zip(*pieces, strict=True):
        prediction, truth = frames.to(wide), true_frames.to(wide)
        metrics = _metrics(prediction, truth, probability)
        names = tuple(metrics)
        counts = torch.cat(contingency(prediction, truth, thresholds))
        scores.append(torch.cat([torch.stack(list(metrics.values())), counts]))  # (M + 3 K, n, 1)
    return names, rearrange(torch.cat(scores, dim=1), "m (b t) 1 -> m b t", b=len(target))


def _metrics(prediction: Tensor, target: Tensor, probability: bool) -> dict[str, Tensor]:
    """Return each metric of frames (n, 1, C, H, W), (n, 1), by its name in `protocols`."""
    clipped = prediction.clamp(0, 1)
    ssim, ssim_range2 = _similarities(clipped, target.clamp(0, 1))
    metrics = {
        "mse": mse(prediction, target),
        "mae": mae(prediction, target),
        "mse_clipped": mse(clipped, target),
        "mae_clipped": mae(clipped, target),
        "ssim": ssim,
        "ssim_range2": ssim_range2,
        "psnr": psnr(clipped, target),
    }
    return metrics | ({"cross_entropy": cross_entropy(prediction, target)} if probability else {})


def _similarities(prediction: Tensor, target: Tensor) -> list[Tensor]:
    """Return the SSIM of clipped frames for each of `SSIM_RANGES`, by the compiled kernel where it runs."""
    if target.device.type == "cpu" and is_fused(target.device, torch.float32):
        from convlstm.ops.kernels import cpu_ssim

        return cpu_ssim.similarities(prediction, target, SSIM_RANGES)
    return similarities(prediction, target, SSIM_RANGES)
