"""The evaluation of predictors over a set of sequences, in the conventions of `convlstm.metrics`.

Letters: B batch, T time, C channels, H W pixels. Averages are over all frames of all sequences, never
averages of batch averages.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from einops import reduce, repeat
from torch import Tensor

from convlstm.arguments import positive
from convlstm.metrics import comparable, mae, mse, psnr, ssim_of, window_moments

__all__ = ["Predict", "Scores", "Source", "copy_last", "evaluate", "evaluate_all", "format_scores"]


def copy_last(context: Tensor, horizon: int) -> Tensor:
    """Predict that nothing moves: the last frame of the context, `horizon` times. The baseline to beat.

    Args:
        context: (B, T, C, H, W), T of 1 or more.
        horizon: number of frames, 1 or more.

    Returns:
        (B, horizon, C, H, W), a view of the context.

    Raises:
        ValueError: a context or horizon that does not fit.
    """
    horizon = positive("horizon", horizon)
    if context.ndim != 5 or context.shape[1] == 0:
        raise ValueError(
            f"context has shape {tuple(context.shape)}; it needs (B, T, C, H, W), T of 1 or more"
        )
    return repeat(context[:, -1], "b c h w -> b t c h w", t=horizon)


class Predict(Protocol):
    """Anything that forecasts: `copy_last`, or `functools.partial(convlstm.rollout, model)`."""

    def __call__(self, context: Tensor, horizon: int, /) -> Tensor:
        """Map a context (B, T, C, H, W) to the (B, horizon, C, H, W) that follow."""
        ...


class Source(Protocol):
    """A numbered set of sequences."""

    def __len__(self) -> int:
        """Return the number of sequences."""
        ...

    def batch(self, indices: Sequence[int], device: torch.device | str, /) -> Tensor:
        """Return the sequences with these numbers: float32 (B, T, C, H, W) in [0, 1], on `device`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What `evaluate` found: means over all frames of all sequences, and over sequences for each frame."""

    sequences: int
    """Number of sequences."""
    mse: float
    """Squared error, summed over a frame, unclipped."""
    mse_stderr: float
    """Standard error of `mse` over the sequences; nan if there is only one."""
    mae: float
    """Absolute error, summed over a frame, unclipped."""
    ssim: float
    """Structural similarity with data range 1, the true one, clipped."""
    ssim_range2: float
    """Structural similarity with data range 2, as commonly published for Moving MNIST, clipped."""
    psnr: float
    """Peak signal-to-noise ratio in decibels, clipped; a frame counts 100 at most."""
    mse_per_frame: tuple[float, ...]
    """`mse` of each of the forecast's frames, nearest first; the four below alike."""
    mae_per_frame: tuple[float, ...]
    ssim_per_frame: tuple[float, ...]
    ssim_range2_per_frame: tuple[float, ...]
    psnr_per_frame: tuple[float, ...]

    def to_dict(self) -> dict[str, int | float | list[float] | None]:
        """Return the fields as what JSON knows: numbers, lists of them, None for a nan."""
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
        return values | ({"mse_stderr": None} if math.isnan(self.mse_stderr) else {})


def evaluate(
    predict: Predict,
    source: Source,
    context: int = 10,
    horizon: int = 10,
    *,
    sequences: int | None = None,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    progress: Callable[[int], object] | None = None,
) -> Scores:
    """Score a predictor on the first sequences of a source, without gradients.

    Args:
        predict: maps (context, horizon) to a forecast. A model that has dropout must be in evaluation mode,
            as `functools.partial(convlstm.rollout, model)` sees to.
        source: the sequences, of `context + horizon` frames or more; frames beyond are left out.
        context: frames given to the predictor, 1 or more.
        horizon: frames asked of it, 1 or more.
        sequences: how many of the source's, from the first on; None (default) for all.
        batch_size: sequences at a time, 1 or more; it decides memory and speed, not the scores.
        device: where the sequences go, and so where the predictor must work.
        progress: called after each batch with its number of sequences, such as `tqdm(...).update`.

    Raises:
        ValueError: an argument out of its bounds, sequences that are too short, or a forecast whose shape is
            not that of the frames to come.
    """
    return evaluate_all(
        {"predict": predict},
        source,
        context,
        horizon,
        sequences=sequences,
        batch_size=batch_size,
        device=device,
        progress=progress,
    )["predict"]


