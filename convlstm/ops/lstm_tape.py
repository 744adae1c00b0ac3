"""The LSTM's steps forward and back, written by hand, for `convlstm.ops.passes`.

Letters: T time, B batch, I input channels, C hidden channels, S two or three spatial axes, P pixels, and
N = B P rows of channels.
"""

from functools import cached_property
from types import ModuleType

import torch
from torch import Tensor

from convlstm.ops.convolution import Convolution, empty_frames, turned, weight_gradient
from convlstm.ops.kernels import frames, kernels_for, plain, rows, rows_of_steps


def wide_type(tensor: Tensor) -> torch.dtype:
    """The type of cell states and of sums: float32, or float64 for float64."""
    return torch.promote_types(tensor.dtype, torch.float32)


def channel_sums(gradients: Tensor) -> Tensor:
    """(T, B, C, *S), channels last in memory, -> (C,)."""
    return rows(gradients.flatten(0, 1)).sum(0)


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

    def forward(self, like: Tensor, slots: int, keep_gates: bool) -> "LSTMForward":
        """Return the steps forward; see there."""
        return LSTMForward(self, like, slots, keep_gates)

    def backward(self, like: Tensor, chunk: int, d_c: Tensor | None) -> "LSTMBackward":
        """Return the steps back; see there."""
        return LSTMBackward(self, like, chunk, d_c)

    def both(self) -> Tensor:
        """The weights of input and hidden state together, (4C, I + C, *K)."""
        return self.hh if self.ih is None else torch.cat([self.ih, self.hh], dim=1)


