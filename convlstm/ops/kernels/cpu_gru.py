"""The pointwise parts of the GRU on the CPU, float32 and bfloat16: one pass over memory each.

The arguments are those of `convlstm.ops.kernels.plain_gru`. An array is an address and a stride, in bytes,
from row to row; of the functions that numba compiles, `kind` tells the type of the rows, and `keep` whether
anything is saved.
"""

from typing import Any

import numpy as np
import torch
from numba import cfunc, njit
from torch import Tensor

from convlstm.ops.kernels.cpu_language import (
    COMPILE,
    SIGNATURE,
    address,
    argument,
    f32,
    launch,
    load,
    sigmoid,
    sources,
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


@cfunc(SIGNATURE, **COMPILE)
def _gru_forward_float32(data: Any) -> None:
    _gru_forward(data, np.float32(0), None)


@cfunc(SIGNATURE, **COMPILE)
def _gru_forward_float32_keep(data: Any) -> None:
    _gru_forward(data, np.float32(0), 1)


@cfunc(SIGNATURE, **COMPILE)
def _gru_forward_bfloat16(data: Any) -> None:
    _gru_forward(data, np.uint16(0), None)


@cfunc(SIGNATURE, **COMPILE)
def _gru_forward_bfloat16_keep(data: Any) -> None:
    _gru_forward(data, np.uint16(0), 1)


def gru_forward(
    of_x: Tensor, of_h: Tensor, bias_hn: Tensor, h: Tensor, saved: Tensor | None, copies: list[Tensor]
) -> None:
    """See `plain_gru.gru_forward`."""
    N, C = h.shape
    if h.dtype == torch.float32:
        kernel = _gru_forward_float32 if saved is None else _gru_forward_float32_keep
    else:
        kernel = _gru_forward_bfloat16 if saved is None else _gru_forward_bfloat16_keep
    launch(
        kernel,
        N,
        C,
        C * h.element_size(),
        bias_hn.data_ptr(),
        *address(of_x, of_h, h),
        *((0, 0) if saved is None else address(saved)),
        len(copies),
        *address(*copies),
    )


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


@cfunc(SIGNATURE, **COMPILE)
def _gru_backward_float32(data: Any) -> None:
    _gru_backward(data, np.float32(0))


@cfunc(SIGNATURE, **COMPILE)
def _gru_backward_bfloat16(data: Any) -> None:
    _gru_backward(data, np.uint16(0))


def gru_backward(
    saved: Tensor, h: Tensor, dh: list[Tensor], carried: Tensor, d_of_x: Tensor, d_of_h: Tensor
) -> None:
    """See `plain_gru.gru_backward`."""
    N, C = h.shape
    parts = sources(dh, saved, C)
    launch(
        _gru_backward_float32 if h.dtype == torch.float32 else _gru_backward_bfloat16,
        N,
        C,
        C * h.element_size(),
        *address(saved, h, carried, d_of_x, d_of_h, *parts),
    )
