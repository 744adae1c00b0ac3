"""Structural similarity on the CPU, float64: one pass over a frame; its window sums stay in the cache."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numba import cfunc, njit
from numba.np.numpy_support import carray
from torch import Tensor

from convlstm.ops.kernels.cpu_language import COMPILE, SIGNATURE, argument, launch, pointer, take

# Sums may be taken in any order, so that LLVM can vectorize them.
_COMPILE = COMPILE | {"fastmath": COMPILE["fastmath"] | {"reassoc"}}


@njit(**_COMPILE)
def _of_window(columns: Any, j: Any) -> Any:
    """Return the sum of 7 columns, written out: LLVM would not vectorize a loop."""
    return (
        columns[j]
        + columns[j + 1]
        + columns[j + 2]
        + columns[j + 3]
        + columns[j + 4]
        + columns[j + 5]
        + columns[j + 6]
    )


@njit(**_COMPILE)
def _similarity(x: Any, y: Any, constants: Any, columns: Any, result: Any) -> None:
    """Write the similarity of planes x and y (H, W) for each row (c1, c2) of the constants."""
    H, W = x.shape
    columns[:] = 0
    result[:] = 0
    sum_x, sum_y, squares, products = columns[0], columns[1], columns[2], columns[3]  # of 7 rows
    for i in range(H):
        for j in range(W):
            a, b = x[i, j], y[i, j]
            sum_x[j] += a
            sum_y[j] += b
            squares[j] += a * a + b * b
            products[j] += a * b
        if i < 6:
            continue
        for r in range(len(constants)):
            c1, c2 = constants[r, 0], constants[r, 1]
            total = 0.0
            for j in range(W - 6):
                mx, my = _of_window(sum_x, j), _of_window(sum_y, j)
                p, q = mx * my, mx * mx + my * my
                covariance = _of_window(products, j) - p / 49
                variances = _of_window(squares, j) - q / 49
                total += (2 * p + c1) * (2 * covariance + c2) / ((q + c1) * (variances + c2))
            result[r] += total / ((H - 6) * (W - 6))
        for j in range(W):
            a, b = x[i - 6, j], y[i - 6, j]
            sum_x[j] -= a
            sum_y[j] -= b
            squares[j] -= a * a + b * b
            products[j] -= a * b


@cfunc(SIGNATURE, **_COMPILE)
def _similarities(data: Any) -> None:
    planes, step, H, W = argument(data, 1), argument(data, 2), argument(data, 4), argument(data, 5)
    R, size = argument(data, 6), H * W * 8  # bytes of a plane
    constants = carray(pointer(argument(data, 7)), (R, 2), np.float64)
    columns = np.empty((4, W))
    while True:
        first = take(data, step)
        if first >= planes:
            return
        for n in range(first, min(first + step, planes)):
            x = carray(pointer(argument(data, 8) + n * size), (H, W), np.float64)
            y = carray(pointer(argument(data, 9) + n * size), (H, W), np.float64)
            result = carray(pointer(argument(data, 10) + n * R * 8), (R,), np.float64)
            _similarity(x, y, constants, columns, result)


def similarities(prediction: Tensor, target: Tensor, data_ranges: Sequence[float]) -> list[Tensor]:
    """Return (B, T) for each data range, as `evaluation.metrics.ssim` does for clipped frames.

    Args:
        prediction: float64 (B, T, C, H, W) on the CPU, H and W 7 or more.
        target: as the prediction.
        data_ranges: R numbers.
    """
    prediction, target = prediction.contiguous(), target.contiguous()
    B, T, C, H, W = prediction.shape
    # Sums are compared, not means, and 48 times the variances: the constants are as many times as large.
    constants = torch.tensor(
        [[(0.49 * r) ** 2, 48 * (0.03 * r) ** 2] for r in data_ranges], dtype=torch.float64
    )
    result = prediction.new_empty(B, T, C, len(constants))
    addresses = [x.data_ptr() for x in (constants, prediction, target, result)]
    launch(_similarities, B * T * C, H * W, H, W, len(constants), *addresses)
    return list(result.mean(dim=2).unbind(dim=-1))