class LSTMForward:
    """The steps of a layer, in buffers that are made once.

    Args:
        weights: of the layer.
        like: (B, *, *S), for batch, frame size, type and device.
        slots: of how many steps something is kept for the backward pass.
        keep_gates: whether the gates are, beside the cell states.
    """

    def __init__(self, weights: LSTMWeights, like: Tensor, slots: int, keep_gates: bool):
        (B, _, *S), I, C = like.shape, weights.input_channels, weights.channels
        self._weights = weights
        self._of_input = None if weights.ih is None else Convolution(weights.ih)
        self._both = empty_frames(B, I + C, *S, like=like)
        self.x, self.h = self._both[:, :I], self._both[:, I:]
        """Where a step reads its input and the hidden state; it leaves the new one there."""
        self._h_rows = rows(self.h)
        self._keep_gates = keep_gates
        self.gates: list[Tensor] = [like.new_empty(0)] * (slots if keep_gates else 0)
        """(B, 4C, *S) of each step, activated."""
        self.cells = empty_frames(slots, B, C, *S, like=like)
        self._cells = rows_of_steps(self.cells)
        self._own_c = empty_frames(B, C, *S, like=like, dtype=wide_type(like))
        self._c = rows(self._own_c)
        self._no_h = True

    @cached_property
    def _of_both(self) -> Convolution:
        return Convolution(self._weights.both())

    @property
    def c(self) -> Tensor:
        """(B, C, *S), the cell state."""
        return frames(self._c, self._own_c)

    def start(self, h: Tensor | None, c: Tensor | None) -> None:
        """Set the states; None for zeros."""
        self._no_h = h is None
        if h is not None:
            self.h.copy_(h)
        self._own_c.zero_() if c is None else self._own_c.copy_(c)
        self._c = rows(self._own_c)

    def step(self, slot: int | None, *h: Tensor) -> None:
        """Go one step.

        Args:
            slot: where to keep what the backward pass needs, or None not to.
            h: (N, C) each, where else the new hidden state goes.
        """
        weights = self._weights
        if not self._no_h:
            gates = self._of_both(self._both, weights.bias)  # (B, 4C, *S)
        elif self._of_input is not None:  # the hidden state is zero, and so is its convolution
            gates = self._of_input(self.x, weights.bias)
        else:
            B, C, *S = self.h.shape
            gates = empty_frames(B, 4 * C, *S, like=self.h).zero_()
            if weights.bias is not None:
                rows(gates).add_(weights.bias)
        self._no_h = False
        c, c_new, short = self._c, self._c, None
        if slot is not None:
            if self._keep_gates:
                self.gates[slot] = gates
            if self.cells.dtype == c.dtype:
                self._c = c_new = self._cells[slot]
            else:
                short = self._cells[slot]
        states = c_new, short, [self._h_rows, *h]
        weights.kernels.lstm_forward(rows(gates), c, weights.peepholes, self._keep_gates, *states)


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
        self.carried = empty_frames(B, C, *S, like=like, dtype=wide)
        """(B, C, *S), the gradient of the cell state; every step takes it one step back."""
        self.carried.zero_() if d_c is None else self.carried.copy_(d_c)
        self._carried_rows = rows(self.carried)
        self._d_gates = empty_frames(chunk, B, 4 * C, *S, like=like)
        self._d_gates_rows = rows_of_steps(self._d_gates)
        self.gradients = [
            None if p is None else torch.zeros_like(p, dtype=wide, memory_format=torch.contiguous_format)
            for p in (weights.ih, weights.hh, weights.bias, weights.ch)
        ]
        """Of weight_ih, weight_hh, bias and weight_ch."""

    @cached_property
    def _to_x(self) -> Convolution | None:
        return None if self._weights.ih is None else Convolution(turned(self._weights.ih))

    @cached_property
    def _to_h(self) -> Convolution:
        return Convolution(turned(self._weights.hh))

    @cached_property
    def _to_both(self) -> Convolution:
        return Convolution(turned(self._weights.both()))

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
            gates: (N, 4C), activated.
            h: (N, C), the hidden state before the step, or None for zeros.
            c: (N, C), the cell state before the step, in the type of the gates.
            c_new: (N, C), the one after it.
            d_h: (N, C) each, whose sum is the gradient of the new hidden state.
            to_x: whether the gradient of the input is wanted.

        Returns:
            The gradients of the input (None where not wanted) and of the hidden state before (None where that
            is None), as rows.
        """
        weights, d_gates = self._weights, self._d_gates[slot]
        weights.kernels.lstm_backward(
            gates, c, c_new, weights.peepholes, d_h, self._carried_rows, self._d_gates_rows[slot]
        )
        self._peephole_gradients(self._d_gates_rows[slot], c, c_new)
        I = weights.input_channels
        if to_x and h is not None and I:
            d_both = rows(self._to_both(d_gates))
            return d_both[:, :I], d_both[:, I:]
        d_x = rows(self._to_x(d_gates)) if to_x and self._to_x is not None else None
        return d_x, None if h is None else rows(self._to_h(d_gates))

    def d_states(self, d_h: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The gradients (B, C, *S) of the initial states; that of the hidden state is the first step's."""
        return d_h, self.carried

    def _peephole_gradients(self, d_gates: Tensor, c: Tensor, c_new: Tensor) -> None:
        total = self.gradients[3]
        if total is None:
            return
        pixels = total[0].numel()
        d_i, d_f, _, d_o = d_gates.to(total.dtype).chunk(4, dim=1)
        for d_weight, d_gate, cell in zip(total.chunk(3), (d_i, d_f, d_o), (c, c, c_new), strict=True):
            d_rows = (d_gate * cell).reshape(-1, pixels, d_gate.shape[1]).sum(0)  # (1 or P, C)
            d_weight += d_rows.t().reshape(d_weight.shape)

    def weights(self, steps: int, input: Tensor | None, h: Tensor) -> None:
        """Add the weights' gradients from a chunk of time.

        Args:
            steps: in the chunk.
            input: (steps, B, I, *S), or None where there is no input convolution.
            h: (n, B, C, *S), the hidden states before the last n steps of the chunk; before others was none.
        """
        taps, d_gates = self._weights.hh.shape[2:], self._d_gates[:steps]
        d_ih, d_hh, d_bias, _ = self.gradients
        assert d_hh is not None
        if d_bias is not None:
            d_bias += channel_sums(d_gates)
        if d_ih is not None and input is not None and _is_joint(input, h):
            d_both = weight_gradient(taps, _join(input, h), d_gates)
            d_ih += d_both[:, : d_ih.shape[1]]
            d_hh += d_both[:, d_ih.shape[1] :]
            return
        if d_ih is not None and input is not None:
            d_ih += weight_gradient(taps, input, d_gates)
        if len(h):
            d_hh += weight_gradient(taps, h, d_gates[steps - len(h) :])


def _is_joint(input: Tensor, h: Tensor) -> bool:
    """Whether one convolution for both weights' gradients is worth bringing input and h together."""
    return len(h) > 0 and 4 * input.shape[2] >= h.shape[2]


def _join(input: Tensor, h: Tensor) -> Tensor:
    """(steps, B, I + C, *S), with zeros for hidden states that are not there."""
    (steps, B, I, *S), C = input.shape, h.shape[2]
    both = empty_frames(steps, B, I + C, *S, like=input[0])
    both[:, :, :I] = input
    both[: steps - len(h), :, I:] = 0
    both[steps - len(h) :, :, I:] = h
    return both
