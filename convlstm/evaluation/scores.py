"""The scores that a training run is told by: five metrics, flat, as config.json and cards keep them.

Averages are over all frames of all sequences, never averages of batch averages.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from convlstm.evaluation.rows import Rows, measure
from convlstm.evaluation.sources import Predict, Source

__all__ = ["Scores", "evaluate_all", "format_scores", "summarize"]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What `evaluate_all` found: means over all frames of all sequences, and of each frame over sequences."""

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
    cross_entropy: float | None = None
    """Binary cross-entropy in nats, summed over a frame; None of predictions that are no probabilities."""

    def to_dict(self) -> dict[str, int | float | list[float] | None]:
        """Return the fields that there are as what JSON knows: numbers, lists of them, None for a nan."""
        there = {name: value for name, value in asdict(self).items() if value is not None}
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in there.items()}
        return values | ({"mse_stderr": None} if math.isnan(self.mse_stderr) else {})


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
        predictors: names and what they stand for, such as {"copy last frame": copy_last}, one or more. A
            model that has dropout must be in evaluation mode, as `functools.partial(convlstm.rollout, model)`
            sees to.
        source: the sequences, of `context + horizon` frames or more; frames beyond are left out.
        context: frames given to the predictors, 1 or more.
        horizon: frames asked of them, 1 or more.
        sequences: how many of the source's, from the first on; None (default) for all.
        batch_size: sequences at a time, 1 or more; it decides memory and speed, not the scores.
        device: where the sequences go, and so where the predictors must work.
        progress: called after each batch with its number of sequences, such as `tqdm(...).update`.

    Returns:
        The scores under the names, in their order; for a table of them see `format_scores`.

    Raises:
        ValueError: an argument out of its bounds, no predictor, sequences that are too short, or a forecast
            whose shape is not that of the frames to come.
    """
    rows = measure(
        predictors,
        source,
        context,
        horizon,
        sequences=sequences,
        batch_size=batch_size,
        device=device,
        progress=progress,
    )
    return {name: summarize(found) for name, found in rows.items()}


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
    entropies = any(s.cross_entropy is not None for s in scores.values())
    rows = [["", "MSE", "MAE", "SSIM (range 1)", "SSIM (range 2)", "PSNR (dB)", *["nats"][:entropies]]]
    for name, s in scores.items():
        similarity = f"{s.ssim:.4f}", f"{s.ssim_range2:.4f}"
        spread = "" if math.isnan(s.mse_stderr) else f" ± {s.mse_stderr:.2f}"
        rows.append([name, f"{s.mse:.2f}{spread}", f"{s.mae:.2f}", *similarity, f"{s.psnr:.2f}"])
        if entropies:
            rows[-1].append("" if s.cross_entropy is None else f"{s.cross_entropy:.2f}")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    [(sequences, frames)] = sizes
    means = f"Means over {frames} frames of one sequence"
    if sequences > 1:
        means = f"Means over {frames} frames of {sequences:,} sequences, ± standard error over sequences"
    lines.append(f"{means}; MSE and MAE summed over a frame, unclipped; SSIM and PSNR clipped to [0, 1].")
    if entropies:
        lines.append("nats: cross-entropy per frame, summed over it, of probabilities from 1e-6 to 1 - 1e-6.")
    return "\n".join(lines)


def summarize(rows: Rows) -> Scores:
    """Return the scores of a predictor, of what `measure` noted down of it."""
    n = rows.metrics.shape[1]
    found = dict(zip(rows.names, rows.metrics.mean(dim=1).tolist(), strict=True))
    curves = {name: tuple(found[name]) for name in ("mse", "mae", "ssim", "ssim_range2", "psnr")}
    values: dict[str, Any] = {name: math.fsum(curve) / len(curve) for name, curve in curves.items()}
    values |= {f"{name}_per_frame": curve for name, curve in curves.items()}
    if "bce" in found:
        values["cross_entropy"] = math.fsum(found["bce"]) / len(found["bce"])
    of_sequences = rows.metrics[rows.names.index("mse")].mean(dim=1)
    return Scores(
        sequences=n,
        mse_stderr=float(of_sequences.std()) / math.sqrt(n) if n > 1 else math.nan,
        **values,
    )
