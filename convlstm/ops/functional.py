"""The equations: one time step of each convolutional recurrent cell, and the order of the gates.

Gates lie along the channels in the order i, f, g, o (LSTM) and r, z, n (GRU), here and everywhere else. A
spatiotemporal LSTM has those of its memory, i', f', g', after the others.

Letters: B batch, I input channels, C hidden channels, K kernel taps per axis, S the spatial axes (one to
three of them). `*` is a convolution that keeps the frame size, `.` an elementwise product.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def conv_same(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve at stride 1 with zero padding that keeps the frame size, for odd and even kernels.

    An even kernel needs one column of padding more on one side than on the other; it goes to the end, as in
    Keras and TensorFlow.

    Args:
        input: (B, I, *S).
        weight: (O, I, *K).
        bias: (O,), or None.

    Returns:
        (B, O, *S).
    """
    kernel = weight.shape[2:]
    convolution = _CONVOLUTIONS[len(kernel)]
    if all(k % 2 for k in kernel):
        return convolution(input, weight, bias, padding=[k // 2 for k in kernel])
    # F.pad wants the last axis first.
    padding = [side for k in reversed(kernel) for side in ((k - 1) // 2, k // 2)]
    return convolution(F.pad(input, padding), weight, bias)


def _input_part(x: Tensor, weight_ih: Tensor | None, bias: Tensor | None, like: Tensor) -> Tensor:
    """Compute W_ih * x + b; without an input convolution, the bias alone, shaped to broadcast."""
    if weight_ih is not None:
        return conv_same(x, weight_ih, bias)
    if bias is not None:
        return bias.reshape(-1, *(1 for _ in like.shape[2:])).to(like.dtype)
    return like.new_zeros(())


def probabilities(logits: Tensor) -> Tensor:
    """Return the sigmoid of predictions in float32, or in float64 for float64.

    In bfloat16 every probability above 0.998 (a logit above 6.2) rounds to 1, and its gradient p (1 - p) to
    0. A logit in bfloat16 keeps both. In float32 this happens above a logit of 16.
    """
    return torch.sigmoid(logits.to(torch.promote_types(logits.dtype, torch.float32)))


def conv_rnn_step(
    x: Tensor,
    h: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    nonlinearity: str = "tanh",
) -> Tensor:
    """Compute one step of the convolutional Elman network.

        h' = tanh(W_ih * x + W_hh * h + b)

    Args:
        x: (B, I, *S), the frame; only its sizes matter where `weight_ih` is None.
        h: (B, C, *S), the hidden state.
        weight_ih: (C, I, *K), or None for no input convolution.
        weight_hh: (C, C, *K).
        bias: (C,), or None.
        nonlinearity: "tanh" (default) or "relu".

    Returns:
        The new hidden state, (B, C, *S).
    """
    recurrent = conv_same(h, weight_hh)
    total = _input_part(x, weight_ih, bias, recurrent) + recurrent  # (B, C, *S)
    return torch.tanh(total) if nonlinearity == "tanh" else torch.relu(total)


def conv_lstm_step(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    weight_ch: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute one step of the convolutional LSTM.

        i = sigmoid(W_ii * x + W_hi * h + w_ci . c  + b_i)
        f = sigmoid(W_if * x + W_hf * h + w_cf . c  + b_f)
        g = tanh   (W_ig * x + W_hg * h             + b_g)
        c' = f . c + i . g
        o = sigmoid(W_io * x + W_ho * h + w_co . c' + b_o)
        h' = o . tanh(c')

    Source: Shi et al. 2015, "Convolutional LSTM Network", equation 3; the peepholes w_c are optional.

    Args:
        x: (B, I, *S), the frame; only its sizes matter where `weight_ih` is None.
        h: (B, C, *S), the hidden state, in the type the convolutions compute in.
        c: (B, C, *S), the cell state; it keeps its own, wider type.
        weight_ih: (4C, I, *K), rows i, f, g, o, or None for no input convolution.
        weight_hh: (4C, C, *K), rows i, f, g, o.
        bias: (4C,), or None.
        weight_ch: the peepholes, rows i, f, o: (3C, 1, ...) per channel, (3C, *S) per pixel, or None.

    Returns:
        The new hidden state and the new cell state, (B, C, *S) each.
    """
    recurrent = conv_same(h, weight_hh)
    gates = _input_part(x, weight_ih, bias, recurrent) + recurrent  # (B, 4C, *S)
    i, f, g, o = gates.chunk(4, dim=1)  # (B, C, *S) each
    if weight_ch is None:
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    else:
        w_ci, w_cf, w_co = weight_ch.chunk(3)  # (C, 1, ...) or (C, *S) each
        c = torch.sigmoid(f + w_cf * c) * c + torch.sigmoid(i + w_ci * c) * torch.tanh(g)
        o = o + w_co * c
    return (torch.sigmoid(o) * torch.tanh(c)).to(h.dtype), c


def spatiotemporal_lstm_step(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    m: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None,
    weight_mm: Tensor,
    weight_co: Tensor,
    weight_last: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute one step of the spatiotemporal LSTM.

        i = sigmoid(W_ii * x + W_hi * h + b_i)      i' = sigmoid(W'_ii * x + W_mi * m + b'_i)
        f = sigmoid(W_if * x + W_hf * h + b_f)      f' = sigmoid(W'_if * x + W_mf * m + b'_f)
        g = tanh   (W_ig * x + W_hg * h + b_g)      g' = tanh   (W'_ig * x + W_mg * m + b'_g)
        c' = f . c + i . g                          m' = f' . m + i' . g'
        o = sigmoid(W_io * x + W_ho * h + W_co * [c', m'] + b_o)
        h' = o . tanh(W_last * [c', m'])

    Source: Wang et al. 2017, "PredRNN: Recurrent Neural Networks for Predictive Learning using Spatiotemporal
    LSTMs".

    Args:
        x: (B, I, *S), the frame; only its sizes matter where `weight_ih` is None.
        h: (B, C, *S), the hidden state, in the type the convolutions compute in.
        c: (B, C, *S), the cell state; it keeps its own, wider type.
        m: (B, C, *S), the memory; it keeps its own, wider type.
        weight_ih: (7C, I, *K), rows i, f, g, o, i', f', g', or None for no input convolution.
        weight_hh: (4C, C, *K), rows i, f, g, o.
        bias: (7C,), or None.
        weight_mm: (3C, C, *K), rows i', f', g'.
        weight_co: (C, 2C, *K); it reads c', then m'.
        weight_last: (C, 2C, 1, ...); it reads c', then m'.

    Returns:
        The new hidden state, cell state and memory, (B, C, *S) each.
    """
    recurrent = torch.cat([conv_same(h, weight_hh), conv_same(m.to(h.dtype), weight_mm)], dim=1)
    gates = _input_part(x, weight_ih, bias, recurrent) + recurrent  # (B, 7C, *S)
    i, f, g, o, i_m, f_m, g_m = gates.chunk(7, dim=1)  # (B, C, *S) each
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    m = torch.sigmoid(f_m) * m + torch.sigmoid(i_m) * torch.tanh(g_m)
    both = torch.cat([c, m], dim=1).to(h.dtype)  # (B, 2C, *S)
    o = torch.sigmoid(o + conv_same(both, weight_co))
    return o * torch.tanh(conv_same(both, weight_last)), c, m


def conv_gru_step(
    x: Tensor,
    h: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    bias_hn: Tensor | None = None,
    reset_after: bool = True,
) -> Tensor:
    """Compute one step of the convolutional GRU.

        r = sigmoid(W_ir * x + W_hr * h + b_r)
        z = sigmoid(W_iz * x + W_hz * h + b_z)
        n = tanh(W_in * x + b_n + r . (W_hn * h + b_hn))     reset_after=True, as torch.nn.GRU
        n = tanh(W_in * x + b_n + W_hn * (r . h))            reset_after=False, as Ballas et al. 2016
        h' = (1 - z) . n + z . h

    Sources: Cho et al. 2014 for the gates; Ballas et al. 2016, "Delving Deeper into Convolutional Networks
    for Learning Video Representations", equations 4 to 7, for the convolutions.

    Args:
        x: (B, I, *S), the frame; only its sizes matter where `weight_ih` is None.
        h: (B, C, *S), the hidden state.
        weight_ih: (3C, I, *K), rows r, z, n, or None for no input convolution.
        weight_hh: (3C, C, *K), rows r, z, n.
        bias: (3C,), or None.
        bias_hn: (C,), the bias inside the reset gate's product, or None; only with reset_after.
        reset_after: apply the reset gate after the recurrent convolution (default) or before it.

    Returns:
        The new hidden state, (B, C, *S).
    """
    C = h.shape[1]
    spatial = h.shape[2:]
    if reset_after:
        recurrent = conv_same(h, weight_hh)  # (B, 3C, *S)
        from_input = _input_part(x, weight_ih, bias, recurrent).expand(*recurrent.shape)
        i_rz, i_n = from_input.split([2 * C, C], dim=1)
        h_rz, h_n = recurrent.split([2 * C, C], dim=1)
        r, z = torch.sigmoid(i_rz + h_rz).chunk(2, dim=1)  # (B, C, *S) each
        if bias_hn is not None:
            h_n = h_n + bias_hn.reshape(-1, *(1 for _ in spatial)).to(h_n.dtype)
        n = torch.tanh(i_n + r * h_n)
    else:
        w_rz, w_n = weight_hh.split([2 * C, C])
        h_rz = conv_same(h, w_rz)  # (B, 2C, *S)
        from_input = _input_part(x, weight_ih, bias, h_rz).expand(h.shape[0], 3 * C, *spatial)
        i_rz, i_n = from_input.split([2 * C, C], dim=1)
        r, z = torch.sigmoid(i_rz + h_rz).chunk(2, dim=1)  # (B, C, *S) each
        n = torch.tanh(i_n + conv_same(r * h, w_n))
    return (1 - z) * n + z * h
