"""The convolutions of the fused ops: frame size kept, stride 1, channels last, no autograd.

Letters: N frames, I and O channels in and out, S two or three spatial axes, K odd taps per axis. Frames are
(N, I, *S) in memory as (N, *S, I).
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_CONVOLUTIONS = {2: F.conv2d, 3: F.conv3d}
_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def empty_frames(*shape: int, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return an uninitialised tensor (..., C, *S) as many axes as `shape`, whose memory is (..., *S, C).

    Args:
        shape: T or not, B, C and the spatial axes, of which there are as many as in `like` (B, C, *S).
        like: gives the device, the number of spatial axes, and the type unless `dtype` is given.
        dtype: of the result.
    """
    axes = like.dim() - 2
    *lead, channels = shape[:-axes]
    memory = like.new_empty(*lead, *shape[-axes:], channels, dtype=dtype or like.dtype)
    return memory.movedim(-1, len(lead))


def channels_last(frames: Tensor) -> Tensor:
    """Return (N, C, *S) with memory (N, *S, C): itself, or a copy."""
    return frames.contiguous(memory_format=_LAST[frames.dim() - 2])


class Convolution:
    """A weight (O, I, *K) that is applied again and again."""

    def __init__(self, weight: Tensor):
        self._weight, self._packed = weight, False
        self._padding, self._one = [k // 2 for k in weight.shape[2:]], [1] * (weight.dim() - 2)
        self._run: Any = _CONVOLUTIONS[weight.dim() - 2]

    def __call__(self, frames: Tensor, bias: Tensor | None = None) -> Tensor:
        """(N, I, *S) -> (N, O, *S)."""
        padding, one = self._padding, self._one
        if _can_pack(frames.device, frames.dtype):
            if not self._packed:
                self._weight = torch.ops.mkldnn._reorder_convolution_weight(
                    self._weight, padding, one, one, 1, list(frames.shape)
                )
                self._packed = True
            return torch.ops.mkldnn._convolution_pointwise(
                frames, self._weight, bias, padding, one, one, 1, "none", [], ""
            )
        return channels_last(self._run(frames, self._weight, bias, padding=padding))


def turned(weight: Tensor) -> Tensor:
    """The weight (I, O, *K) that takes gradients of the outputs of (O, I, *K) to gradients of its inputs."""
    return weight.transpose(0, 1).flip(tuple(range(2, weight.dim()))).contiguous()


def weight_gradient(taps: torch.Size, frames: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient (O, I, *K) of a weight.

    Args:
        taps: K.
        frames: (T, B, I, *S), the inputs of its convolution.
        gradient: (T, B, O, *S), the gradients of its outputs.
    """
    axes = len(taps)
    padding, one, zero = [k // 2 for k in taps], [1] * axes, [0] * axes
    mask = (False, True, False)
    # Nobody looks at the weight but for its sizes: memory that is never touched will do.
    sizes, last = (gradient.shape[2], frames.shape[2], *taps), _LAST[axes]
    weight = torch.empty(sizes, dtype=frames.dtype, device=frames.device, memory_format=last)
    return torch.ops.aten.convolution_backward(
        gradient.flatten(0, 1), frames.flatten(0, 1), weight, None, one, padding, one, False, zero, 1, mask
    )[1]


@functools.cache
def _can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether weights can be brought into the order that oneDNN computes in once, and not at every call."""
    # What torch's own compiler calls; unlike torch's convolutions it has no other way where oneDNN has none.
    calls = ("_reorder_convolution_weight", "_convolution_pointwise", "_is_mkldnn_bf16_supported")
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not all(hasattr(torch.ops.mkldnn, call) for call in calls):
        return False
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
