"""The head of a forecasting stack, forward and back, for `convlstm.ops.passes`.

Letters: B batch, I channels of the prediction, C_n channels of layer n, S the spatial axes, P pixels.
"""

import torch
from torch import Tensor

from convlstm.ops.convolution import empty_frames
from convlstm.ops.kernels import rows
from convlstm.ops.lstm_tape import wide_type


class Head:
    """The 1x1 convolution of all layers' states, as products of rows; and its gradients.

    Args:
        weight: (I, C_1 + ... + C_L).
        bias: (I,).
        widths: C_1 to C_L, channels of the layers.
        sigmoid: whether a sigmoid follows.
    """

    def __init__(self, weight: Tensor, bias: Tensor, widths: list[int], sigmoid: bool):
        self._weight, self._bias, self._widths, self._sigmoid = weight, bias, widths, sigmoid

    def places(self, like: Tensor) -> tuple[Tensor, ...]:
        """Return rows (B P, C) for each layer, where `predict` reads its state."""
        B, _, *S = like.shape
        self._states = rows(empty_frames(B, sum(self._widths), *S, like=like))
        return self._states.split(self._widths, dim=1)

    def predict(self, y: Tensor) -> None:
        """Write the prediction (B, I, *S) of the states in `places`."""
        result = torch.addmm(self._bias, self._states, self._weight.t(), out=rows(y))
        if self._sigmoid:
            result.sigmoid_()

    def back(self, y: Tensor, d_y: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the gradients before the output function and of the states, all as rows, from rows."""
        if self._sigmoid:
            d_y = torch.ops.aten.sigmoid_backward(d_y, y)
        return d_y, torch.mm(d_y, self._weight).split(self._widths, dim=1)

    def gradients(self, d_rows: Tensor, states: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Of weight and bias, from the rows (N P, I) and the states (N, C, *S) of many steps."""
        d_weight = [torch.mm(d_rows.t(), rows(state)) for state in states]
        return torch.cat(d_weight, dim=1), d_rows.sum(0, dtype=wide_type(d_rows))
