"""Which implementation an op runs: the reference, or the fused one where its kernels are compiled."""

import os

import torch

from convlstm.ops.kernels import kernels_for

VARIABLE = "CONVLSTM_OPS"
IMPLEMENTATIONS = ("auto", "reference", "fused")


def is_fused(implementation: str | None, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the fused implementation is to run.

    Args:
        implementation: "reference", "fused", or "auto": fused where its kernels are compiled for the
            device and the type (on CPUs float32 and bfloat16, with numba on Linux), but not under the
            transforms of torch.func, which it does not know. None: what the environment variable CONVLSTM_OPS
            says, "auto" if it is not set.
        device: of the input.
        dtype: that the op computes in.

    Raises:
        ValueError: another implementation.
    """
    return _is_fused(implementation, device.type, dtype, torch._C._are_functorch_transforms_active())


# A graph that is traced takes the answer as settled, and is spared the import of the kernels.
@torch.compiler.assume_constant_result
def _is_fused(implementation: str | None, device_type: str, dtype: torch.dtype, transformed: bool) -> bool:
    name = implementation if implementation is not None else os.environ.get(VARIABLE) or "auto"
    if name not in IMPLEMENTATIONS:
        source = "implementation" if implementation is not None else f"the environment variable {VARIABLE}"
        raise ValueError(f"{source} is {name!r}; it needs one of {', '.join(IMPLEMENTATIONS)}")
    if name != "auto":
        return name == "fused"
    return (
        device_type == "cpu" and not transformed and kernels_for(torch.device(device_type), dtype) is not None
    )
