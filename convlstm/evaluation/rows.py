"""The pass over a source: predictors run batch by batch, and every metric of every frame noted down.

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
    comparable,
    contingency_of,
    cross_entropy,
    observed,
    psnr_of,
    reaching,
    require_windows,
    ssim_of,
    window_sums,
)
from convlstm.evaluation.sources import Predict, Source
from convlstm.ops.choice import is_fused

__all__ = ["MEASURED", "Rows", "measure"]

MEASURED = ("mse", "mae", "mse_clipped", "mae_clipped", "ssim", "ssim_range2", "psnr", "cross_entropy")
"""The metrics of a row, in its order; only predictions that are probabilities have a "cross_entropy"."""

# Values of a prediction that are scored at a time, by one thread: what the windows of SSIM need of them stays
# in the cache. On other devices as many as keep them busy.
CACHED, BUSY = 2**16, 2**22
SSIM_RANGES = (1.0, 2.0)


class Rows(NamedTuple):
    """What was noted down of one predictor."""

    names: tuple[str, ...]
    """Of the metrics, the first of `MEASURED`."""
    metrics: Tensor
    """(M, N, T), float64 on the CPU."""
    counts: Contingency
    """(K, N, T) each, float64 on the CPU."""
    frame: tuple[int, int, int]
    """C, H, W."""


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
        predictors: names and what they stand for, one or more.
        source: the sequences, of `context + horizon` frames or more; frames beyond are left out.
        context: frames given to the predictors, 1 or more.
        horizon: frames asked of them, 1 or more.
        sequences: how many of the source's, from the first on; None (default) for all.
        batch_size: sequences at a time, 1 or more.
        device: where the sequences go, and so where the predictors must work.
        thresholds: of the contingency counts, in the range of the pixels.
        probabilities: names of the predictors whose output is one, which have a cross-entropy.
        progress: called after each batch with its number of sequences, such as `tqdm(...).update`.

    Raises:
        TypeError: a forecast that is no tensor.
        ValueError: an argument out of its bounds, no predictor, sequences that are too short or of
            different frame sizes, or a forecast whose shape is not that of the frames to come.
    """
    context, horizon = positive("context", context), positive("horizon", horizon)
    batch_size = positive("batch_size", batch_size)
    if not predictors:
        raise ValueError("predictors is empty; it needs one name and predictor or more")
    sequences = len(source) if sequences is None else positive("sequences", sequences)
    if len(source) == 0:
        raise ValueError("source has no sequences; it needs one or more")
    if sequences > len(source):
        raise ValueError(
            f"sequences is {sequences}; the source has {len(source)}, ask for that many or fewer"
        )
    notes: dict[str, list[Tensor]] = {name: [] for name in predictors}  # (M + 3 K, B, T) each
    frame = (0, 0, 0)
    for start in range(0, sequences, batch_size):
        indices = range(start, min(start + batch_size, sequences))
        clips = source.batch(indices, device)
        if clips.ndim != 5 or clips.shape[1] < context + horizon:
            raise ValueError(
                f"source gives sequences of shape {tuple(clips.shape)}; a context of {context} and a horizon "
                f"of {horizon} need (B, T, C, H, W) with T of {context + horizon} or more"
            )
        seen, target = clips[:, :context], clips[:, context : context + horizon]
        C, H, W = target.shape[2:]
        if start and frame != (C, H, W):
            raise ValueError(
                f"source gives frames of (C, H, W) = {(C, H, W)} after such of {frame}; sums over frames of "
                "different sizes cannot be compared, all need one"
            )
        frame = C, H, W
        forecasts: dict[str, Tensor] = {}
        for name, predict in predictors.items():
            forecasts[name] = predict(seen.clone(), horizon)  # its own, whatever it does to it
            if not isinstance(forecasts[name], Tensor):
                raise TypeError(
                    f"predictor {name!r} gave a {type(forecasts[name]).__name__}; it needs to give a tensor "
                    "(B, horizon, C, H, W)"
                )
            if forecasts[name].shape != target.shape:
                raise ValueError(
                    f"predictor {name!r} gave shape {tuple(forecasts[name].shape)}; the frames to come have "
                    f"{tuple(target.shape)}"
                )
        for name, batch in _score(forecasts, target, thresholds, probabilities).items():
            notes[name].append(batch.cpu().to(torch.float64))
        if progress is not None:
            progress(len(indices))
    result = {}
    for name, batches in notes.items():
        names = MEASURED if name in probabilities else MEASURED[:-1]
        metrics, counts = torch.cat(batches, dim=1).tensor_split([len(names)])
        counts = Contingency(*rearrange(counts, "(kind k) n t -> kind k n t", kind=3))
        result[name] = Rows(names, metrics, counts, frame)
    return result


