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
            device and the type (on CPUs float32 and bfloat16, if numba is installed; on CUDA these and
            float16, if triton and a C compiler are). None: what the environment variable CONVLSTM_OPS says,
            "auto" if it is not set.
        device: of the input.
        dtype: that the op computes in.

    Raises:
        ValueError: another implementation.
    """
    name = implementation if implementation is not None else os.environ.get(VARIABLE) or "auto"
    if name not in IMPLEMENTATIONS:
        source = "implementation" if implementation is not None else f"the environment variable {VARIABLE}"
        raise ValueError(f"{source} is {name!r}; it needs one of {', '.join(IMPLEMENTATIONS)}")
    return name == "fused" or (
        name == "auto" and device.type == "cpu" and kernels_for(device, dtype) is not None
    )