@torch.no_grad()
def evaluate_all(
    predictors: Mapping[str, Predict],
    source: Source,
    context: int = 10,
    horizon: int = 10,
    *,
    sequences: int | None = None,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    progress: Callable[[int], object] | None = None,
) -> dict[str, Scores]:
    """Score several predictors on the same sequences, each of which is made or read only once.

    Args:
        predictors: names and what they stand for, such as {"copy last frame": copy_last}, one or more.
        source: see `evaluate`, as for all that follow.
        context: see `evaluate`.
        horizon: see `evaluate`.
        sequences: see `evaluate`.
        batch_size: see `evaluate`.
        device: see `evaluate`.
        progress: see `evaluate`.

    Returns:
        The scores under the names, in their order; for a table of them see `format_scores`.

    Raises:
        ValueError: see `evaluate`; or no predictor.
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
    tallies = {name: _Tally(horizon) for name in predictors}
    for start in range(0, sequences, batch_size):
        indices = range(start, min(start + batch_size, sequences))
        clips = source.batch(indices, device)
        if clips.ndim != 5 or clips.shape[1] < context + horizon:
            raise ValueError(
                f"source gives sequences of shape {tuple(clips.shape)}; a context of {context} and a horizon "
                f"of {horizon} need (B, T, C, H, W) with T of {context + horizon} or more"
            )
        seen, target = clips[:, :context], clips[:, context : context + horizon]
        for name, predict in predictors.items():
            prediction = predict(seen, horizon)
            if prediction.shape != target.shape:
                raise ValueError(
                    f"predictor {name!r} gave shape {tuple(prediction.shape)}; the frames to come have "
                    f"{tuple(target.shape)}"
                )
            tallies[name].add(prediction, target)
        if progress is not None:
            progress(len(indices))
    return {name: tally.scores() for name, tally in tallies.items()}


def format_scores(scores: Mapping[str, Scores]) -> str:
    """Lay out the scores of several predictors as a table for the terminal, its conventions in the last line.

    Args:
        scores: names and scores, such as `evaluate_all` returns, one or more, all of as many sequences.

    Raises:
        ValueError: no scores, or scores of different numbers of sequences or frames.
    """
    sizes = sorted({(s.sequences, len(s.mse_per_frame)) for s in scores.values()})
    if len(sizes) != 1:
        raise ValueError(f"scores are of {sizes} (sequences, frames); a table needs scores of the same ones")
    rows = [("", "MSE", "MAE", "SSIM (range 1)", "SSIM (range 2)", "PSNR (dB)")]
    for name, s in scores.items():
        similarity = f"{s.ssim:.4f}", f"{s.ssim_range2:.4f}"
        spread = "" if math.isnan(s.mse_stderr) else f" ± {s.mse_stderr:.2f}"
        rows.append((name, f"{s.mse:.2f}{spread}", f"{s.mae:.2f}", *similarity, f"{s.psnr:.2f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    [(sequences, frames)] = sizes
    means = f"Means over {frames} frames of one sequence"
    if sequences > 1:
        means = f"Means over {frames} frames of {sequences:,} sequences, ± standard error over sequences"
    lines.append(f"{means}; MSE and MAE summed over a frame, unclipped; SSIM and PSNR clipped to [0, 1].")
    return "\n".join(lines)


class _Tally:
    """Sums over sequences, for each frame of the horizon; of each sequence it keeps one number."""

    def __init__(self, horizon: int):
        self.sums = torch.zeros(5, horizon, dtype=torch.float64)
        self.mse_of_sequences: list[float] = []

    def add(self, prediction: Tensor, target: Tensor) -> None:
        # Frame by frame, since the windows of SSIM in float64 are many times as large as the frames.
        pairs = zip(prediction.split(1, dim=1), target.split(1, dim=1), strict=True)  # (B, 1, C, H, W) each
        frames = torch.cat([_frame_scores(*pair) for pair in pairs], dim=2)  # (5, B, T)
        frames = frames.cpu().to(torch.float64)
        self.sums += reduce(frames, "metric b t -> metric t", "sum")
        self.mse_of_sequences += reduce(frames[0], "b t -> b", "mean").tolist()

    def scores(self) -> Scores:
        n = len(self.mse_of_sequences)
        mse, mae, ssim, ssim_range2, psnr = (tuple(curve) for curve in (self.sums / n).tolist())
        spread = torch.tensor(self.mse_of_sequences, dtype=torch.float64)
        return Scores(
            sequences=n,
            mse=_mean(mse),
            mse_stderr=float(spread.std()) / math.sqrt(n) if n > 1 else math.nan,
            mae=_mean(mae),
            ssim=_mean(ssim),
            ssim_range2=_mean(ssim_range2),
            psnr=_mean(psnr),
            mse_per_frame=mse,
            mae_per_frame=mae,
            ssim_per_frame=ssim,
            ssim_range2_per_frame=ssim_range2,
            psnr_per_frame=psnr,
        )


def _mean(curve: tuple[float, ...]) -> float:
    return math.fsum(curve) / len(curve)


def _frame_scores(prediction: Tensor, target: Tensor) -> Tensor:
    """Return (5, B, T): MSE, MAE, SSIM with data range 1 and 2, PSNR."""
    moments = window_moments(*comparable(prediction, target))
    similarity = ssim_of(moments, 1.0), ssim_of(moments, 2.0)
    return torch.stack(
        [mse(prediction, target), mae(prediction, target), *similarity, psnr(prediction, target)]
    )