def _score(
    forecasts: Mapping[str, Tensor],
    target: Tensor,
    thresholds: Sequence[float],
    probabilities: Collection[str],
) -> dict[str, Tensor]:
    """Return (M + 3 K, B, T) for each forecast, computed a few frames at a time."""
    frames = [rearrange(clips, "b t c h w -> (b t) 1 c h w") for clips in (target, *forecasts.values())]
    values = CACHED * torch.get_num_threads() if target.device.type == "cpu" else BUSY
    pieces: dict[str, list[Tensor]] = {name: [] for name in forecasts}
    for target_frames, *forecast in zip(
        *(f.split(max(values // target[0, 0].numel(), 1)) for f in frames), strict=True
    ):
        truth = _Truth(target_frames, thresholds)
        for name, piece in zip(forecasts, forecast, strict=True):
            pieces[name].append(truth.score(piece, probability=name in probabilities))
    B = len(target)
    return {name: rearrange(torch.cat(p, dim=1), "m (b t) 1 -> m b t", b=B) for name, p in pieces.items()}


class _Truth:
    """Some frames that came to be, with what the metrics of all predictions of them share."""

    def __init__(self, target: Tensor, thresholds: Sequence[float]):
        self.target = comparable(target, target)[0]
        self.similarity = _similarity_to(self.target.clamp(0, 1))
        # Counts of a frame are exact in float32 if it has no more values than that has whole numbers.
        self.counted = torch.float32 if target[0].numel() <= 2**24 else self.target.dtype
        self.reached = [(t, *observed(target.to(self.counted), t)) for t in thresholds]

    def score(self, prediction: Tensor, probability: bool) -> Tensor:
        """Return (M + 3 K, n, 1) of predictions of these frames, in the order of `Rows`."""
        counted = prediction.to(self.counted)
        prediction, target = comparable(prediction, self.target)
        low, high = counted.aminmax()
        errors = _errors(prediction - target)
        if low >= 0 and high <= 1:  # as those of the baselines: there is nothing to clip
            clipped, clipped_errors = prediction, errors
        else:
            clipped = prediction.clamp(0, 1)
            clipped_errors = _errors(clipped - target)
        metrics = [*errors, *clipped_errors]
        metrics += self.similarity(clipped)
        metrics.append(psnr_of(metrics[2] / target[0].numel()))
        if probability:
            metrics.append(cross_entropy(prediction, target))
        tables = [contingency_of(reaching(counted, t), *reached) for t, *reached in self.reached]
        counts = [count for kind in zip(*tables, strict=True) for count in kind]
        return torch.stack([*metrics, *(count.to(target.dtype) for count in counts)])


def _similarity_to(target: Tensor) -> Callable[[Tensor], list[Tensor]]:
    """Return what maps predictions, clipped, to their SSIM with each data range: compiled if that can be."""
    require_windows(target)
    if target.device.type == "cpu" and is_fused(target.device, torch.float32):
        from convlstm.ops.kernels.cpu_ssim import similarities

        return lambda prediction: similarities(prediction, target, SSIM_RANGES)
    sums = window_sums(target)
    return lambda prediction: ssim_of(prediction, sums, SSIM_RANGES)


def _errors(difference: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `mse` and `mae` do of prediction - target; the difference is used up."""
    rows = rearrange(difference, "b t c h w -> b t (c h w)")
    squared = torch.linalg.vecdot(rows, rows)
    return squared, rows.abs_().sum(dim=2)
