"""The fused op's GRU (reset_after=True): a step forward and a step back, run by `convlstm.ops.fused_loop`.

A step is two convolutions, of the input and of the hidden state, then one pointwise kernel that reads both:
the reset gate multiplies only one of them, so they cannot be added first. The equations are those of
`convlstm.ops.functional.conv_gru_step`, with gates in the order r, z, n.

The loop gives each cell a cell state; that of a GRU has no channels.

Letters: T time, B batch, I input channels, C hidden channels, S two or three spatial axes, P pixels, and
N = B P rows of channels.
"""

from functools import cached_property

import torch
from torch import Tensor

from convlstm.ops.convolution import Convolution, bias_gradient, transposed, weight_gradient
from convlstm.ops.kernels import kernels_for
from convlstm.ops.layout import empty_frames, rows, wide_type


class GRUWeights:
    """The parameters of a layer: weight_ih, weight_hh, bias and bias_hn."""

    cell_channels = 0

    def __init__(self, ih: Tensor | None, hh: Tensor, bias: Tensor | None, hn: Tensor | None):
        self.ih, self.hh, self.bias, self.hn = ih, hh, bias, hn
        self.kernels = kernels_for("gru", hh.device, hh.dtype)
        self.channels = hh.shape[1]
        self.input_channels = 0 if ih is None else ih.shape[1]
        self.kept_channels = 4 * self.channels  # r, z, n and what r multiplies

    def forward(self, like: Tensor, slots: int, keep_gates: bool) -> "GRUForward":
        """Return what runs the steps forward."""
        return GRUForward(self, like, slots, keep_gates)

    def backward(self, like: Tensor, chunk: int, d_c: Tensor | None) -> "GRUBackward":
        """Return what runs the steps back; `d_c` is None or has no channels."""
        return GRUBackward(self, like, chunk)


def _repeat_row(row: Tensor, like: Tensor) -> Tensor:
    """Return a view that repeats a row of channels for each pixel of (B, C, *S)."""
    return row.expand(like.numel() // like.shape[1], -1)


class GRUForward:
    """The steps of a layer forward, in buffers that are allocated once; arguments as of `LSTMForward`."""

    def __init__(self, weights: GRUWeights, like: Tensor, slots: int, keep_gates: bool):
        (B, _, *S), C = like.shape, weights.channels
        self._weights = weights
        self._convolve_h = Convolution(weights.hh)
        self._convolve_x = None if weights.ih is None else Convolution(weights.ih)
        self.x = empty_frames(B, weights.input_channels, *S, like=like)
        self.h = empty_frames(B, C, *S, like=like)
        """Where a step reads its input and the hidden state; it leaves the new one there."""
        steps = range(slots if keep_gates else 0)
        self.gates = [empty_frames(B, weights.kept_channels, *S, like=like) for _ in steps]
        """(B, 4C, *S) of each step, see `GRUWeights.kept_channels`."""
        self.cells = empty_frames(slots, B, 0, *S, like=like)
        self.c = empty_frames(B, 0, *S, like=like, dtype=wide_type(like))
        self._no_h = True
        self._zeros = _repeat_row(like.new_zeros(3 * C), self.h)
        self._bias = self._zeros if weights.bias is None else _repeat_row(weights.bias.contiguous(), self.h)
        self._hn = like.new_zeros(C) if weights.hn is None else weights.hn.contiguous()

    def start(self, h: Tensor | None, c: Tensor | None) -> None:
        """Set the state; None for zeros."""
        self._no_h = h is None
        self.h.zero_() if h is None else self.h.copy_(h)

    def step(self, slot: int | None, *h: Tensor) -> None:
        """Run one step on `x` and the state; arguments as of `LSTMForward.step`."""
        weights = self._weights
        x_gates = self._bias if self._convolve_x is None else rows(self._convolve_x(self.x, weights.bias))
        h_gates = self._zeros if self._no_h else rows(self._convolve_h(self.h))
        self._no_h = False
        saved = rows(self.gates[slot]) if slot is not None and self.gates else None
        weights.kernels.gru_forward(x_gates, h_gates, self._hn, rows(self.h), saved, list(h))


class GRUBackward:
    """The steps of a layer back; arguments as of `LSTMBackward`."""

    def __init__(self, weights: GRUWeights, like: Tensor, chunk: int):
        (B, _, *S), C, wide = like.shape, weights.channels, wide_type(like)
        self._weights = weights
        self._zeros = _repeat_row(like.new_zeros(C), empty_frames(B, C, *S, like=like))
        self.carried = empty_frames(B, C, *S, like=like, dtype=wide).zero_()
        """(B, C, *S), the part of h's gradient that bypasses the convolution, carried from step to step."""
        self._d_x_gates = empty_frames(chunk, B, 3 * C, *S, like=like)
        self._d_h_gates = empty_frames(chunk, B, 3 * C, *S, like=like)
        self.gradients = [
            None if p is None else torch.zeros_like(p, dtype=wide, memory_format=torch.contiguous_format)
            for p in (weights.ih, weights.hh, weights.bias, weights.hn)
        ]
        """Of weight_ih, weight_hh, bias and bias_hn."""

    @cached_property
    def _back_to_h(self) -> Convolution:
        return Convolution(transposed(self._weights.hh))

    @cached_property
    def _back_to_x(self) -> Convolution | None:
        return None if self._weights.ih is None else Convolution(transposed(self._weights.ih))

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
        """Run one step back; arguments and results are those of `LSTMBackward.step`.

        `c` and `c_new` have no channels. The gradients of the hidden states are the parts that come through
        the convolutions; `carried` is the rest.
        """
        d_x_gates, d_h_gates = self._d_x_gates[slot], self._d_h_gates[slot]
        before, carried = self._zeros if h is None else h, rows(self.carried)
        kernel = self._weights.kernels.gru_backward
        kernel(gates, before, d_h, carried, rows(d_x_gates), rows(d_h_gates))
        d_x = rows(self._back_to_x(d_x_gates)) if input_wanted and self._back_to_x is not None else None
        return d_x, None if h is None else rows(self._back_to_h(d_h_gates))

    def d_states(self, d_h: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradient (B, C, *S) of h_0, given what the first step returned for it; and None."""
        return None if d_h is None else (d_h + self.carried).to(d_h.dtype), None

    def weights(self, steps: int, input: Tensor | None, h: Tensor) -> None:
        """Add the weights' gradients of a chunk of steps; arguments as of `LSTMBackward.weights`."""
        C, d_x_gates, d_h_gates = self._weights.channels, self._d_x_gates[:steps], self._d_h_gates[:steps]
        d_ih, d_hh, d_bias, d_hn = self.gradients
        if d_bias is not None:
            d_bias += bias_gradient(d_x_gates)
        if d_hn is not None:
            d_hn += bias_gradient(d_h_gates[:, :, 2 * C :])
        taps = self._weights.hh.shape[2:]
        if d_ih is not None and input is not None:
            d_ih += weight_gradient(taps, input, d_x_gates)
        if len(h) and d_hh is not None:
            d_hh += weight_gradient(taps, h, d_h_gates[steps - len(h) :])
