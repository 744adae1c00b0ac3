"""The pointwise part of the LSTM's step on CUDA, float32, bfloat16 and float16, by Triton.

The functions and their arguments are those of `convlstm.ops.kernels.plain_lstm`, but that the channels of a
row lie side by side in memory, and that there are at most four places of h and three gradients of it. Nothing
is allocated or waited for, so that a CUDA graph can capture it. The arithmetic is in float32.
"""

import triton
import triton.language as tl
from torch import Tensor

from convlstm.ops.kernels.cuda_language import elements, launch, load, sigmoid, tanh


@triton.jit
def _lstm_forward(
    gates,
    gates_stride,
    c,
    c_stride,
    weight_ch,
    weight_stride,
    c_new,
    c_new_stride,
    short_c,
    short_stride,
    h0,
    h0_stride,
    h1,
    h1_stride,
    h2,
    h2_stride,
    h3,
    h3_stride,
    N,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    P: tl.constexpr,
    KEEP: tl.constexpr,
):
    n, k, there = elements(N, C, BLOCK)
    gates += n * gates_stride + k
    i = load(gates, there)
    f = load(gates + C, there)
    g = tanh(load(gates + 2 * C, there))
    o = load(gates + 3 * C, there)
    old = load(c + n * c_stride + k, there)
    if weight_ch is not None:
        weight_ch += n % P * weight_stride + k
        i += load(weight_ch, there) * old
        f += load(weight_ch + C, there) * old
    i = sigmoid(i)
    f = sigmoid(f)
    new = f * old + i * g
    if weight_ch is not None:
        o += load(weight_ch + 2 * C, there) * new
    o = sigmoid(o)
    tl.store(c_new + n * c_new_stride + k, new, mask=there)
    if short_c is not None:
        tl.store(short_c + n * short_stride + k, new, mask=there)
    if KEEP:
        tl.store(gates, i, mask=there)
        tl.store(gates + C, f, mask=there)
        tl.store(gates + 2 * C, g, mask=there)
        tl.store(gates + 3 * C, o, mask=there)
    h = o * tanh(new)
    tl.store(h0 + n * h0_stride + k, h, mask=there)
    if h1 is not None:
        tl.store(h1 + n * h1_stride + k, h, mask=there)
    if h2 is not None:
        tl.store(h2 + n * h2_stride + k, h, mask=there)
    if h3 is not None:
        tl.store(h3 + n * h3_stride + k, h, mask=there)


@triton.jit
def _lstm_backward(
    gates,
    gates_stride,
    c,
    c_stride,
    c_new,
    c_new_stride,
    weight_ch,
    weight_stride,
    dc,
    dc_stride,
    d_gates,
    d_gates_stride,
    dh0,
    dh0_stride,
    dh1,
    dh1_stride,
    dh2,
    dh2_stride,
    N,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    P: tl.constexpr,
):
    n, k, there = elements(N, C, BLOCK)
    gates += n * gates_stride + k
    i = load(gates, there)
    f = load(gates + C, there)
    g = load(gates + 2 * C, there)
    o = load(gates + 3 * C, there)
    d_h = tl.zeros([BLOCK], tl.float32)
    if dh0 is not None:
        d_h += load(dh0 + n * dh0_stride + k, there)
    if dh1 is not None:
        d_h += load(dh1 + n * dh1_stride + k, there)
    if dh2 is not None:
        d_h += load(dh2 + n * dh2_stride + k, there)
    tanh_c = tanh(load(c_new + n * c_new_stride + k, there))
    d_o = d_h * tanh_c * o * (1 - o)
    dc += n * dc_stride + k
    d_c = load(dc, there) + d_h * o * (1 - tanh_c * tanh_c)
    if weight_ch is not None:
        weight_ch += n % P * weight_stride + k
        d_c += d_o * load(weight_ch + 2 * C, there)
    d_i = d_c * g * i * (1 - i)
    d_f = d_c * load(c + n * c_stride + k, there) * f * (1 - f)
    d_gates += n * d_gates_stride + k
    tl.store(d_gates, d_i, mask=there)
    tl.store(d_gates + C, d_f, mask=there)
    tl.store(d_gates + 2 * C, d_c * i * (1 - g * g), mask=there)
    tl.store(d_gates + 3 * C, d_o, mask=there)
    d_c *= f
    if weight_ch is not None:
        d_c += d_i * load(weight_ch, there) + d_f * load(weight_ch + C, there)
    tl.store(dc, d_c, mask=there)


def lstm_forward(
    gates: Tensor,
    c: Tensor,
    weight_ch: Tensor | None,
    keep: bool,
    c_new: Tensor,
    short_c: Tensor | None,
    h: list[Tensor],
) -> None:
    """See `plain_lstm.lstm_forward`."""
    arrays = [gates, c, weight_ch, c_new, short_c, *h, *[None] * (4 - len(h))]
    launch(_lstm_forward, c, arrays, P=_repeat(weight_ch), KEEP=keep)


def lstm_backward(
    gates: Tensor,
    c: Tensor,
    c_new: Tensor,
    weight_ch: Tensor | None,
    dh: list[Tensor],
    dc: Tensor,
    d_gates: Tensor,
) -> None:
    """See `plain_lstm.lstm_backward`."""
    arrays = [gates, c, c_new, weight_ch, dc, d_gates, *dh, *[None] * (3 - len(dh))]
    launch(_lstm_backward, c, arrays, P=_repeat(weight_ch))


def _repeat(weight_ch: Tensor | None) -> int:
    """Return after how many rows the peepholes repeat."""
    return 1 if weight_ch is None else len(weight_ch)
