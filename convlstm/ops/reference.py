"""The sequence ops as a plain loop over time with torch's own autograd: the definition of right.

`lengths` is (B,), the steps of each sequence, or None: past its length a sequence keeps its states.

Letters: T time, B batch, I input channels, C hidden channels, S the spatial axes. Every faster
implementation is tested against these, values and gradients.
"""

import torch
from torch import Tensor

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
        h = _step(t, lengths, h, functional.conv_rnn_step(x, h, weight_ih, weight_hh, bias, nonlinearity))
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
) -> tuple[Tensor, Tensor, Tensor]:
    """Run `functional.conv_lstm_step` along the first axis; return (T, B, C, *S), h_n and c_n."""
    outputs = []
    for t, x in enumerate(input.unbind()):
        new_h, new_c = functional.conv_lstm_step(x, h, c, weight_ih, weight_hh, bias, weight_ch)
        h, c = _step(t, lengths, h, new_h), _step(t, lengths, c, new_c)
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
) -> tuple[Tensor, Tensor]:
    """Run `functional.conv_gru_step` along the first axis; return (T, B, C, *S) and h_n."""
    outputs = []
    for t, x in enumerate(input.unbind()):
        new = functional.conv_gru_step(x, h, weight_ih, weight_hh, bias, bias_hn, reset_after)
        h = _step(t, lengths, h, new)
        outputs.append(h)
    return torch.stack(outputs), h


def _step(t: int, lengths: Tensor | None, state: Tensor, new: Tensor) -> Tensor:
    """The state after step t: the new one, but for sequences that ended before."""
    if lengths is None:
        return new
    running = (t < lengths).reshape(-1, *(1 for _ in new.shape[1:]))  # (B, 1, ...)
    return torch.where(running, new, state.to(new.dtype))
