"""The LSTM's steps forward and back, written by hand, for `convlstm.ops.passes`.

Letters: T time, B batch, I input channels, C hidden channels, S two or three spatial axes, P pixels.
"""

from types import ModuleType

import torch
from torch import Tensor

from convlstm.ops.convolution import Convolution, empty_frames
from convlstm.ops.kernels import kernels_for, plain, rows


def wide_type(tensor: Tensor) -> torch.dtype:
    """The type of cell states and of sums: float32, or float64 for float64."""
    return torch.promote_types(tensor.dtype, torch.float32)


class LSTMWeights:
    """The parameters of a layer: weight_ih, weight_hh, bias and weight_ch."""

    def __init__(self, ih: Tensor | None, hh: Tensor, bias: Tensor | None, ch: Tensor | None):
        self.ih, self.hh, self.bias, self.ch = ih, hh, bias, ch
        self.kernels: ModuleType = kernels_for(hh.device, hh.dtype) or plain
        self.channels = hh.shape[1]
        self.input_channels = 0 if ih is None else ih.shape[1]
        self.cell_channels = self.channels
        self.kept_channels = 4 * self.channels  # i, f, g, o
        self.peepholes = None if ch is None else ch.flatten(1).t().contiguous()  # (1 or P, 3C)

    def forward(self, like: Tensor, slots: int) -> "LSTMForward":
        """Return the steps forward; see there."""
        return LSTMForward(self, like, slots)

    def backward(self, like: Tensor, chunk: int, d_c: Tensor | None) -> "LSTMBackward":
        """Return the steps back; see there."""
        return LSTMBackward(self, like, chunk, d_c)


class LSTMForward:
    """The steps of a layer, in buffers that are made once.

    Args:
        weights: of the layer.
        like: (B, *, *S), for batch, frame size, type and device.
        slots: how many steps are kept for the backward pass.
    """

    def __init__(self, weights: LSTMWeights, like: Tensor, slots: int):
        (B, _, *S), I, C = like.shape, weights.input_channels, weights.channels
        self._weights = weights
        both = weights.hh if weights.ih is None else torch.cat([weights.ih, weights.hh], dim=1)
        self._of_both = Convolution(both)
        self._of_input = None if weights.ih is None else Convolution(weights.ih)
        self._both = empty_frames(B, I + C, *S, like=like)
        self.x, self.h = self._both[:, :I], self._both[:, I:]
        """Where a step reads its input and the hidden state; it leaves the new one there."""
        self.gates = empty_frames(slots, B, 4 * C, *S, like=like)
        self.cells = empty_frames(slots, B, C, *S, like=like)
        self.c = empty_frames(B, C, *S, like=like, dtype=wide_type(like))
        self._no_h = True

    def start(self, h: Tensor | None, c: Tensor | None) -> None:
        """Set the states; None for zeros."""
        self._no_h = h is None
        if h is not None:
            self.h.copy_(h)
        self.c = torch.zeros_like(self.c) if c is None else torch.empty_like(self.c).copy_(c)

    def step(self, slot: int | None, *h: Tensor) -> None:
        """Go one step.

        Args:
            slot: where to keep what the backward pass needs, or None not to.
            h: (B, C, *S) each, where else the new hidden state goes.
        """
        weights, c = self._weights, self.c
        if not self._no_h:
            gates = self._of_both(self._both, weights.bias)  # (B, 4C, *S)
        elif self._of_input is not None:  # the hidden state is zero, and so is its convolution
            gates = self._of_input(self.x, weights.bias)
        else:
            gates = empty_frames(len(c), 4 * c.shape[1], *c.shape[2:], like=self.h).zero_()
            if weights.bias is not None:
                rows(gates).add_(weights.bias)
        self._no_h = False
        saved = None
        if slot is not None:
            saved = rows(self.gates[slot])
            if self.cells.dtype == c.dtype:
                self.c = self.cells[slot]
        weights.kernels.lstm_forward(
            rows(gates),
            rows(c),
            weights.peepholes,
            saved,
            rows(self.c),
            [rows(place) for place in (self.h, *h)],
        )
        if slot is not None and self.c is c:  # a shorter type keeps what the backward pass needs
            self.cells[slot].copy_(c)


