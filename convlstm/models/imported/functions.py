"""Activations by name, and convolutions padded as Keras pads them: what foreign models are made of."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def hard_sigmoid_keras2(x: Tensor) -> Tensor:
    """clip(0.2 x + 0.5, 0, 1), which Keras 2 calls hard_sigmoid; Keras 3 and torch divide by 6 instead."""
    return (0.2 * x + 0.5).clamp(0, 1)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "tanh": torch.tanh,
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": partial(F.leaky_relu, negative_slope=0.2),  # as in Keras 3 and the nowcasting codes
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "silu": F.silu,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": F.hardsigmoid,
    "hard_sigmoid_keras2": hard_sigmoid_keras2,
}


def pad_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """Pad the last axes with zeros so that a convolution gives ceil(size / stride); the odd one at the end.

    Source: TensorFlow's "SAME".
    """
    padding: list[int] = []
    # F.pad wants the last axis first.
    for size, k, s, d in reversed(list(zip(x.shape[-len(kernel) :], kernel, stride, dilation, strict=True))):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding) if any(padding) else x
