"""The pointwise parts of the spatiotemporal LSTM's step on CPUs, float32 and bfloat16, compiled by numba.

The arguments are those of `convlstm.ops.kernels.plain_st_lstm`. In the compiled functions an array is an
address and the bytes from row to row, and `kind` is a number of the gates' type.
"""

from typing import Any

from numba import cfunc, njit
from torch import Tensor

from convlstm.ops.kernels.cpu_language import (
    COMPILE,
    KINDS,
    SIGNATURE,
    address,
    argument,
    f32,
    fixed_parts,
    launch,
    load,
    sigmoid,
    store,
    take,
    tanh,
)


@njit(**COMPILE)
def _st_lstm_forward(data: Any, kind: Any) -> None:
    rows, step, C, gate = argument(data, 1), argument(data, 2), argument(data, 3), argument(data, 4)
    while True:
        first = take(data, step)
        if first >= rows:
            return
        for n in range(first, min(first + step, rows)):
            short = argument(data, 13) + n * argument(data, 14)
            for memory in range(0, 4, 2):  # for the cell state, then for the memory
                i_in = argument(data, memory + 5) + n * argument(data, memory + 6)
                state = argument(data, memory + 9) + n * argument(data, memory + 10)
                for k in range(C):
                    i = sigmoid(load(i_in, k, kind, 1))
                    f = sigmoid(load(i_in + gate, k, kind, 1))
                    g = tanh(load(i_in + 2 * gate, k, kind, 1))
                    new = f * load(state, k, f32(0), 5) + i * g
                    store(i_in, k, i, kind, 2)
                    store(i_in + gate, k, f, kind, 3)
                    store(i_in + 2 * gate, k, g, kind, 4)
                    store(state, k, new, f32(0), 5)
                    store(short, k, new, kind, 6)
                short += gate
            for number in range(16, 16 + 2 * argument(data, 15), 2):
                copy = argument(data, number) + n * argument(data, number + 1)
                for k in range(C):
                    store(copy, k, load(short - gate, k, kind, 6), kind, 7)


@njit(**COMPILE)
def _st_lstm_output(data: Any, kind: Any) -> None:
    rows, step, C, gate = argument(data, 1), argument(data, 2), argument(data, 3), argument(data, 4)
    while True:
        first = take(data, step)
        if first >= rows:
            return
        for n in range(first, min(first + step, rows)):
            o_in = argument(data, 5) + n * argument(data, 6) + 3 * gate
            o_part = argument(data, 7) + n * argument(data, 8)
            l_in = argument(data, 9) + n * argument(data, 10)
            h = argument(data, 11) + n * argument(data, 12)
            for k in range(C):
                o = sigmoid(load(o_in, k, kind, 1) + load(o_part, k, kind, 1))
                l = tanh(load(l_in, k, kind, 2))
                store(o_in, k, o, kind, 3)
                store(l_in, k, l, kind, 4)
                store(h, k, o * l, kind, 5)
            for number in range(14, 14 + 2 * argument(data, 13), 2):
                copy = argument(data, number) + n * argument(data, number + 1)
                for k in range(C):
                    store(copy, k, load(h, k, kind, 5), kind, 6)


@njit(**COMPILE)
def _st_lstm_output_backward(data: Any, kind: Any) -> None:
    rows, step, C, gate = argument(data, 1), argument(data, 2), argument(data, 3), argument(data, 4)
    while True:
        first = take(data, step)
        if first >= rows:
            return
        for n in range(first, min(first + step, rows)):
            o_in = argument(data, 5) + n * argument(data, 6) + 3 * gate
            l_in = argument(data, 7) + n * argument(data, 8)
            o_out = argument(data, 9) + n * argument(data, 10) + 3 * gate
            d_o_out = argument(data, 11) + n * argument(data, 12)
            l_out = argument(data, 13) + n * argument(data, 14)
            a = argument(data, 15) + n * argument(data, 16)
            b = argument(data, 17) + n * argument(data, 18)
            d = argument(data, 19) + n * argument(data, 20)
            e = argument(data, 21) + n * argument(data, 22)
            for k in range(C):
                o = load(o_in, k, kind, 1)
                l = load(l_in, k, kind, 1)
                d_h = load(a, k, kind, 1) + load(b, k, kind, 1)
                d_h += load(d, k, kind, 1) + load(e, k, kind, 1)
                d_o = d_h * l * o * (f32(1) - o)
                store(o_out, k, d_o, kind, 2)
                store(d_o_out, k, d_o, kind, 3)
                store(l_out, k, d_h * o * (f32(1) - l * l), kind, 4)


