"""The GRU's steps forward and back, written by hand, for `convlstm.ops.passes`: the reset gate comes last.

The input's and the hidden state's convolutions cannot be added for the n rows, for the reset gate multiplies
one of them: there are two in a step, and the pointwise kernel reads both.

A GRU has no cell state; where the stack asks for one, it gets one of no channels.

Letters: T time, B batch, I input channels, C hidden channels, S two or three spatial axes, P pixels, and
N = B P rows of channels.
"""

from functools import cached_property
from types import ModuleType

import torch
from torch import Tensor

from convlstm.ops.convolution import Convolution, empty_frames, turned, weight_gradient
from convlstm.ops.kernels import kernels_for, plain, rows
from convlstm.ops.lstm_tape import channel_sums, wide_type


class GRUParameters:
    """The parameters of a layer, wherever the reset gate comes: weight_ih, weight_hh, bias and bias_hn."""

    cell_channels = 0

    def __init__(self, ih: Tensor | None, hh: Tensor, bias: Tensor | None, hn: Tensor | None):
        self.ih, self.hh, self.bias, self.hn = ih, hh, bias, hn
        self.kernels: ModuleType = kernels_for(hh.device, hh.dtype) or plain
        self.channels = hh.shape[1]
        self.input_channels = 0 if ih is None else ih.shape[1]


class GRUWeights(GRUParameters):
    """The parameters of a layer whose reset gate comes last."""

    @property
    def kept_channels(self) -> int:
        """Of what a step keeps for the backward pass: r, z, n and what r multiplies."""
        return 4 * self.channels

    def forward(self, like: Tensor, slots: int, keep_gates: bool) -> "GRUForward":
        """Return the steps forward; see there."""
        return GRUForward(self, like, slots, keep_gates)

    def backward(self, like: Tensor, chunk: int, d_c: Tensor | None) -> "GRUBackward":
        """Return the steps back; see there. `d_c` is None or has no channels."""
        return GRUBackward(self, like, chunk)


