"""The fused op's LSTM: its parameters, a step forward and a step back, run by `convlstm.ops.fused_loop`.

A step is one convolution of input and hidden state together, then one pointwise kernel. The equations are
those of `convlstm.ops.functional.conv_lstm_step`, with gates in the order i, f, g, o.

Letters: T time, B batch, I input channels, C hidden channels, S two or three spatial axes, P pixels, and
N = B P rows of channels.
"""

from functools import cached_property

import torch
from torch import Tensor

from convlstm.ops.convolution import Convolution, bias_gradient, transposed, weight_gradient
from convlstm.ops.kernels import kernels_for
from convlstm.ops.layout import empty_frames, frames_of, rows, rows_of_steps, wide_type


class LSTMWeights:
    """The parameters of a layer: weight_ih, weight_hh, bias and weight_ch."""

    def __init__(self, ih: Tensor | None, hh: Tensor, bias: Tensor | None, ch: Tensor | None):
        self.ih, self.hh, self.bias, self.ch = ih, hh, bias, ch
        self.kernels = kernels_for("lstm", hh.device, hh.dtype)
        self.channels = hh.shape[1]
        self.input_channels = 0 if ih is None else ih.shape[1]
        self.cell_channels = self.channels
        self.kept_channels = 4 * self.channels  # i, f, g, o
        self.peepholes = None if ch is None else ch.flatten(1).t().contiguous()  # (1 or P, 3C)

    def forward(self, like: Tensor, slots: int, keep_gates: bool) -> "LSTMForward":
        """Return what runs the steps forward."""
        return LSTMForward(self, like, slots, keep_gates)

    def backward(self, like: Tensor, chunk: int, d_c: Tensor | None) -> "LSTMBackward":
        """Return what runs the steps back."""
        return LSTMBackward(self, like, chunk, d_c)

    def both(self) -> Tensor:
        """Return the weights of input and hidden state together, (4C, I + C, *K)."""
        return self.hh if self.ih is None else torch.cat([self.ih, self.hh], dim=1)


