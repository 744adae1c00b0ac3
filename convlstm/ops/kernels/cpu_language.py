"""What the CPU kernels share: loads, stores and functions that LLVM vectorizes, and the launch.

numba compiles the kernels in the user's process, which needs no C compiler. They run on torch's own OpenMP
threads: a second pool of threads would compete with torch's for the cores.
"""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import extending, njit, types
from torch import Tensor

# Division by zero gives inf, as in torch, instead of a branch that raises; NaNs stay NaNs.
COMPILE: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract", "nsz", "arcp"}, "cache": True}

SIGNATURE = types.void(types.voidptr)
"""Every kernel takes one pointer, to its arguments."""

f32 = np.float32

KINDS = {torch.float32: np.float32(0), torch.bfloat16: np.uint16(0)}
"""A number of the type that `load` and `store` take for each type of a tensor."""

intrinsic: Any = extending.intrinsic  # the first argument of what it makes is not given in calls

_MEMORY = {types.float32: ir.FloatType(), types.uint16: ir.IntType(16)}


def _access(context: Any, builder: Any, address: Any, index: Any, kind: Any) -> Any:
    pointer = builder.inttoptr(address, _MEMORY[kind].as_pointer())
    return builder.gep(pointer, [index])


def _no_alias(builder: Any, instruction: Any, scope: int) -> None:
    """Tell LLVM that arrays of different scopes share no memory, which saves checks at run time."""
    module = builder.module
    domain = module.add_metadata(["convlstm kernels"])
    scopes = [module.add_metadata([f"array {number}", domain]) for number in range(16)]
    instruction.set_metadata("alias.scope", module.add_metadata([scopes[scope]]))
    others = [other for number, other in enumerate(scopes) if number != scope]
    instruction.set_metadata("noalias", module.add_metadata(others))


