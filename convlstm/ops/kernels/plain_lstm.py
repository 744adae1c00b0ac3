"""The pointwise part of the LSTM's step in torch's operations: the definition, for any device and type.

Letters: N rows (a row is a pixel of a frame), C hidden channels. All arguments are rows of channels.
"""

import torch
from torch import Tensor


def lstm_forward(
    gates: Tensor,
    c: Tensor,
    weight_ch: Tensor | None,
    keep: bool,
    c_new: Tensor,
    short_c: Tensor | None,
    h: list[Tensor],
) -> None:
    """Compute a step from what its convolutions gave.

    Args:
        gates: (N, 4C), what the convolutions gave, in the order i, f, g, o; overwritten.
        c: (N, C), the cell state before the step.
        weight_ch: peepholes (1 or P, 3C), or None.
        keep: whether `gates` holds the activated gates afterwards.
        c_new: (N, C), where the new cell state goes; may be `c`.
        short_c: (N, C), where it goes too, in the type of the gates; or None.
        h: (N, C) each, where the new hidden state goes.
    """
    i, f, g, o = gates.to(c.dtype).chunk(4, dim=-1)
    peepholes = None if weight_ch is None else _peepholes(weight_ch, c)
    if peepholes:
        i, f = i + peepholes[0] * c, f + peepholes[1] * c
    i, f, g = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g)
    new = f * c + i * g
    o = torch.sigmoid(o + peepholes[2] * new if peepholes else o)
    if keep:
        gates.copy_(torch.cat([i, f, g, o], dim=-1))
    c_new.copy_(new)
    if short_c is not None:
        short_c.copy_(new)
    result = o * torch.tanh(new)
    for destination in h:
        destination.copy_(result)


def lstm_backward(
    gates: Tensor,
    c: Tensor,
    c_new: Tensor,
    weight_ch: Tensor | None,
    dh: list[Tensor],
    dc: Tensor,
    d_gates: Tensor,
) -> None:
    """Compute the gradients of `lstm_forward`, of what the convolutions gave and of the cell state before.

    Args:
        gates: (N, 4C), activated, as saved.
        c: (N, C), the cell state before the step, in the type of the gates.
        c_new: (N, C), the cell state after it.
        weight_ch: peepholes (1 or P, 3C), or None.
        dh: (N, C) each, none or more, whose sum is the gradient of the new hidden state.
        dc: (N, C), the gradient of the new cell state; overwritten with that of the cell state before.
        d_gates: (N, 4C), where the gradients of the gates go.
    """
    i, f, g, o = gates.to(dc.dtype).chunk(4, dim=-1)
    total = sum(dh, start=torch.zeros_like(dc))
    tanh_c = torch.tanh(c_new.to(dc.dtype))
    d_o = total * tanh_c * o * (1 - o)
    d_c = dc + total * o * (1 - tanh_c * tanh_c)
    peepholes = None if weight_ch is None else _peepholes(weight_ch, dc)
    if peepholes:
        d_c = d_c + d_o * peepholes[2]
    d_i = d_c * g * i * (1 - i)
    d_f = d_c * c * f * (1 - f)
    d_g = d_c * i * (1 - g * g)
    d_gates.copy_(torch.cat([d_i, d_f, d_g, d_o], dim=-1))
    d_before = d_c * f
    dc.copy_(d_before + d_i * peepholes[0] + d_f * peepholes[1] if peepholes else d_before)


def _peepholes(weight_ch: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the peepholes of the gates i, f and o, as rows that fit those of c."""
    w_ci, w_cf, w_co = weight_ch.repeat(len(c) // len(weight_ch), 1).chunk(3, dim=-1)
    return w_ci, w_cf, w_co