class LSTMBackward:
    """The steps of a layer back: gradients of its inputs by the step, of its weights by the chunk.

    Args:
        weights: of the layer.
        like: (B, *, *S), for batch, frame size, type and device.
        chunk: time steps in a chunk, whose gate gradients are held at a time.
        d_c: the gradient of the last cell state, or None.
    """

    def __init__(self, weights: LSTMWeights, like: Tensor, chunk: int, d_c: Tensor | None):
        (B, _, *S), C, wide = like.shape, weights.channels, wide_type(like)
        self._weights = weights
        self._to_h = Convolution(weights.hh).transposed()
        self._to_x = self._to_both = None
        if weights.ih is not None:
            self._to_x = Convolution(weights.ih).transposed()
            self._to_both = Convolution(torch.cat([weights.ih, weights.hh], dim=1)).transposed()
        self.carried = empty_frames(B, C, *S, like=like, dtype=wide)
        """(B, C, *S), the gradient of the cell state; every step takes it one step back."""
        self.carried.zero_() if d_c is None else self.carried.copy_(d_c)
        self._d_gates = empty_frames(chunk, B, 4 * C, *S, like=like)
        self.gradients = [
            None if p is None else torch.zeros_like(p, dtype=wide)
            for p in (weights.ih, weights.hh, weights.bias, weights.ch)
        ]
        """Of weight_ih, weight_hh, bias and weight_ch."""

    def step(
        self,
        slot: int,
        gates: Tensor,
        h: Tensor | None,
        c: Tensor,
        c_new: Tensor,
        d_h: list[Tensor],
        to_x: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Go one step back.

        Args:
            slot: the step's place in the chunk.
            gates: (B, 4C, *S), activated.
            h: (B, C, *S), the hidden state before the step, or None for zeros.
            c: (B, C, *S), the cell state before the step, in the type of the gates.
            c_new: (B, C, *S), the one after it.
            d_h: (B, C, *S) each, whose sum is the gradient of the new hidden state.
            to_x: whether the gradient of the input is wanted.

        Returns:
            The gradients of the input (None where not wanted) and of the hidden state before (None where that
            is None).
        """
        weights, d_gates = self._weights, self._d_gates[slot]
        weights.kernels.lstm_backward(
            rows(gates),
            rows(c),
            rows(c_new),
            weights.peepholes,
            [rows(d) for d in d_h],
            rows(self.carried),
            rows(d_gates),
        )
        self._peephole_gradients(d_gates, c, c_new)
        if to_x and h is not None and self._to_both is not None:
            d_both = self._to_both(d_gates)
            return d_both[:, : weights.input_channels], d_both[:, weights.input_channels :]
        d_x = self._to_x(d_gates) if to_x and self._to_x is not None else None
        return d_x, None if h is None else self._to_h(d_gates)

    def d_states(self, d_h: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of the initial states, from what the first step returned for the hidden state."""
        return d_h, self.carried

    def _peephole_gradients(self, d_gates: Tensor, c: Tensor, c_new: Tensor) -> None:
        if self.gradients[3] is None:
            return
        d_i, d_f, _, d_o = d_gates.to(self.carried.dtype).chunk(4, dim=1)
        for d_weight, d_gate, cell in zip(
            self.gradients[3].chunk(3), (d_i, d_f, d_o), (c, c, c_new), strict=True
        ):
            d_weight += (d_gate * cell).sum(0).sum_to_size(d_weight.shape)

    def weights(self, steps: int, input: Tensor | None, h: Tensor) -> None:
        """Add the weights' gradients from a chunk of time.

        Args:
            steps: in the chunk.
            input: (steps, B, I, *S), or None where there is no input convolution.
            h: (N, B, C, *S), the hidden states before the last N steps of the chunk; before others was none.
        """
        d_gates = self._d_gates[:steps]
        d_ih, d_hh, d_bias, _ = self.gradients
        if d_bias is not None:
            d_bias += d_gates.sum([0, 1, *range(3, d_gates.dim())])
        if self._weights.ih is not None and d_ih is not None and input is not None:
            of_input = Convolution(self._weights.ih)
            d_ih += of_input.weight_gradient(input.flatten(0, 1), d_gates.flatten(0, 1))
        if len(h) and d_hh is not None:
            of_h = Convolution(self._weights.hh)
            d_hh += of_h.weight_gradient(h.flatten(0, 1), d_gates[steps - len(h) :].flatten(0, 1))
