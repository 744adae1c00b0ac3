"""The pointwise parts of the GRU whose reset gate comes before the convolution, as in `cpu_gru`."""

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
def _gates_forward(data: Any, kind: Any) -> None:
    rows, step, C, gate = argument(data, 1), argument(data, 2), argument(data, 3), argument(data, 4)
    while True:
        first = take(data, step)
        if first >= rows:
            return
        for row in range(first, min(first + step, rows)):
            gates = argument(data, 5) + row * argument(data, 6)
            h = argument(data, 7) + row * argument(data, 8)
            saved = argument(data, 9) + row * argument(data, 10)
            reset = argument(data, 11) + row * argument(data, 12)
            for k in range(C):
                r = sigmoid(load(gates, k, kind, 1))
                z = sigmoid(load(gates + gate, k, kind, 1))
                store(saved, k, r, kind, 2)
                store(saved + gate, k, z, kind, 3)
                store(reset, k, r * load(h, k, kind, 1), kind, 4)


@cfunc(SIGNATURE, **COMPILE)
def _gates_forward_float32(data: Any) -> None:
    _gates_forward(data, np.float32(0))


@cfunc(SIGNATURE, **COMPILE)
def _gates_forward_bfloat16(data: Any) -> None:
    _gates_forward(data, np.uint16(0))


def gru_gates_forward(gates: Tensor, h: Tensor, saved: Tensor | None, reset: Tensor) -> None:
    """See `plain_gru.gru_gates_forward`."""
    kernel = _gates_forward_float32 if h.dtype == torch.float32 else _gates_forward_bfloat16
    _launch(kernel, h, *address(gates, h, gates if saved is None else saved, reset))


@njit(**COMPILE)
def _new_forward(data: Any, kind: Any) -> None:
    rows, step, C = argument(data, 1), argument(data, 2), argument(data, 3)
    while True:
        first = take(data, step)
        if first >= rows:
            return
        for row in range(first, min(first + step, rows)):
            new = argument(data, 5) + row * argument(data, 6)
            gate = argument(data, 7) + row * argument(data, 8)
            h = argument(data, 9) + row * argument(data, 10)
            saved = argument(data, 11) + row * argument(data, 12)
            for k in range(C):
                z = load(gate, k, kind, 1)
                n = tanh(load(new, k, kind, 1))
                store(saved, k, n, kind, 2)
                store(h, k, (f32(1) - z) * n + z * load(h, k, kind, 8), kind, 8)
            for place in range(14, 14 + 2 * argument(data, 13), 2):
                copy = argument(data, place) + row * argument(data, place + 1)
                for k in range(C):
                    store(copy, k, load(h, k, kind, 8), kind, 9)


@cfunc(SIGNATURE, **COMPILE)
def _new_forward_float32(data: Any) -> None:
    _new_forward(data, np.float32(0))


@cfunc(SIGNATURE, **COMPILE)
def _new_forward_bfloat16(data: Any) -> None:
    _new_forward(data, np.uint16(0))


def gru_new_forward(new: Tensor, z: Tensor, h: Tensor, saved: Tensor | None, copies: list[Tensor]) -> None:
    """See `plain_gru.gru_new_forward`."""
    kernel = _new_forward_float32 if h.dtype == torch.float32 else _new_forward_bfloat16
    places = address(new, z, h, new if saved is None else saved)
    _launch(kernel, h, *places, len(copies), *address(*copies))


@njit(**COMPILE)
def _new_backward(data: Any, kind: Any) -> None:
    rows, step, C, gate = argument(data, 1), argument(data, 2), argument(data, 3), argument(data, 4)
    while True:
        first = take(data, step)
        if first >= rows:
            return
        for row in range(first, min(first + step, rows)):
            saved = argument(data, 5) + row * argument(data, 6)
            h = argument(data, 7) + row * argument(data, 8)
            carried = argument(data, 9) + row * argument(data, 10)
            d_z = argument(data, 11) + row * argument(data, 12)
            d_n = argument(data, 13) + row * argument(data, 14)
            a = argument(data, 15) + row * argument(data, 16)
            b = argument(data, 17) + row * argument(data, 18)
            e = argument(data, 19) + row * argument(data, 20)
            for k in range(C):
                z = load(saved + gate, k, kind, 1)
                n = load(saved + 2 * gate, k, kind, 1)
                d_h = load(a, k, kind, 1) + load(b, k, kind, 1) + load(e, k, kind, 1)
                d_h += load(carried, k, f32(0), 2)
                store(d_z, k, d_h * (load(h, k, kind, 1) - n) * z * (f32(1) - z), kind, 3)
                store(d_n, k, d_h * (f32(1) - z) * (f32(1) - n * n), kind, 4)
                store(carried, k, d_h * z, f32(0), 2)


@cfunc(SIGNATURE, **COMPILE)
def _new_backward_float32(data: Any) -> None:
    _new_backward(data, np.float32(0))


@cfunc(SIGNATURE, **COMPILE)
def _new_backward_bfloat16(data: Any) -> None:
    _new_backward(data, np.uint16(0))


def gru_new_backward(
    saved: Tensor, h: Tensor, dh: list[Tensor], carried: Tensor, d_z: Tensor, d_n: Tensor
) -> None:
    """See `plain_gru.gru_new_backward`."""
    kernel = _new_backward_float32 if h.dtype == torch.float32 else _new_backward_bfloat16
    parts = sources(dh, saved, h.shape[1])
    _launch(kernel, h, *address(saved, h, carried, d_z, d_n, *parts))


@njit(**COMPILE)
def _gates_backward(data: Any, kind: Any) -> None:
    rows, step, C = argument(data, 1), argument(data, 2), argument(data, 3)
    while True:
        first = take(data, step)
        if first >= rows:
            return
        for row in range(first, min(first + step, rows)):
            saved = argument(data, 5) + row * argument(data, 6)
            before = argument(data, 7) + row * argument(data, 8)
            d_reset = argument(data, 9) + row * argument(data, 10)
            carried = argument(data, 11) + row * argument(data, 12)
            d_r = argument(data, 13) + row * argument(data, 14)
            reset = argument(data, 15) + row * argument(data, 16)
            for k in range(C):
                r = load(saved, k, kind, 1)
                h = load(before, k, kind, 1)
                d = load(d_reset, k, kind, 1)
                store(d_r, k, d * h * r * (f32(1) - r), kind, 3)
                store(reset, k, r * h, kind, 4)
                store(carried, k, load(carried, k, f32(0), 2) + d * r, f32(0), 2)


@cfunc(SIGNATURE, **COMPILE)
def _gates_backward_float32(data: Any) -> None:
    _gates_backward(data, np.float32(0))


@cfunc(SIGNATURE, **COMPILE)
def _gates_backward_bfloat16(data: Any) -> None:
    _gates_backward(data, np.uint16(0))


def gru_gates_backward(
    saved: Tensor, h: Tensor, d_reset: Tensor, carried: Tensor, d_r: Tensor, reset: Tensor
) -> None:
    """See `plain_gru.gru_gates_backward`."""
    kernel = _gates_backward_float32 if h.dtype == torch.float32 else _gates_backward_bfloat16
    _launch(kernel, h, *address(saved, h, d_reset, carried, d_r, reset))


def _launch(kernel: Any, h: Tensor, *arguments: int) -> None:
    N, C = h.shape
    launch(kernel, N, C, C * h.element_size(), *arguments)
