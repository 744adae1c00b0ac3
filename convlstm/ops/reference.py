"""The reference: each op as a plain loop over time with torch's autograd. The fused op is tested against it.

Letters: T time, B batch, I input channels, C hidden channels, S the spatial axes. `lengths` is (B,), the
steps of each sequence, or None for T; past its length a sequence keeps its states. With `recompute` each step
keeps only its inputs for the backward pass, which runs the step again.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from convlstm.ops import functional


def rnn(
    input: Tensor,
    h: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None,
    nonlinearity: str,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run `functional.conv_rnn_step` along the first axis of (T, B, I, *S); return (T, B, C, *S) and h_n."""
    outputs = []
    for t, x in enumerate(input.unbind()):
        new = functional.conv_rnn_step(x, h, weight_ih, weight_hh, bias, nonlinearity)
        h = _keep_ended(t, lengths, h, new)
        outputs.append(h)
    return torch.stack(outputs), h


def lstm(
    input: Tensor,
    h: Tensor,
    c: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None,
    weight_ch: Tensor | None,
    lengths: Tensor | None = None,
    recompute: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run `functional.conv_lstm_step` along the first axis; return (T, B, C, *S), h_n and c_n."""
    outputs, step = [], _step(functional.conv_lstm_step, recompute)
    for t, x in enumerate(input.unbind()):
        new_h, new_c = step(x, h, c, weight_ih, weight_hh, bias, weight_ch)
        h, c = _keep_ended(t, lengths, h, new_h), _keep_ended(t, lengths, c, new_c)
        outputs.append(h)
    return torch.stack(outputs), h, c


def gru(
    input: Tensor,
    h: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None,
    bias_hn: Tensor | None,
    reset_after: bool,
    lengths: Tensor | None = None,
    recompute: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run `functional.conv_gru_step` along the first axis; return (T, B, C, *S) and h_n."""
    outputs, step = [], _step(functional.conv_gru_step, recompute)
    for t, x in enumerate(input.unbind()):
        new = step(x, h, weight_ih, weight_hh, bias, bias_hn, reset_after)
        h = _keep_ended(t, lengths, h, new)
        outputs.append(h)
    return torch.stack(outputs), h


def st_lstm(
    input: Tensor,
    h: Tensor,
    c: Tensor,
    m: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None,
    weight_mm: Tensor,
    weight_co: Tensor,
    weight_last: Tensor,
    lengths: Tensor | None = None,
    recompute: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run `functional.spatiotemporal_lstm_step` along the first axis; return (T, B, C, *S), h_n, c_n, m_n."""
    outputs, step = [], _step(functional.spatiotemporal_lstm_step, recompute)
    weights = (weight_ih, weight_hh, bias, weight_mm, weight_co, weight_last)
    for t, x in enumerate(input.unbind()):
        new = step(x, h, c, m, *weights)
        h, c, m = (_keep_ended(t, lengths, *pair) for pair in zip((h, c, m), new, strict=True))
        outputs.append(h)
    return torch.stack(outputs), h, c, m


def _step(function: Callable[..., Any], recompute: bool) -> Callable[..., Any]:
    """Return a step that is, with `recompute`, run again in the backward pass."""
    # The transforms of torch.func do not support checkpoints.
    if not (recompute and torch.is_grad_enabled()) or torch._C._are_functorch_transforms_active():
        return function
    return lambda *arguments: checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)


def _keep_ended(t: int, lengths: Tensor | None, state: Tensor, new: Tensor) -> Tensor:
    """Return the states after step t: the new ones, but the old ones of sequences that ended before."""
    if lengths is None:
        return new
    running = (t < lengths).reshape(-1, *(1 for _ in new.shape[1:]))  # (B, 1, ...)
    return torch.where(running, new, state.to(new.dtype))
