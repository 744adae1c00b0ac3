"""The pointwise part of a step: a file for each cell and each way to compute it, and which is chosen.

`plain_*` is the definition in torch's operations, for any device; `cpu_*` is compiled by numba, `cuda_*` by
Triton. Files for the same cell have the same functions. All work on rows: a tensor (N, C) with one row of
channels for each pixel of each frame of a batch.
"""

import functools
import importlib
import warnings
from types import ModuleType

import torch


@functools.cache
def _load(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except (ImportError, OSError):  # no numba, another OpenMP library in torch, no Triton, no GPU
        return None
    except RuntimeError as error:  # such as no folder where numba can keep what it compiles
        warnings.warn(f"the fused op's kernels cannot be compiled: {error}", stacklevel=2)
        return None


def compiled_kernels(cell: str, device: torch.device, dtype: torch.dtype) -> ModuleType | None:
    """Return the kernels compiled for a cell ("lstm", "gru" or "st-lstm"), a device and a type, or None."""
    name = cell.replace("-", "_")
    if device.type == "cpu" and dtype in (torch.float32, torch.bfloat16):
        return _load(f"cpu_{name}")
    if device.type == "cuda" and cell != "gru" and dtype in (torch.float32, torch.bfloat16, torch.float16):
        return _load(f"cuda_{name}")
    return None


def kernels_for(cell: str, device: torch.device, dtype: torch.dtype) -> ModuleType:
    """Return the kernels of a cell: those compiled for the device and the type, or else the plain ones."""
    plain = f"{__name__}.plain_{cell.replace('-', '_')}"
    return compiled_kernels(cell, device, dtype) or importlib.import_module(plain)