@intrinsic(prefer_literal=True)
def load(typing: Any, address: Any, index: Any, kind: Any, scope: Any) -> Any:
    """Load element `index` of an array as float32; `kind` is a float32, or a uint16 for bfloat16."""
    if not isinstance(scope, types.IntegerLiteral):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = builder.load(_access(context, builder, arguments[0], arguments[1], kind))
        _no_alias(builder, value, scope.literal_value)
        if kind == types.uint16:
            wide = builder.shl(builder.zext(value, ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
            return builder.bitcast(wide, ir.FloatType())
        return value

    return types.float32(types.int64, types.int64, kind, scope), generate


@intrinsic(prefer_literal=True)
def store(typing: Any, address: Any, index: Any, value: Any, kind: Any, scope: Any) -> Any:
    """Store a float32 as element `index`, rounded to nearest even for bfloat16."""
    if not isinstance(scope, types.IntegerLiteral):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, index, value = arguments[:3]
        if kind == types.uint16:
            i32 = ir.IntType(32)
            bits = builder.bitcast(value, i32)
            odd = builder.and_(builder.lshr(bits, ir.Constant(i32, 16)), ir.Constant(i32, 1))
            rounded = builder.add(bits, builder.add(odd, ir.Constant(i32, 0x7FFF)))
            # A NaN whose bits overflowed would become a number.
            number = builder.fcmp_ordered("ord", value, value)
            rounded = builder.select(number, rounded, ir.Constant(i32, 0x7FC00000))
            value = builder.trunc(builder.lshr(rounded, ir.Constant(i32, 16)), ir.IntType(16))
        instruction = builder.store(value, _access(context, builder, address, index, kind))
        _no_alias(builder, instruction, scope.literal_value)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32, kind, scope), generate


@intrinsic
def argument(typing: Any, data: Any, number: Any) -> Any:
    """Return argument `number` of a kernel, an int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.bitcast(arguments[0], ir.IntType(64).as_pointer())
        return builder.load(builder.gep(pointer, [arguments[1]]))

    return types.int64(types.voidptr, types.int64), generate


@intrinsic
def pointer(typing: Any, address: Any) -> Any:
    """Convert an address to a pointer, which numba.carray makes an array of."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), generate


@intrinsic
def take(typing: Any, data: Any, count: Any) -> Any:
    """Add `count` to argument 0 atomically and return its old value: threads share the rows so."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.bitcast(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", pointer, arguments[1], "monotonic")

    return types.int64(types.voidptr, types.int64), generate


@intrinsic
def _power_of_two(typing: Any, exponent: Any) -> Any:
    """Return 2 to a whole exponent of -126 to 127, built from its bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        i32 = ir.IntType(32)
        biased = builder.add(arguments[0], ir.Constant(i32, 127))
        return builder.bitcast(builder.shl(biased, ir.Constant(i32, 23)), ir.FloatType())

    return types.float32(types.int32), generate


@njit(**COMPILE)
def _exp(x: Any) -> Any:
    """Return e^x to 2 units in the last place: 2^n times a polynomial, as Cephes' expf."""
    x = min(max(x, f32(-87.0)), f32(88.0))
    n = np.floor(x * f32(1.44269504) + f32(0.5))
    r = x - n * f32(0.693359375) + n * f32(2.12194440e-4)
    p = f32(1.9875691500e-4) * r + f32(1.3981999507e-3)
    p = p * r + f32(8.3334519073e-3)
    p = p * r + f32(4.1665795894e-2)
    p = p * r + f32(1.6666665459e-1)
    p = p * r + f32(5.0000001201e-1)
    return (p * r * r + r + f32(1)) * _power_of_two(np.int32(n))


@njit(**COMPILE)
def sigmoid(x: Any) -> Any:
    """Return 1 / (1 + e^-x)."""
    return f32(1) / (f32(1) + _exp(-x))


@njit(**COMPILE)
def tanh(x: Any) -> Any:
    """Return 2 / (1 + e^-2x) - 1; near zero, where that loses digits, a polynomial, as Cephes' tanhf."""
    z = x * x
    p = f32(-5.70498872745e-3) * z + f32(2.06390887954e-2)
    p = p * z - f32(5.37397155531e-2)
    p = p * z + f32(1.33314422036e-1)
    p = p * z - f32(3.33332819422e-1)
    near, far = p * z * x + x, f32(2) / (f32(1) + _exp(f32(-2) * x)) - f32(1)
    return near if abs(x) < f32(0.625) else far


def _gomp_parallel() -> Any:
    """Return the function of torch's own OpenMP library that runs a function on all its threads."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    try:
        parallel = library.GOMP_parallel  # found in the libraries that libtorch_cpu was linked with
    except AttributeError as error:
        raise ImportError("torch was built with another OpenMP library") from error
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    return parallel


def address(*arrays: Tensor | None) -> list[int]:
    """Return of each array (N, C) its address and the bytes from row to row; zeros for None."""
    pairs = [(0, 0) if a is None else (a.data_ptr(), a.stride(0) * a.element_size()) for a in arrays]
    return [number for pair in pairs for number in pair]


def fixed_parts(parts: list[Tensor], count: int, like: Tensor, channels: int) -> list[Tensor]:
    """Return `count` arrays (N, C) with the same sum as the parts, whatever their number."""
    while len(parts) > count:
        parts = [parts[0] + parts[1], *parts[2:]]
    zeros = like.new_zeros(1, channels).expand(len(like), -1)
    return [*parts, *[zeros] * (count - len(parts))]


_PARALLEL = _gomp_parallel()
_ELEMENTS = 16384  # taken by a thread at a time


def launch(kernel: Any, rows: int, channels: int, *arguments: int) -> None:
    """Run a kernel over rows on torch's threads.

    Args:
        kernel: a numba cfunc of one pointer to int64 numbers: the rows taken so far, all rows, the rows to
            take at a time, the channels, then the arguments.
        rows: number of rows.
        channels: of a row.
        arguments: addresses and sizes.
    """
    step = max(1, _ELEMENTS // channels)
    data = (ctypes.c_int64 * (4 + len(arguments)))(0, rows, step, channels, *arguments)
    threads = max(1, min(torch.get_num_threads(), -(-rows // step)))
    _PARALLEL(kernel.address, ctypes.addressof(data), threads, 0)
