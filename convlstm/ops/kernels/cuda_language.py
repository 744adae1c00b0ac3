"""What the CUDA kernels share: the elements that a program works on, loads, functions and the launch.

A program works on BLOCK elements of (N, C), read row after row, whatever C is. Offsets of rows have 64 bits.
Triton compiles a kernel for each C and each set of missing arrays (None), in a tenth of a second.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Fixed: autotuning would time kernels at their first call, which may be the capture of a CUDA graph.
_BLOCK = 512
_WARPS = 4

if torch.cuda.is_available():
    try:  # before its first launch, Triton builds a library in C
        triton.runtime.driver.active.get_current_target()
    except Exception as error:  # no compiler, headers or driver: errors of many classes
        raise ImportError("triton cannot launch kernels on this machine") from error


@triton.jit
def sigmoid(x):
    """Return 1 / (1 + e^-x)."""
    return 1 / (1 + tl.exp(-x))


@triton.jit
def tanh(x):
    """Return 2 / (1 + e^-2x) - 1; near zero, where that loses digits, a polynomial, as Cephes' tanhf."""
    z = x * x
    p = -5.70498872745e-3 * z + 2.06390887954e-2
    p = p * z - 5.37397155531e-2
    p = p * z + 1.33314422036e-1
    p = p * z - 3.33332819422e-1
    return tl.where(tl.abs(x) < 0.625, p * z * x + x, 2 * sigmoid(2 * x) - 1)


@triton.jit
def elements(N, C: tl.constexpr, BLOCK: tl.constexpr):
    """Return row and channel of each element of a program, and whether it exists."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    k = (first % C).to(tl.int32) + tl.arange(0, BLOCK)  # counted from the beginning of the first row
    n = first // C + k // C
    return n, k % C, n < N


@triton.jit
def load(places, there):
    """Load elements as float32."""
    return tl.load(places, mask=there).to(tl.float32)


def launch(kernel: Any, c: Tensor, arrays: list[Tensor | None], **constants: int) -> None:
    """Run a kernel over rows.

    Args:
        kernel: a Triton function of the arrays, each followed by its elements from row to row, then N, C,
            BLOCK and the constants.
        c: (N, C), which gives the sizes and the device.
        arrays: N rows each, of channels that lie side by side; None for a missing array.
        constants: numbers that the kernel is compiled for.
    """
    N, C = c.shape
    pairs = [part for array in arrays for part in (array, 0 if array is None else array.stride(0))]
    with torch.cuda.device_of(c):  # triton launches on the current device
        # Triton 3.9 warns if it is left open whether a product and a sum may be fused.
        kernel[(triton.cdiv(N * C, _BLOCK),)](
            *pairs, N, C, _BLOCK, **constants, num_warps=_WARPS, enable_fp_fusion=True
        )
