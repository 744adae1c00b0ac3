"""The sequence ops as a plain loop over time with torch's own autograd: the definition of right.

Letters: T time, B batch, I input channels, C hidden channels, S the spatial axes. Every faster
implementation is tested against these, values and gradients.
"""

import torch
from torch import Tensor

from convlstm import functional


def rnn(
    input: Tensor,
    h: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None,
    nonlinearity: str,
) -> tuple[Tensor, Tensor]:
    """Run `functional.conv_rnn_step` along the first axis of (T, B, I, *S); return (T, B, C, *S) and h_n."""
    outputs = []
    for x in input.unbind():
        h = functional.conv_rnn_step(x, h, weight_ih, weight_hh, bias, nonlinearity)
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
) -> tuple[Tensor, Tensor, Tensor]:
    """Run `functional.conv_lstm_step` along the first axis; return (T, B, C, *S), h_n and c_n."""
    outputs = []
    for x in input.unbind():
        h, c = functional.conv_lstm_step(x, h, c, weight_ih, weight_hh, bias, weight_ch)
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
) -> tuple[Tensor, Tensor]:
    """Run `functional.conv_gru_step` along the first axis; return (T, B, C, *S) and h_n."""
    outputs = []
    for x in input.unbind():
        h = functional.conv_gru_step(x, h, weight_ih, weight_hh, bias, bias_hn, reset_after)
        outputs.append(h)
    return torch.stack(outputs), h
