"""The head of a forecasting stack, forward and back, for `convlstm.ops.passes`.

What it gives is before the sigmoid, if there is one; see `probabilities`.

Letters: B batch, I channels of the prediction, C_n channels of layer n, S the spatial axes, P pixels.
"""

import torch
from torch import Tensor

from convlstm.ops.convolution import empty_frames
from convlstm.ops.kernels import rows
from convlstm.ops.lstm_tape import wide_type


def probabilities(logits: Tensor) -> Tensor:
    """Return the sigmoid of what a head gives, in float32, or in float64 of float64.

    In bfloat16 all probabilities above 0.998, of logits above 6.2, are 1: how far they are from it is lost,
    and with it the gradient of one that is wrong, p (1 - p). The logit in bfloat16 keeps both. In float32
    this happens beyond a logit of 16, to which no gradient leads but past those where it is at its largest.
    """
    return torch.sigmoid(logits.to(wide_type(logits)))


class Head:
    """The 1x1 convolution of all layers' states, as products of rows; and its gradients.

    Args:
        weight: (I, C_1 + ... + C_L).
        bias: (I,).
        widths: C_1 to C_L, channels of the layers.
        sigmoid: whether a sigmoid follows, for what the stack reads of its own predictions.
    """

    def __init__(self, weight: Tensor, bias: Tensor, widths: list[int], sigmoid: bool):
        self._weight, self._bias, self._widths, self._sigmoid = weight, bias, widths, sigmoid

    def places(self, like: Tensor) -> tuple[Tensor, ...]:
        """Return rows (B P, C) for each layer, where `predict` reads its state."""
        B, _, *S = like.shape
        self._states = rows(empty_frames(B, sum(self._widths), *S, like=like))
        return self._states.split(self._widths, dim=1)

    def predict(self, y: Tensor) -> None:
        """Write what the states in `places` give (B, I, *S), before the sigmoid."""
        torch.addmm(self._bias, self._states, self._weight.t(), out=rows(y))

    def to_read(self, y: Tensor) -> Tensor:
        """Return the prediction that the stack reads, of what `predict` wrote."""
        return y.sigmoid() if self._sigmoid else y

    def back_from_read(self, y: Tensor, d_read: Tensor) -> Tensor:
        """Return the gradient of what `predict` wrote from that of the prediction that was read; rows."""
        return torch.ops.aten.sigmoid_backward(d_read, y.sigmoid()) if self._sigmoid else d_read

    def back(self, d_y: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of the states from that of what `predict` wrote, all as rows."""
        return torch.mm(d_y, self._weight).split(self._widths, dim=1)

    def gradients(self, d_rows: Tensor, states: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Of weight and bias, from the rows (N P, I) and the states (N, C, *S) of many steps."""
        d_weight = [torch.mm(d_rows.t(), rows(state)) for state in states]
        return torch.cat(d_weight, dim=1), d_rows.sum(0, dtype=wide_type(d_rows))
