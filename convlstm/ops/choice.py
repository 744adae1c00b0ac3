"""Which implementation an op runs: the reference, or the fused op where its kernels are compiled.

What has no fused form runs as the reference in any case: `rnn` and `gru` with reset_after=False
(`ops/__init__.py`), and the foreign cells of imported networks (`models/imported/cells.py`). Networks that
have more between their cells than the fused op knows run one cell after the other, each on the op:
`nn/base.py` (`_is_one_op`) and `models/stacked.py` (`_runs_as_one_op`) decide.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from convlstm.ops.kernels import compiled_kernels

VARIABLE = "CONVLSTM_OPS"
IMPLEMENTATIONS = ("auto", "reference", "fused")
_chosen: ContextVar[str | None] = ContextVar("implementation", default=None)


@contextmanager
def use_implementation(name: str) -> Iterator[None]:
    """Choose the implementation of all ops called inside, whatever the environment variable says.

    Args:
        name: "reference" (torch's own operators, as exported graphs need), "fused" or "auto" (`is_fused`).
    """
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def is_fused(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether the fused op runs.

    `use_implementation` decides, or else the environment variable CONVLSTM_OPS, or else "auto": the fused op
    where its kernels are compiled (on CPUs with numba on Linux, float32 and bfloat16), but not under the
    transforms of torch.func, which it does not support.

    Args:
        device: of the input.
        dtype: that the op computes in.

    Raises:
        ValueError: an unknown implementation.
    """
    return _is_fused(device.type, dtype, torch._C._are_functorch_transforms_active())


def _is_fused(device_type: str, dtype: torch.dtype, transformed: bool) -> bool:
    chosen = _chosen.get()
    name = chosen or os.environ.get(VARIABLE) or "auto"
    if name not in IMPLEMENTATIONS:
        source = "the implementation" if chosen else f"the environment variable {VARIABLE}"
        raise ValueError(f"{source} is {name!r}; it needs one of {', '.join(IMPLEMENTATIONS)}")
    if name != "auto":
        return name == "fused"
    if device_type != "cpu" or transformed:
        return False
    # All kinds of cells have kernels for the same devices and types.
    return compiled_kernels("lstm", torch.device(device_type), dtype) is not None


# torch.compile takes the answer as a constant, and so does not trace the import of the kernels. This is all
# that torch.compiler.assume_constant_result does, which would import the whole compiler with this library.
_is_fused._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
