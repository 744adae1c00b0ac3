"""The pointwise part of the GRU's step on CPUs, float32 and bfloat16, compiled by numba.

The arguments are those of `convlstm.ops.kernels.plain_gru`. In the compiled functions an array is an address
and the bytes from row to row, `kind` is a number of the rows' type, and `keep` is None if nothing is saved.
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
def _gru_forward(data: Any, kind: Any, keep: Any) -> None:
    rows, step, C, gate = argument(data, 1), argument(data, 2), argument(data, 3), argument(data, 4)
    bias = argument(data, 5)
    while True:
        first = take(data, step)
        if first >= rows:
            return
        for row in range(first, min(first + step, rows)):
            x = argument(data, 6) + row * argument(data, 7)
            y = argument(data, 8) + row * argument(data, 9)
            h = argument(data, 10) + row * argument(data, 11)
            saved = argument(data, 12) + row * argument(data, 13)
            for k in range(C):
                r = sigmoid(load(x, k, kind, 1) + load(y, k, kind, 1))
                z = sigmoid(load(x + gate, k, kind, 1) + load(y + gate, k, kind, 1))
                m = load(y + 2 * gate, k, kind, 1) + load(bias, k, kind, 1)
                n = tanh(load(x + 2 * gate, k, kind, 1) + r * m)
                if keep is not None:  # known when this is compiled: stores under a mask would be slow
                    store(saved, k, r, kind, 2)
                    store(saved + gate, k, z, kind, 3)
                    store(saved + 2 * gate, k, n, kind, 4)
                    store(saved + 3 * gate, k, m, kind, 5)
                store(h, k, (f32(1) - z) * n + z * load(h, k, kind, 8), kind, 8)
            for place in range(15, 15 + 2 * argument(data, 14), 2):
                copy = argument(data, place) + row * argument(data, place + 1)
                for k in range(C):
                    store(copy, k, load(h, k, kind, 8), kind, 9)


def _compile_forward(kind: Any, keep: Any) -> Any:
    @cfunc(SIGNATURE, **COMPILE)
    def kernel(data: Any) -> None:
        _gru_forward(data, kind, keep)

    return kernel


_FORWARD_KERNELS = {
    (dtype, flag is not None): _compile_forward(kind, flag)
    for dtype, kind in KINDS.items()
    for flag in (None, 1)
}


def gru_forward(
    x_gates: Tensor, h_gates: Tensor, bias_hn: Tensor, h: Tensor, saved: Tensor | None, copies: list[Tensor]
) -> None:
    """See `plain_gru.gru_forward`."""
    N, C = h.shape
    kernel, places = _FORWARD_KERNELS[h.dtype, saved is not None], address(x_gates, h_gates, h, saved)
    places += [len(copies), *address(*copies)]
    launch(kernel, N, C, C * h.element_size(), bias_hn.data_ptr(), *places)


@njit(**COMPILE)
def _gru_backward(data: Any, kind: Any) -> None:
    rows, step, C, gate = argument(data, 1), argument(data, 2), argument(data, 3), argument(data, 4)
    while True:
        first = take(data, step)
        if first >= rows:
            return
        for row in range(first, min(first + step, rows)):
            saved = argument(data, 5) + row * argument(data, 6)
            h = argument(data, 7) + row * argument(data, 8)
            carried = argument(data, 9) + row * argument(data, 10)
            d_x = argument(data, 11) + row * argument(data, 12)
            d_y = argument(data, 13) + row * argument(data, 14)
            a = argument(data, 15) + row * argument(data, 16)
            b = argument(data, 17) + row * argument(data, 18)
            e = argument(data, 19) + row * argument(data, 20)
            for k in range(C):
                r = load(saved, k, kind, 1)
                z = load(saved + gate, k, kind, 1)
                n = load(saved + 2 * gate, k, kind, 1)
                m = load(saved + 3 * gate, k, kind, 1)
                d_h = load(a, k, kind, 1) + load(b, k, kind, 1) + load(e, k, kind, 1)
                d_h += load(carried, k, f32(0), 2)
                d_n = d_h * (f32(1) - z) * (f32(1) - n * n)
                d_z = d_h * (load(h, k, kind, 1) - n) * z * (f32(1) - z)
                d_r = d_n * m * r * (f32(1) - r)
                store(d_x, k, d_r, kind, 3)
                store(d_x + gate, k, d_z, kind, 4)
                store(d_x + 2 * gate, k, d_n, kind, 5)
                store(d_y, k, d_r, kind, 6)
                store(d_y + gate, k, d_z, kind, 7)
                store(d_y + 2 * gate, k, d_n * r, kind, 8)
                store(carried, k, d_h * z, f32(0), 2)


def _compile_backward(kind: Any) -> Any:
    @cfunc(SIGNATURE, **COMPILE)
    def kernel(data: Any) -> None:
        _gru_backward(data, kind)

    return kernel


_BACKWARD_KERNELS = {dtype: _compile_backward(kind) for dtype, kind in KINDS.items()}


def gru_backward(
    saved: Tensor, h: Tensor, dh: list[Tensor], carried: Tensor, d_x_gates: Tensor, d_h_gates: Tensor
) -> None:
    """See `plain_gru.gru_backward`."""
    N, C = h.shape
    parts = fixed_parts(dh, 3, saved, C)  # alive until the launch has returned: the kernel takes addresses
    places = address(saved, h, carried, d_x_gates, d_h_gates, *parts)
    launch(_BACKWARD_KERNELS[h.dtype], N, C, C * h.element_size(), *places)
