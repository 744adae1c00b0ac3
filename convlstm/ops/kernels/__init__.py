"""The pointwise parts of the fused ops: the same functions for every device, in a module each.

`plain` holds their definition and runs anywhere; `cpu` is compiled by numba, `cuda` by triton. All work on
rows: a tensor (N, C) with one row of channels for each pixel of each frame of a batch.
"""

import functools
import importlib
import math
import warnings
from types import ModuleType

import torch
from torch import Tensor


def rows(frames: Tensor) -> Tensor:
    """(B, C, *S), channels last in memory, as rows (B P, C); a view, or an error."""
    B, C, *S = frames.shape
    return frames.movedim(1, -1).view(B * math.prod(S), C)


def frames(rows: Tensor, like: Tensor) -> Tensor:
    """Rows (B P, C) as frames (B, C, *S), a view; B and S as those of `like`."""
    B, _, *S = like.shape
    return rows.view(B, *S, rows.shape[1]).movedim(-1, 1)


def rows_of_steps(frames: Tensor) -> tuple[Tensor, ...]:
    """(T, B, C, *S), channels last in memory, as the rows (B P, C) of each step; views, or an error."""
    T, B, C, *S = frames.shape
    return frames.movedim(2, -1).view(T, B * math.prod(S), C).unbind()


@functools.cache
def _load(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"convlstm.ops.kernels.{name}")
    # No numba, or no OpenMP library of torch's that it could run on; no triton, or nothing that it runs on.
    except (ImportError, OSError):
        return None
    except RuntimeError as error:  # no folder, say, in which numba may keep what it compiles
        warnings.warn(f"the fused ops' kernels cannot be compiled: {error}", stacklevel=2)
        return None


def kernels_for(device: torch.device, dtype: torch.dtype) -> ModuleType | None:
    """Return the module that is compiled for a device and a type, or None if there is none."""
    if device.type == "cpu" and dtype in (torch.float32, torch.bfloat16):
        return _load("cpu")
    if device.type == "cuda" and dtype in (torch.float32, torch.bfloat16, torch.float16):
        return _load("cuda")
    return None
