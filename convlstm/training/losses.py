"""What a run trains on: the loss of each frame."""

from typing import Literal

import torch
from einops import reduce
from torch import Tensor

from convlstm.evaluation import PredictorScores

Loss = Literal["mse", "cross-entropy"]


def frame_loss(name: Loss, predictions: Tensor, targets: Tensor) -> Tensor:
    """Return what each frame costs, in the field's units: summed over its pixels.

        mse            sum over C, H, W of (p - y)^2
        cross-entropy  -sum over C, H, W of (y log p + (1 - y) log(1 - p)), in nats

    With p = sigmoid(z) the gradient of the latter by z is p - y. A p of exactly 0 or 1 is taken for the
    number next to it: its loss stays finite, its gradient is the sigmoid's, 0. Networks give probabilities
    in float32, where that is far off (see `convlstm.ops.functional.probabilities`).

    Args:
        name: of the loss.
        predictions: p, (B, T, C, H, W); for the cross-entropy probabilities, in [0, 1].
        targets: y, of the same shape, in [0, 1].

    Returns:
        (B, T), in float32 at least; not finite where predictions are not.
    """
    # Not torch's binary_cross_entropy, which stops the program at a nan, on a GPU for good; a run skips it.
    p = predictions.to(torch.promote_types(predictions.dtype, torch.float32))
    if name == "mse":
        of_pixels = (p - targets).square()
    else:
        numbers = torch.finfo(p.dtype)
        p = p.clamp(numbers.tiny, 1 - numbers.eps / 2)
        of_pixels = -torch.lerp(torch.log1p(-p), p.log(), targets.to(p.dtype))
    return reduce(of_pixels, "b t c h w -> b t", "sum")


def judged(name: Loss, scores: PredictorScores) -> tuple[str, float]:
    """Return the score by which networks trained on a loss are chosen, the lowest first, and its name."""
    if name == "mse":
        return "MSE", scores["mse"].mean
    return "cross-entropy", scores["cross_entropy"].mean
