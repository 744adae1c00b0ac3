"""The head of a forecasting stack in the fused op: the states of all layers to a prediction, and back.

Predictions are held as logits, before the sigmoid; see `convlstm.ops.functional.probabilities`.

Letters: B batch, I channels of the prediction, C_n channels of layer n, S the spatial axes, P pixels.
"""

import torch
from torch import Tensor

from convlstm.ops.layout import empty_frames, rows, wide_type


class Head:
    """The 1x1 convolution of all layers' states, as matrix products of rows, and its gradients.

    Args:
        weight: (I, C_1 + ... + C_L).
        bias: (I,).
        widths: C_1 to C_L, channels of the layers.
        sigmoid: apply a sigmoid to predictions before the stack reads them.
    """

    def __init__(self, weight: Tensor, bias: Tensor, widths: list[int], sigmoid: bool):
        self._weight, self._bias, self._widths, self._sigmoid = weight, bias, widths, sigmoid

    def state_rows(self, like: Tensor) -> tuple[Tensor, ...]:
        """Allocate rows (B P, C) for the state of each layer, from which `predict` reads."""
        B, _, *S = like.shape
        self._states = rows(empty_frames(B, sum(self._widths), *S, like=like))
        return self._states.split(self._widths, dim=1)

    def predict(self, y: Tensor) -> None:
        """Write the prediction (B, I, *S), before the sigmoid, from the states in `state_rows`."""
        torch.addmm(self._bias, self._states, self._weight.t(), out=rows(y))

    def next_frame(self, y: Tensor) -> Tensor:
        """Return the frame that the stack reads next, given what `predict` wrote."""
        return y.sigmoid() if self._sigmoid else y

    def next_frame_backward(self, y: Tensor, d_frame: Tensor) -> Tensor:
        """Return the gradient of what `predict` wrote, given that of the frame that was read; as rows."""
        return torch.ops.aten.sigmoid_backward(d_frame, y.sigmoid()) if self._sigmoid else d_frame

    def predict_backward(self, d_y: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of the states, given that of what `predict` wrote; all as rows."""
        return torch.mm(d_y, self._weight).split(self._widths, dim=1)

    def gradients(self, d_rows: Tensor, states: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return those of weight and bias, from rows (N P, I) and states (N, C, *S) of many steps."""
        d_weight = [torch.mm(d_rows.t(), rows(state)) for state in states]
        return torch.cat(d_weight, dim=1), d_rows.sum(0, dtype=wide_type(d_rows))