def same_rows(row: Tensor, like: Tensor) -> Tensor:
    """A row of channels for each pixel of (B, C, *S), all of them in one place."""
    return row.expand(like.numel() // like.shape[1], -1)


class GRUForward:
    """The steps of a layer, in buffers that are made once.

    Args:
        weights: of the layer.
        like: (B, *, *S), for batch, frame size, type and device.
        slots: of how many steps something is kept for the backward pass.
        keep_gates: whether anything is, but the hidden states.
    """

    def __init__(self, weights: GRUWeights, like: Tensor, slots: int, keep_gates: bool):
        (B, _, *S), C = like.shape, weights.channels
        self._weights = weights
        self._of_h = Convolution(weights.hh)
        self._of_x = None if weights.ih is None else Convolution(weights.ih)
        self.x = empty_frames(B, weights.input_channels, *S, like=like)
        self.h = empty_frames(B, C, *S, like=like)
        """Where a step reads its input and the hidden state; it leaves the new one there."""
        steps = range(slots if keep_gates else 0)
        self.gates = [empty_frames(B, weights.kept_channels, *S, like=like) for _ in steps]
        """Of each step, what it keeps."""
        self.cells = empty_frames(slots, B, 0, *S, like=like)
        self.c = empty_frames(B, 0, *S, like=like, dtype=wide_type(like))
        self._no_h = True
        self._zeros = same_rows(like.new_zeros(3 * C), self.h)
        self._bias = self._zeros if weights.bias is None else same_rows(weights.bias.contiguous(), self.h)
        self._hn = like.new_zeros(C) if weights.hn is None else weights.hn.contiguous()

    def start(self, h: Tensor | None, c: Tensor | None) -> None:
        """Set the state; None for zeros."""
        self._no_h = h is None
        self.h.zero_() if h is None else self.h.copy_(h)

    def step(self, slot: int | None, *h: Tensor) -> None:
        """Go one step.

        Args:
            slot: where to keep what the backward pass needs, or None not to.
            h: (N, C) each, where else the new hidden state goes.
        """
        weights = self._weights
        of_x = self._bias if self._of_x is None else rows(self._of_x(self.x, weights.bias))
        of_h = self._zeros if self._no_h else rows(self._of_h(self.h))
        self._no_h = False
        saved = rows(self.gates[slot]) if slot is not None and self.gates else None
        weights.kernels.gru_forward(of_x, of_h, self._hn, rows(self.h), saved, list(h))


class GRUBackward:
    """The steps of a layer back: gradients of its inputs by the step, of its weights by the chunk.

    Args:
        weights: of the layer.
        like: (B, *, *S), for batch, frame size, type and device.
        chunk: time steps in a chunk, whose gate gradients are held at a time.
    """

    def __init__(self, weights: GRUWeights, like: Tensor, chunk: int):
        (B, _, *S), C, wide = like.shape, weights.channels, wide_type(like)
        self._weights = weights
        self._zeros = same_rows(like.new_zeros(C), empty_frames(B, C, *S, like=like))
        self.carried = empty_frames(B, C, *S, like=like, dtype=wide).zero_()
        """(B, C, *S), what of a hidden state's gradient does not come through a convolution; every step
        takes it one step back."""
        self._d_of_x = empty_frames(chunk, B, 3 * C, *S, like=like)
        self._d_of_h = empty_frames(chunk, B, 3 * C, *S, like=like)
        self.gradients = [
            None if p is None else torch.zeros_like(p, dtype=wide, memory_format=torch.contiguous_format)
            for p in (weights.ih, weights.hh, weights.bias, weights.hn)
        ]
        """Of weight_ih, weight_hh, bias and bias_hn."""

    @cached_property
    def _to_h(self) -> Convolution:
        return Convolution(turned(self._weights.hh))

    @cached_property
    def _to_x(self) -> Convolution | None:
        return None if self._weights.ih is None else Convolution(turned(self._weights.ih))

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
            gates: (N, 4C), what was kept.
            h: (N, C), the hidden state before the step, or None for zeros.
            c: of no channels.
            c_new: of no channels.
            d_h: (N, C) each, a part of the gradient of the new hidden state; `carried` is the rest.
            to_x: whether the gradient of the input is wanted.

        Returns:
            The gradients that come through the convolutions, of the input (None where not wanted) and of the
            hidden state before (None where that is None), as rows.
        """
        d_of_x, d_of_h = self._d_of_x[slot], self._d_of_h[slot]
        self._weights.kernels.gru_backward(
            gates,
            self._zeros if h is None else h,
            d_h,
            rows(self.carried),
            rows(d_of_x),
            rows(d_of_h),
        )
        d_x = rows(self._to_x(d_of_x)) if to_x and self._to_x is not None else None
        return d_x, None if h is None else rows(self._to_h(d_of_h))

    def d_states(self, d_h: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of the initial states, from what the first step returned for the hidden state."""
        return None if d_h is None else (d_h + self.carried).to(d_h.dtype), None

    def weights(self, steps: int, input: Tensor | None, h: Tensor) -> None:
        """Add the weights' gradients from a chunk of time.

        Args:
            steps: in the chunk.
            input: (steps, B, I, *S), or None where there is no input convolution.
            h: (n, B, C, *S), the hidden states before the last n steps of the chunk; before others was none.
        """
        C, d_of_x, d_of_h = self._weights.channels, self._d_of_x[:steps], self._d_of_h[:steps]
        d_ih, d_hh, d_bias, d_hn = self.gradients
        if d_bias is not None:
            d_bias += channel_sums(d_of_x)
        if d_hn is not None:
            d_hn += channel_sums(d_of_h[:, :, 2 * C :])
        taps = self._weights.hh.shape[2:]
        if d_ih is not None and input is not None:
            d_ih += weight_gradient(taps, input, d_of_x)
        if len(h) and d_hh is not None:
            d_hh += weight_gradient(taps, h, d_of_h[steps - len(h) :])
