"""The convolutions of the fused ops: frame size kept, stride 1, channels last, no autograd.

Letters: N frames, I and O channels in and out, S two or three spatial axes, K odd taps per axis. Frames are
(N, I, *S) in memory as (N, *S, I).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_CONVOLUTIONS = {2: F.conv2d, 3: F.conv3d}


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
    last = torch.channels_last if frames.dim() == 4 else torch.channels_last_3d
    return frames.contiguous(memory_format=last)


class Convolution:
    """A weight (O, I, *K) that is applied again and again."""

    def __init__(self, weight: Tensor):
        self.weight = weight
        self._padding = [k // 2 for k in weight.shape[2:]]
        self._run: Any = _CONVOLUTIONS[weight.dim() - 2]

        self._packed: Tensor | None = None

    def __call__(self, frames: Tensor, bias: Tensor | None = None) -> Tensor:
        """(N, I, *S) -> (N, O, *S)."""
        if _can_pack(frames):
            if self._packed is None:
                self._packed = _pack(self.weight, self._padding, frames)
            one = [1] * len(self._padding)
            return torch.ops.mkldnn._convolution_pointwise(
                frames, self._packed, bias, self._padding, one, one, 1, "none", [], ""
            )
        return channels_last(self._run(frames, self.weight, bias, padding=self._padding))

    def transposed(self) -> "Convolution":
        """Return what takes gradients of the outputs to gradients of the inputs."""
        axes = tuple(range(2, self.weight.dim()))
        return Convolution(self.weight.transpose(0, 1).flip(axes).contiguous())

    def weight_gradient(self, frames: Tensor, gradient: Tensor) -> Tensor:
        """The weight's gradient from the inputs (N, I, *S) and the gradients of the outputs (N, O, *S)."""
        axes = self.weight.dim() - 2
        one, zero = [1] * axes, [0] * axes
        mask = (False, True, False)
        return torch.ops.aten.convolution_backward(
            gradient, frames, self.weight, None, one, self._padding, one, False, zero, 1, mask
        )[1]


def _can_pack(frames: Tensor) -> bool:
    """Whether weights can be brought into the order that oneDNN computes in once, and not at every call."""
    types = (torch.float32, torch.bfloat16)
    there = hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")  # what torch's own compiler calls
    return (
        there
        and frames.device.type == "cpu"
        and frames.dtype in types
        and torch.backends.mkldnn.is_available()
    )


def _pack(weight: Tensor, padding: list[int], frames: Tensor) -> Tensor:
    one = [1] * len(padding)
    return torch.ops.mkldnn._reorder_convolution_weight(weight, padding, one, one, 1, list(frames.shape))
