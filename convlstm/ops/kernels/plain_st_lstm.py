"""The pointwise parts of the spatiotemporal LSTM's step (PredRNN, Wang et al. 2017) in torch's operations.

They are the definition, for any device and type. A step has two, for a convolution of the new cell states and
of the new memories is between them:

    c' = sigmoid(f) c + sigmoid(i) tanh(g)
    m' = sigmoid(f_m) m + sigmoid(i_m) tanh(g_m)
    h = sigmoid(o + W_o * [c', m']) tanh(W_l * [c', m'])

Letters: N rows (a row is a pixel of a frame), C hidden channels. All arguments are rows of channels. The
arithmetic is in float32, or in float64 for float64, and so are the arguments called wide. The others have the
type of the gates.
"""

import torch
from torch import Tensor

from convlstm.ops.layout import wide_type


def st_lstm_forward(
    gates: Tensor, m_gates: Tensor, c: Tensor, m: Tensor, keep: bool, cm: Tensor, copies: list[Tensor]
) -> None:
    """Compute the new cell state and memory from what the step's first convolutions gave.

    Args:
        gates: (N, 4C), what the convolutions gave, in the order i, f, g, o; all but o are overwritten.
        m_gates: (N, 3C), what they gave for the memory, in the order i, f, g; overwritten.
        c: (N, C), wide, the cell state before the step; overwritten with the new one.
        m: (N, C), wide, the memory before the step; overwritten with the new one.
        keep: whether `gates` holds the activated i, f and g afterwards, and `m_gates` the memory's.
        cm: (N, 2C), where the new cell state and the new memory go, too.
        copies: (N, C) each, where the new memory goes, too; at most two.
    """
    C = c.shape[1]
    for state, own in ((c, gates[:, : 3 * C]), (m, m_gates)):
        i, f, g = _wide(own).chunk(3, dim=-1)
        i, f, g = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g)
        state.copy_(f * state + i * g)
        if keep:
            own.copy_(torch.cat([i, f, g], dim=-1))
    for place, state in zip([*cm.chunk(2, dim=-1), *copies], [c, m, *[m] * len(copies)], strict=True):
        place.copy_(state)


def st_lstm_output(gates: Tensor, o_part: Tensor, l: Tensor, keep: bool, h: list[Tensor]) -> None:
    """Compute the new hidden state from what the convolutions of the new states gave.

    Args:
        gates: (N, 4C), of which o is read, and overwritten.
        o_part: (N, C), what the new states' convolution gave for o.
        l: (N, C), what the other one gave; overwritten.
        keep: whether `gates` holds the activated o afterwards, and `l` its tanh.
        h: (N, C) each, where the new hidden state goes; one to four.
    """
    C = l.shape[1]
    o = torch.sigmoid(_wide(gates[:, 3 * C :]) + _wide(o_part))
    tanh_l = torch.tanh(_wide(l))
    if keep:
        gates[:, 3 * C :].copy_(o)
        l.copy_(tanh_l)
    for place in h:
        place.copy_(o * tanh_l)


def st_lstm_output_backward(
    gates: Tensor, l: Tensor, dh: list[Tensor], d_gates: Tensor, d_o: Tensor, d_l: Tensor
) -> None:
    """Compute the gradients of `st_lstm_output`.

    Args:
        gates: (N, 4C), as kept.
        l: (N, C), as kept.
        dh: (N, C) each, none or more, whose sum is the gradient of the new hidden state.
        d_gates: (N, 4C), where the gradient of o goes; the others stay.
        d_o: (N, C), where the gradient of o goes, too: it is that of `o_part`.
        d_l: (N, C), where the gradient of `l` goes.
    """
    C = l.shape[1]
    o, tanh_l = _wide(gates[:, 3 * C :]), _wide(l)
    total = sum((_wide(part) for part in dh), start=torch.zeros_like(o))
    d_o.copy_(total * tanh_l * o * (1 - o))
    d_gates[:, 3 * C :].copy_(d_o)
    d_l.copy_(total * o * (1 - tanh_l * tanh_l))


def st_lstm_backward(
    gates: Tensor,
    m_gates: Tensor,
    c: Tensor,
    m: Tensor,
    d_cm: Tensor,
    dc: Tensor,
    dm: Tensor,
    dm_part: Tensor | None,
    d_gates: Tensor,
    d_m_gates: Tensor,
) -> None:
    """Compute the gradients of `st_lstm_forward`.

    Args:
        gates: (N, 4C), as kept.
        m_gates: (N, 3C), as kept.
        c: (N, C), the cell state before the step.
        m: (N, C), the memory before the step.
        d_cm: (N, 2C), a part of the gradients of the new cell state and of the new memory.
        dc: (N, C), wide, the rest of the new cell state's; overwritten with that of the cell state before.
        dm: (N, C), wide, the rest of the new memory's; overwritten with that of the memory before.
        dm_part: (N, C), another part of the new memory's, or None.
        d_gates: (N, 4C), where the gradients of i, f and g go; o's stays.
        d_m_gates: (N, 3C), where the gradients of `m_gates` go.
    """
    C = c.shape[1]
    d_c, d_m = _wide(d_cm).chunk(2, dim=-1)
    if dm_part is not None:
        d_m = d_m + dm_part
    for state, own, part, carried, d_own in (
        (c, gates[:, : 3 * C], d_c, dc, d_gates[:, : 3 * C]),
        (m, m_gates, d_m, dm, d_m_gates),
    ):
        i, f, g = _wide(own).chunk(3, dim=-1)
        total = carried + part
        d_i, d_f, d_g = total * g * i * (1 - i), total * state * f * (1 - f), total * i * (1 - g * g)
        d_own.copy_(torch.cat([d_i, d_f, d_g], dim=-1))
        carried.copy_(total * f)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(wide_type(tensor))