class LSTMForward:
    """The steps of a layer forward, in buffers that are allocated once.

    Args:
        weights: of the layer.
        like: (B, any, *S), a frame with the batch size, frame size, type and device.
        slots: the number of steps that are kept for the backward pass.
        keep_gates: keep the gates of these steps beside their cell states.
    """

    def __init__(self, weights: LSTMWeights, like: Tensor, slots: int, keep_gates: bool):
        (B, _, *S), I, C = like.shape, weights.input_channels, weights.channels
        self._weights = weights
        self._convolve_x = None if weights.ih is None else Convolution(weights.ih)
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
    def _convolve_both(self) -> Convolution:
        return Convolution(self._weights.both())

    @property
    def c(self) -> Tensor:
        """(B, C, *S), the cell state."""
        return frames_of(self._c, self._own_c)

    def start(self, h: Tensor | None, c: Tensor | None) -> None:
        """Set the states; None for zeros."""
        self._no_h = h is None
        if h is not None:
            self.h.copy_(h)
        self._own_c.zero_() if c is None else self._own_c.copy_(c)
        self._c = rows(self._own_c)

    def step(self, slot: int | None, *h: Tensor) -> None:
        """Run one step on `x` and the states.

        Args:
            slot: where to keep what the backward pass needs; None keeps nothing.
            h: (N, C) each, where the new hidden state goes beside `self.h`.
        """
        weights = self._weights
        if not self._no_h:
            gates = self._convolve_both(self._both, weights.bias)  # (B, 4C, *S)
        elif self._convolve_x is not None:  # the hidden state is zero: its convolution is left out
            gates = self._convolve_x(self.x, weights.bias)
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
    """The steps of a layer back: input gradients at each step, weight gradients once per chunk of steps.

    Args:
        weights: of the layer.
        like: (B, any, *S), a frame with the batch size, frame size, type and device.
        chunk: the steps in a chunk, whose gate gradients are held in memory together.
        d_c: (B, C, *S), the gradient of the last cell state, or None.
    """

    def __init__(self, weights: LSTMWeights, like: Tensor, chunk: int, d_c: Tensor | None):
        (B, _, *S), C, wide = like.shape, weights.channels, wide_type(like)
        self._weights = weights
        self.carried = empty_frames(B, C, *S, like=like, dtype=wide)
        """(B, C, *S), the gradient of the cell state, carried from step to step."""
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
    def _back_to_x(self) -> Convolution | None:
        return None if self._weights.ih is None else Convolution(transposed(self._weights.ih))

    @cached_property
    def _back_to_h(self) -> Convolution:
        return Convolution(transposed(self._weights.hh))

    @cached_property
    def _back_to_both(self) -> Convolution:
        return Convolution(transposed(self._weights.both()))

    def step(
        self,
        slot: int,
        gates: Tensor,
        h: Tensor | None,
        c: Tensor,
        c_new: Tensor,
        d_h: list[Tensor],
        input_wanted: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Run one step back.

        Args:
            slot: the step's place in the chunk.
            gates: (N, 4C), activated.
            h: (N, C), the hidden state before the step, or None for zeros.
            c: (N, C), the cell state before the step, in the type of the gates.
            c_new: (N, C), the cell state after the step.
            d_h: (N, C) each, whose sum is the gradient of the new hidden state.
            input_wanted: whether the gradient of the input is needed.

        Returns:
            The gradients, as rows, of the input (None unless wanted) and of the hidden state before the step
            (None if that is None).
        """
        weights, d_gates = self._weights, self._d_gates[slot]
        weights.kernels.lstm_backward(
            gates, c, c_new, weights.peepholes, d_h, self._carried_rows, self._d_gates_rows[slot]
        )
        self._peephole_gradients(self._d_gates_rows[slot], c, c_new)
        I = weights.input_channels
        if input_wanted and h is not None and I:
            d_both = rows(self._back_to_both(d_gates))
            return d_both[:, :I], d_both[:, I:]
        d_x = rows(self._back_to_x(d_gates)) if input_wanted and self._back_to_x is not None else None
        return d_x, None if h is None else rows(self._back_to_h(d_gates))

    def d_states(self, d_h: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients (B, C, *S) of h_0 and c_0, given what the first step returned for h_0."""
        return d_h, self.carried

    def _peephole_gradients(self, d_gates: Tensor, c: Tensor, c_new: Tensor) -> None:
        """Add the peepholes' gradients of one step."""
        total = self.gradients[3]
        if total is None:
            return
        pixels = total[0].numel()
        d_i, d_f, _, d_o = d_gates.to(total.dtype).chunk(4, dim=1)
        for d_weight, d_gate, cell in zip(total.chunk(3), (d_i, d_f, d_o), (c, c, c_new), strict=True):
            d_rows = (d_gate * cell).reshape(-1, pixels, d_gate.shape[1]).sum(0)  # (1 or P, C)
            d_weight += d_rows.t().reshape(d_weight.shape)

    def weights(self, steps: int, input: Tensor | None, h: Tensor) -> None:
        """Add the weights' gradients of a chunk of steps.

        Args:
            steps: the number of steps in the chunk.
            input: (steps, B, I, *S), or None without an input convolution.
            h: (n, B, C, *S), the hidden states before the last n steps of the chunk; those before the others
                are zero.
        """
        taps, d_gates = self._weights.hh.shape[2:], self._d_gates[:steps]
        d_ih, d_hh, d_bias, _ = self.gradients
        assert d_hh is not None
        if d_bias is not None:
            d_bias += bias_gradient(d_gates)
        # One convolution for both gradients, unless joining a narrow input with h costs more than it saves.
        if d_ih is not None and input is not None and len(h) and 4 * input.shape[2] >= h.shape[2]:
            d_both = weight_gradient(taps, _join(input, h), d_gates)
            d_ih += d_both[:, : d_ih.shape[1]]
            d_hh += d_both[:, d_ih.shape[1] :]
            return
        if d_ih is not None and input is not None:
            d_ih += weight_gradient(taps, input, d_gates)
        if len(h):
            d_hh += weight_gradient(taps, h, d_gates[steps - len(h) :])


def _join(input: Tensor, h: Tensor) -> Tensor:
    """Return (steps, B, I + C, *S), with zeros for missing hidden states."""
    (steps, B, I, *S), C = input.shape, h.shape[2]
    both = empty_frames(steps, B, I + C, *S, like=input[0])
    both[:, :, :I] = input
    both[: steps - len(h), :, I:] = 0
    both[steps - len(h) :, :, I:] = h
    return both