@njit(**COMPILE)
def _st_lstm_backward(data: Any, kind: Any) -> None:
    rows, step, C, gate = argument(data, 1), argument(data, 2), argument(data, 3), argument(data, 4)
    while True:
        first = take(data, step)
        if first >= rows:
            return
        for n in range(first, min(first + step, rows)):
            a = argument(data, 21) + n * argument(data, 22)
            for memory in range(0, 4, 2):  # for the cell state, then for the memory
                i_in = argument(data, memory + 5) + n * argument(data, memory + 6)
                before = argument(data, memory + 9) + n * argument(data, memory + 10)
                b = argument(data, memory + 13) + n * argument(data, memory + 14)
                carried = argument(data, memory + 17) + n * argument(data, memory + 18)
                i_out = argument(data, memory + 23) + n * argument(data, memory + 24)
                for k in range(C):
                    i = load(i_in, k, kind, 1)
                    f = load(i_in + gate, k, kind, 1)
                    g = load(i_in + 2 * gate, k, kind, 1)
                    d = load(carried, k, f32(0), 2) + load(a, k, kind, 1) + load(b, k, kind, 1)
                    store(i_out, k, d * g * i * (f32(1) - i), kind, 3)
                    store(i_out + gate, k, d * load(before, k, kind, 1) * f * (f32(1) - f), kind, 4)
                    store(i_out + 2 * gate, k, d * i * (f32(1) - g * g), kind, 5)
                    store(carried, k, d * f, f32(0), 2)
                a += gate


def _compile(function: Any, kind: Any) -> Any:
    @cfunc(SIGNATURE, **COMPILE)
    def kernel(data: Any) -> None:
        function(data, kind)

    return kernel


_FORWARD_KERNELS, _OUTPUT_KERNELS, _OUTPUT_BACKWARD_KERNELS, _BACKWARD_KERNELS = (
    {dtype: _compile(function, kind) for dtype, kind in KINDS.items()}
    for function in (_st_lstm_forward, _st_lstm_output, _st_lstm_output_backward, _st_lstm_backward)
)


def st_lstm_forward(
    gates: Tensor, m_gates: Tensor, c: Tensor, m: Tensor, keep: bool, cm: Tensor, copies: list[Tensor]
) -> None:
    """See `plain_st_lstm.st_lstm_forward`."""
    N, C = c.shape
    places = [*address(gates, m_gates, c, m, cm), len(copies), *address(*copies)]
    launch(_FORWARD_KERNELS[gates.dtype], N, C, C * gates.element_size(), *places)


def st_lstm_output(gates: Tensor, o_part: Tensor, l: Tensor, keep: bool, h: list[Tensor]) -> None:
    """See `plain_st_lstm.st_lstm_output`."""
    N, C = l.shape
    places = [*address(gates, o_part, l, h[0]), len(h) - 1, *address(*h[1:])]
    launch(_OUTPUT_KERNELS[gates.dtype], N, C, C * gates.element_size(), *places)


def st_lstm_output_backward(
    gates: Tensor, l: Tensor, dh: list[Tensor], d_gates: Tensor, d_o: Tensor, d_l: Tensor
) -> None:
    """See `plain_st_lstm.st_lstm_output_backward`."""
    N, C = l.shape
    parts = fixed_parts(dh, 4, gates, C)  # alive until the launch has returned: the kernel takes addresses
    places = address(gates, l, d_gates, d_o, d_l, *parts)
    launch(_OUTPUT_BACKWARD_KERNELS[gates.dtype], N, C, C * gates.element_size(), *places)


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
    N, C = c.shape
    zeros = gates.new_zeros(1, C).expand(N, -1)  # alive until the launch has returned
    parts = zeros, zeros if dm_part is None else dm_part
    places = address(gates, m_gates, c, m, *parts, dc, dm, d_cm, d_gates, d_m_gates)
    launch(_BACKWARD_KERNELS[gates.dtype], N, C, C * gates.element_size(), *places)
