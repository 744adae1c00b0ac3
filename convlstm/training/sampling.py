"""Scheduled sampling: how often, and where, training shows a network the true frame in place of its own.

Source: Bengio et al. 2015, "Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks".
"""

from typing import Any

import torch
from torch import Tensor

from convlstm.core.hashing import uniform

# A key of its own, so that the draws are independent of everything else that is made from the same seed.
_STREAM = 0x5C4ED


def true_frame_probability(settings: Any, step: int) -> float:
    """Return the probability of reading the true frame, which falls linearly from 1 to 0.

        p = max(0, 1 - step / (teacher_forcing * steps)), or 0 if teacher_forcing is 0

    Args:
        settings: `Config` of train.py, with its fields teacher_forcing and steps.
        step: optimizer steps done.
    """
    end = settings.teacher_forcing * settings.steps
    return max(0.0, 1.0 - step / end) if end > 0 else 0.0


def draw_use_target(probability: float, seed: int, step: int, indices: Tensor, horizon: int) -> Tensor:
    """Draw the `use_target` mask of a batch, anew for each sequence and frame.

    The draw of sequence n at step s is a pure function of (seed, s, n): the same in any batch, on any number
    of processes and after a resume.

    Args:
        probability: of showing the true frame, 0 to 1.
        seed: of the run.
        step: optimizer steps done.
        indices: int64 (B,), the numbers of the sequences.
        horizon: frames predicted, 1 or more.

    Returns:
        bool (B, horizon - 1), True where the true frame is to be read, on the device of the indices.
    """
    if horizon == 1:
        return torch.empty(len(indices), 0, dtype=torch.bool, device=indices.device)
    return uniform(_STREAM, seed, step, indices, draws=horizon - 1) < probability  # (B, horizon - 1)
