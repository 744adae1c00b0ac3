"""The convolutions of the fused op: frame size kept, stride 1, channels last, no autograd.

Letters: N frames, I and O channels in and out, S two or three spatial axes, K odd taps per axis.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convlstm.ops.layout import CHANNELS_LAST, channels_last, rows

_CONVOLUTIONS = {2: F.conv2d, 3: F.conv3d}


class Convolution:
    """A convolution with one weight (O, I, *K), applied at every step."""

    def __init__(self, weight: Tensor):
        self._weight, self._packed = weight, False
        self._padding, self._one = [k // 2 for k in weight.shape[2:]], [1] * (weight.dim() - 2)
        self._run: Any = _CONVOLUTIONS[weight.dim() - 2]

    def __call__(self, frames: Tensor, bias: Tensor | None = None) -> Tensor:
        """Convolve (N, I, *S) to (N, O, *S)."""
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


def transposed(weight: Tensor) -> Tensor:
    """Return the weight (I, O, *K) that convolves gradients of outputs to gradients of inputs."""
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
    # Only the sizes of the weight are used: memory that is never touched will do.
    sizes, layout = (gradient.shape[2], frames.shape[2], *taps), CHANNELS_LAST[axes]
    weight = torch.empty(sizes, dtype=frames.dtype, device=frames.device, memory_format=layout)
    return torch.ops.aten.convolution_backward(
        gradient.flatten(0, 1), frames.flatten(0, 1), weight, None, one, padding, one, False, zero, 1, mask
    )[1]


def bias_gradient(gradient: Tensor) -> Tensor:
    """Return the gradient (C,) of a bias from that of its outputs (T, B, C, *S), channels last in memory."""
    return rows(gradient.flatten(0, 1)).sum(0)


@functools.cache
def _can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether oneDNN can reorder a weight once for all calls."""
    # Of torch's compiler. Unlike torch's convolutions they do not fall back where oneDNN has no kernel.
    calls = ("_reorder_convolution_weight", "_convolution_pointwise", "_is_mkldnn_bf16_supported")
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not all(hasattr(torch.ops.mkldnn, call) for call in calls):
        return False
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
