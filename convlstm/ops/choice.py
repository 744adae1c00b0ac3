"""Which implementation an op runs: the reference, or the fused one where its kernels are compiled."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from convlstm.ops.kernels import kernels_for

VARIABLE = "CONVLSTM_OPS"
IMPLEMENTATIONS = ("auto", "reference", "fused")
_reference_only: ContextVar[bool] = ContextVar("reference_only", default=False)


@contextmanager
def reference_only() -> Iterator[None]:
    """Within, ops that are not told otherwise run the reference, whatever the environment says.

    For graphs that leave this library: the reference is made of torch's own operators alone.
    """
    token = _reference_only.set(True)
    try:
        yield
    finally:
        _reference_only.reset(token)


def is_fused(implementation: str | None, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the fused implementation is to run.

    Args:
        implementation: "reference", "fused", or "auto": fused where its kernels are compiled for the
            device and the type (on CPUs float32 and bfloat16, with numba on Linux), but not under the
            transforms of torch.func, which it does not know. None: the reference within `reference_only`,
            else what the environment variable CONVLSTM_OPS says, "auto" if it is not set.
        device: of the input.
        dtype: that the op computes in.

    Raises:
        ValueError: another implementation.
    """
    return _is_fused(implementation, device.type, dtype, torch._C._are_functorch_transforms_active())


# A graph that is traced takes the answer as settled, and is spared the import of the kernels.
@torch.compiler.assume_constant_result
def _is_fused(implementation: str | None, device_type: str, dtype: torch.dtype, transformed: bool) -> bool:
    around = "reference" if _reference_only.get() else os.environ.get(VARIABLE) or "auto"
    name = implementation if implementation is not None else around
    if name not in IMPLEMENTATIONS:
        source = "implementation" if implementation is not None else f"the environment variable {VARIABLE}"
        raise ValueError(f"{source} is {name!r}; it needs one of {', '.join(IMPLEMENTATIONS)}")
    if name != "auto":
        return name == "fused"
    return (
        device_type == "cpu" and not transformed and kernels_for(torch.device(device_type), dtype) is not None
    )
