"""The pointwise part of the LSTM's step on CPUs, float32 and bfloat16, compiled by numba.

The arguments are those of `convlstm.ops.kernels.plain_lstm`. In the compiled functions an array is an address
and the bytes from row to row, `kind` is a number of the gates' type, and `peepholes` is None without any.
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


def _peepholes(weight_ch: Tensor | None) -> list[int]:
    """Return the address of peepholes (1 or P, 3C), the bytes from row to row, the rows until they repeat."""
    return [*address(weight_ch), 1 if weight_ch is None else len(weight_ch)]


@njit(**COMPILE)
def _lstm_forward(data: Any, kind: Any, peepholes: Any) -> None:
    rows, step, C, gate = argument(data, 1), argument(data, 2), argument(data, 3), argument(data, 4)
    while True:
        first = take(data, step)
        if first >= rows:
            return
        for n in range(first, min(first + step, rows)):
            i_in = argument(data, 5) + n * argument(data, 6)
            c_in = argument(data, 7) + n * argument(data, 8)
            w = argument(data, 9) + n % argument(data, 11) * argument(data, 10)
            c_out = argument(data, 12) + n * argument(data, 13)
            h = argument(data, 14) + n * argument(data, 15)
            for k in range(C):
                c = load(c_in, k, f32(0), 0)
                i = load(i_in, k, kind, 1)
                f = load(i_in + gate, k, kind, 1)
                g = tanh(load(i_in + 2 * gate, k, kind, 1))
                o = load(i_in + 3 * gate, k, kind, 1)
                if peepholes is not None:  # known when this is compiled
                    i += load(w, k, f32(0), 1) * c
                    f += load(w + 4 * C, k, f32(0), 1) * c
                i = sigmoid(i)
                f = sigmoid(f)
                c = f * c + i * g
                if peepholes is not None:
                    o += load(w + 8 * C, k, f32(0), 1) * c
                o = sigmoid(o)
                store(i_in, k, i, kind, 2)
                store(i_in + gate, k, f, kind, 3)
                store(i_in + 2 * gate, k, g, kind, 4)
                store(i_in + 3 * gate, k, o, kind, 5)
                store(c_out, k, c, f32(0), 6)
                store(h, k, o * tanh(c), kind, 7)
            if argument(data, 16):
                short = argument(data, 16) + n * argument(data, 17)
                for k in range(C):
                    store(short, k, load(c_out, k, f32(0), 6), kind, 9)
            for number in range(19, 19 + 2 * argument(data, 18), 2):
                copy = argument(data, number) + n * argument(data, number + 1)
                for k in range(C):
                    store(copy, k, load(h, k, kind, 7), kind, 9)


def _compile_forward(kind: Any, peepholes: Any) -> Any:
    @cfunc(SIGNATURE, **COMPILE)
    def kernel(data: Any) -> None:
        _lstm_forward(data, kind, peepholes)

    return kernel


_FORWARD_KERNELS = {
    (dtype, flag is not None): _compile_forward(kind, flag)
    for dtype, kind in KINDS.items()
    for flag in (None, 1)
}


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
    N, C = c.shape
    kernel = _FORWARD_KERNELS[gates.dtype, weight_ch is not None]
    before, after = [*address(gates, c), *_peepholes(weight_ch)], address(c_new, h[0], short_c)
    launch(kernel, N, C, C * gates.element_size(), *before, *after, len(h) - 1, *address(*h[1:]))


@njit(**COMPILE)
def _lstm_backward(data: Any, kind: Any, peepholes: Any) -> None:
    rows, step, C, gate = argument(data, 1), argument(data, 2), argument(data, 3), argument(data, 4)
    while True:
        first = take(data, step)
        if first >= rows:
            return
        for n in range(first, min(first + step, rows)):
            i_in = argument(data, 5) + n * argument(data, 6)
            c_in = argument(data, 7) + n * argument(data, 8)
            c_new = argument(data, 9) + n * argument(data, 10)
            w = argument(data, 11) + n % argument(data, 13) * argument(data, 12)
            dc_in = argument(data, 14) + n * argument(data, 15)
            i_out = argument(data, 16) + n * argument(data, 17)
            a = argument(data, 18) + n * argument(data, 19)
            b = argument(data, 20) + n * argument(data, 21)
            e = argument(data, 22) + n * argument(data, 23)
            for k in range(C):
                i = load(i_in, k, kind, 1)
                f = load(i_in + gate, k, kind, 1)
                g = load(i_in + 2 * gate, k, kind, 1)
                o = load(i_in + 3 * gate, k, kind, 1)
                d_h = load(a, k, kind, 1) + load(b, k, kind, 1) + load(e, k, kind, 1)
                tanh_c = tanh(load(c_new, k, kind, 1))
                d_o = d_h * tanh_c * o * (f32(1) - o)
                d_c = load(dc_in, k, f32(0), 2) + d_h * o * (f32(1) - tanh_c * tanh_c)
                if peepholes is not None:
                    d_c += d_o * load(w + 8 * C, k, f32(0), 1)
                d_i = d_c * g * i * (f32(1) - i)
                d_f = d_c * load(c_in, k, kind, 1) * f * (f32(1) - f)
                store(i_out, k, d_i, kind, 3)
                store(i_out + gate, k, d_f, kind, 4)
                store(i_out + 2 * gate, k, d_c * i * (f32(1) - g * g), kind, 5)
                store(i_out + 3 * gate, k, d_o, kind, 6)
                d_c = d_c * f
                if peepholes is not None:
                    d_c += d_i * load(w, k, f32(0), 1) + d_f * load(w + 4 * C, k, f32(0), 1)
                store(dc_in, k, d_c, f32(0), 2)


def _compile_backward(kind: Any, peepholes: Any) -> Any:
    @cfunc(SIGNATURE, **COMPILE)
    def kernel(data: Any) -> None:
        _lstm_backward(data, kind, peepholes)

    return kernel


_BACKWARD_KERNELS = {
    (dtype, flag is not None): _compile_backward(kind, flag)
    for dtype, kind in KINDS.items()
    for flag in (None, 1)
}


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
    N, C = c.shape
    kernel = _BACKWARD_KERNELS[gates.dtype, weight_ch is not None]
    parts = fixed_parts(dh, 3, gates, C)  # alive until the launch has returned: the kernel takes addresses
    before = [*address(gates, c, c_new), *_peepholes(weight_ch)]
    launch(kernel, N, C, C * gates.element_size(), *before, *address(dc, d_gates, *parts))
