"""The pointwise parts of the spatiotemporal LSTM's step on CUDA, float32, bfloat16 and float16, by Triton.

The functions and their arguments are those of `convlstm.ops.kernels.plain_st_lstm`, but that the channels of
a row lie side by side in memory. Nothing is waited for, and nothing allocated unless there are more than four
gradients of the hidden state, so that a CUDA graph can capture it. The arithmetic is in float32.
"""

import triton
import triton.language as tl
from torch import Tensor

from convlstm.ops.kernels.cuda_language import elements, launch, load, sigmoid, tanh


@triton.jit
def _state(gates, state, short, there, C: tl.constexpr, KEEP: tl.constexpr):
    """Compute the new cell state or memory, store it and return it."""
    i = sigmoid(load(gates, there))
    f = sigmoid(load(gates + C, there))
    g = tanh(load(gates + 2 * C, there))
    new = f * load(state, there) + i * g
    tl.store(state, new, mask=there)
    tl.store(short, new, mask=there)
    if KEEP:
        tl.store(gates, i, mask=there)
        tl.store(gates + C, f, mask=there)
        tl.store(gates + 2 * C, g, mask=there)
    return new


@triton.jit
def _st_lstm_forward(
    gates,
    gates_stride,
    m_gates,
    m_gates_stride,
    c,
    c_stride,
    m,
    m_stride,
    cm,
    cm_stride,
    copy0,
    copy0_stride,
    copy1,
    copy1_stride,
    N,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    KEEP: tl.constexpr,
):
    n, k, there = elements(N, C, BLOCK)
    cm += n * cm_stride + k
    _state(gates + n * gates_stride + k, c + n * c_stride + k, cm, there, C, KEEP)
    new = _state(m_gates + n * m_gates_stride + k, m + n * m_stride + k, cm + C, there, C, KEEP)
    if copy0 is not None:
        tl.store(copy0 + n * copy0_stride + k, new, mask=there)
    if copy1 is not None:
        tl.store(copy1 + n * copy1_stride + k, new, mask=there)


@triton.jit
def _st_lstm_output(
    gates,
    gates_stride,
    o_part,
    o_part_stride,
    l,
    l_stride,
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
    KEEP: tl.constexpr,
):
    n, k, there = elements(N, C, BLOCK)
    gates += n * gates_stride + k + 3 * C
    l += n * l_stride + k
    o = sigmoid(load(gates, there) + load(o_part + n * o_part_stride + k, there))
    tanh_l = tanh(load(l, there))
    if KEEP:
        tl.store(gates, o, mask=there)
        tl.store(l, tanh_l, mask=there)
    h = o * tanh_l
    tl.store(h0 + n * h0_stride + k, h, mask=there)
    if h1 is not None:
        tl.store(h1 + n * h1_stride + k, h, mask=there)
    if h2 is not None:
        tl.store(h2 + n * h2_stride + k, h, mask=there)
    if h3 is not None:
        tl.store(h3 + n * h3_stride + k, h, mask=there)


@triton.jit
def _st_lstm_output_backward(
    gates,
    gates_stride,
    l,
    l_stride,
    d_gates,
    d_gates_stride,
    d_o,
    d_o_stride,
    d_l,
    d_l_stride,
    dh0,
    dh0_stride,
    dh1,
    dh1_stride,
    dh2,
    dh2_stride,
    dh3,
    dh3_stride,
    N,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n, k, there = elements(N, C, BLOCK)
    o = load(gates + n * gates_stride + k + 3 * C, there)
    tanh_l = load(l + n * l_stride + k, there)
    d_h = tl.zeros([BLOCK], tl.float32)
    if dh0 is not None:
        d_h += load(dh0 + n * dh0_stride + k, there)
    if dh1 is not None:
        d_h += load(dh1 + n * dh1_stride + k, there)
    if dh2 is not None:
        d_h += load(dh2 + n * dh2_stride + k, there)
    if dh3 is not None:
        d_h += load(dh3 + n * dh3_stride + k, there)
    d_before = d_h * tanh_l * o * (1 - o)
    tl.store(d_gates + n * d_gates_stride + k + 3 * C, d_before, mask=there)
    tl.store(d_o + n * d_o_stride + k, d_before, mask=there)
    tl.store(d_l + n * d_l_stride + k, d_h * o * (1 - tanh_l * tanh_l), mask=there)


@triton.jit
def _state_backward(gates, before, d_new, carried, d_gates, there, C: tl.constexpr):
    """Compute the gradients of `_state`, given that of the new state without what is carried."""
    i = load(gates, there)
    f = load(gates + C, there)
    g = load(gates + 2 * C, there)
    d_new += load(carried, there)
    tl.store(d_gates, d_new * g * i * (1 - i), mask=there)
    tl.store(d_gates + C, d_new * load(before, there) * f * (1 - f), mask=there)
    tl.store(d_gates + 2 * C, d_new * i * (1 - g * g), mask=there)
    tl.store(carried, d_new * f, mask=there)


@triton.jit
def _st_lstm_backward(
    gates,
    gates_stride,
    m_gates,
    m_gates_stride,
    c,
    c_stride,
    m,
    m_stride,
    d_cm,
    d_cm_stride,
    dc,
    dc_stride,
    dm,
    dm_stride,
    dm_part,
    dm_part_stride,
    d_gates,
    d_gates_stride,
    d_m_gates,
    d_m_gates_stride,
    N,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n, k, there = elements(N, C, BLOCK)
    gates += n * gates_stride + k
    m_gates += n * m_gates_stride + k
    d_cm += n * d_cm_stride + k
    d_c = load(d_cm, there)
    d_m = load(d_cm + C, there)
    if dm_part is not None:
        d_m += load(dm_part + n * dm_part_stride + k, there)
    d_gates += n * d_gates_stride + k
    d_m_gates += n * d_m_gates_stride + k
    _state_backward(gates, c + n * c_stride + k, d_c, dc + n * dc_stride + k, d_gates, there, C)
    _state_backward(m_gates, m + n * m_stride + k, d_m, dm + n * dm_stride + k, d_m_gates, there, C)


def st_lstm_forward(
    gates: Tensor, m_gates: Tensor, c: Tensor, m: Tensor, keep: bool, cm: Tensor, copies: list[Tensor]
) -> None:
    """See `plain_st_lstm.st_lstm_forward`."""
    arrays = [gates, m_gates, c, m, cm, *copies, *[None] * (2 - len(copies))]
    launch(_st_lstm_forward, c, arrays, KEEP=keep)


def st_lstm_output(gates: Tensor, o_part: Tensor, l: Tensor, keep: bool, h: list[Tensor]) -> None:
    """See `plain_st_lstm.st_lstm_output`."""
    launch(_st_lstm_output, l, [gates, o_part, l, *h, *[None] * (4 - len(h))], KEEP=keep)


def st_lstm_output_backward(
    gates: Tensor, l: Tensor, dh: list[Tensor], d_gates: Tensor, d_o: Tensor, d_l: Tensor
) -> None:
    """See `plain_st_lstm.st_lstm_output_backward`."""
    while len(dh) > 4:
        dh = [dh[0] + dh[1], *dh[2:]]
    launch(_st_lstm_output_backward, l, [gates, l, d_gates, d_o, d_l, *dh, *[None] * (4 - len(dh))])


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
    """See `plain_st_lstm.st_lstm_backward`."""
    arrays = [gates, m_gates, c, m, d_cm, dc, dm, dm_part, d_gates, d_m_gates]
    launch(_st_lstm_backward, c, arrays)
