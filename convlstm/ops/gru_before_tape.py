"""The GRU's steps forward and back where the reset gate comes before the convolution: n = tanh(W * (r . h)).

A step has two convolutions, one after the other, each of the input together with a state: with h for the
gates r and z, with r . h for n; and a pointwise kernel after each. The rest is as in `convlstm.ops.gru_tape`.

Letters: as in `convlstm.ops.gru_tape`.
"""

import torch
from torch import Tensor

from convlstm.ops.convolution import Convolution, empty_frames, turned, weight_gradient
from convlstm.ops.gru_tape import GRUParameters, same_rows
from convlstm.ops.kernels import rows
from convlstm.ops.lstm_tape import channel_sums, wide_type


class GRUBeforeWeights(GRUParameters):
    """The parameters of a layer whose reset gate comes before the convolution; it has no bias_hn."""

    @property
    def kept_channels(self) -> int:
        """Of what a step keeps for the backward pass: r, z and n."""
        return 3 * self.channels

    def forward(self, like: Tensor, slots: int, keep_gates: bool) -> "GRUBeforeForward":
        """Return the steps forward; see there."""
        return GRUBeforeForward(self, like, slots, keep_gates)

    def backward(self, like: Tensor, chunk: int, d_c: Tensor | None) -> "GRUBeforeBackward":
        """Return the steps back; see there. `d_c` is None or has no channels."""
        return GRUBeforeBackward(self, like, chunk)

    def both(self) -> tuple[Tensor, Tensor]:
        """The weights of input and state together, (2C, I + C, *K) for r and z, (C, I + C, *K) for n."""
        both = self.hh if self.ih is None else torch.cat([self.ih, self.hh], dim=1)
        C = self.channels
        return both[: 2 * C], both[2 * C :]


class GRUBeforeForward:
    """The steps of a layer, in buffers that are made once; as `GRUForward`."""

    def __init__(self, weights: GRUBeforeWeights, like: Tensor, slots: int, keep_gates: bool):
        (B, _, *S), I, C = like.shape, weights.input_channels, weights.channels
        self._weights = weights
        self._of_gates, self._of_new = (Convolution(weight) for weight in weights.both())
        self._of_x = None if weights.ih is None else Convolution(weights.ih)
        self._bias_gates, self._bias_new = (
            (None, None) if weights.bias is None else weights.bias.split([2 * C, C])
        )
        self._with_h = empty_frames(B, I + C, *S, like=like)
        self._with_reset = empty_frames(B, I + C, *S, like=like)
        self.x, self.h = self._with_h[:, :I], self._with_h[:, I:]
        """Where a step reads its input and the hidden state; it leaves the new one there."""
        steps = range(slots if keep_gates else 0)
        self.gates = [empty_frames(B, weights.kept_channels, *S, like=like) for _ in steps]
        """Of each step, what it keeps."""
        self.cells = empty_frames(slots, B, 0, *S, like=like)
        self.c = empty_frames(B, 0, *S, like=like, dtype=wide_type(like))
        self._no_h = True

    def start(self, h: Tensor | None, c: Tensor | None) -> None:
        """Set the state; None for zeros."""
        self._no_h = h is None
        self.h.zero_() if h is None else self.h.copy_(h)

    def step(self, slot: int | None, *h: Tensor) -> None:
        """Go one step; as `GRUForward.step`."""
        weights, C, I = self._weights, self._weights.channels, self._weights.input_channels
        kernels, state, reset = weights.kernels, rows(self.h), rows(self._with_reset[:, I:])
        first = self._first() if self._no_h else None
        gates = self._of_gates(self._with_h, self._bias_gates) if first is None else first[:, : 2 * C]
        saved_gates = saved_new = None
        if slot is not None and self.gates:
            saved_gates, saved_new = (rows(kept) for kept in self.gates[slot].split([2 * C, C], dim=1))
        kernels.gru_gates_forward(rows(gates), state, saved_gates, reset)
        if first is None:
            self._with_reset[:, :I].copy_(self.x)
            new = self._of_new(self._with_reset, self._bias_new)
        else:
            new = first[:, 2 * C :]
        self._no_h = False
        z = (rows(gates) if saved_gates is None else saved_gates)[:, C:]
        kernels.gru_new_forward(rows(new), z, state, saved_new, list(h))

    def _first(self) -> Tensor:
        """What the convolutions give where the hidden state is zero; (B, 3C, *S)."""
        if self._of_x is not None:
            return self._of_x(self.x, self._weights.bias)
        B, C, *S = self.h.shape
        result = empty_frames(B, 3 * C, *S, like=self.h).zero_()
        if self._weights.bias is not None:
            rows(result).add_(self._weights.bias)
        return result


class GRUBeforeBackward:
    """The steps of a layer back; as `GRUBackward`."""

    def __init__(self, weights: GRUBeforeWeights, like: Tensor, chunk: int):
        (B, _, *S), C, wide = like.shape, weights.channels, wide_type(like)
        self._weights = weights
        self._gates_back, self._new_back = (Convolution(turned(weight)) for weight in weights.both())
        self._to_x = None if weights.ih is None else Convolution(turned(weights.ih))
        self._zeros = same_rows(like.new_zeros(C), empty_frames(B, C, *S, like=like))
        self.carried = empty_frames(B, C, *S, like=like, dtype=wide).zero_()
        """(B, C, *S), what of a hidden state's gradient does not come through the first convolution; every
        step takes it one step back."""
        self._d_gates = empty_frames(chunk, B, 2 * C, *S, like=like)
        self._d_new = empty_frames(chunk, B, C, *S, like=like)
        self._reset = empty_frames(chunk, B, C, *S, like=like)
        self.gradients = [
            None if p is None else torch.zeros_like(p, dtype=wide, memory_format=torch.contiguous_format)
            for p in (weights.ih, weights.hh, weights.bias, weights.hn)
        ]
        """Of weight_ih, weight_hh, bias and bias_hn."""

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
        """Go one step back; as `GRUBackward.step`, but that `gates` is (N, 3C)."""
        I, kernels = self._weights.input_channels, self._weights.kernels
        d_gates, d_new, carried = self._d_gates[slot], self._d_new[slot], rows(self.carried)
        d_r, d_z = (rows(d) for d in d_gates.chunk(2, dim=1))
        before = self._zeros if h is None else h
        kernels.gru_new_backward(gates, before, d_h, carried, d_z, rows(d_new))
        if h is None:
            d_r.zero_()
            if not to_x or self._to_x is None:
                return None, None
            return rows(self._to_x(torch.cat([d_gates, d_new], dim=1))), None
        d_both = rows(self._new_back(d_new))
        kernels.gru_gates_backward(gates, before, d_both[:, I:], carried, d_r, rows(self._reset[slot]))
        d_more = rows(self._gates_back(d_gates))
        return d_both[:, :I].add_(d_more[:, :I]) if to_x else None, d_more[:, I:]

    def d_states(self, d_h: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of the initial states; as `GRUBackward.d_states`."""
        return None if d_h is None else (d_h + self.carried).to(d_h.dtype), None

    def weights(self, steps: int, input: Tensor | None, h: Tensor) -> None:
        """Add the weights' gradients from a chunk of time; as `GRUBackward.weights`."""
        C, d_gates, d_new = self._weights.channels, self._d_gates[:steps], self._d_new[:steps]
        d_ih, d_hh, d_bias, _ = self.gradients
        if d_bias is not None:
            d_bias += torch.cat([channel_sums(d_gates), channel_sums(d_new)])
        taps = self._weights.hh.shape[2:]
        if d_ih is not None and input is not None:
            d_ih[: 2 * C] += weight_gradient(taps, input, d_gates)
            d_ih[2 * C :] += weight_gradient(taps, input, d_new)
        if len(h) and d_hh is not None:
            with_h = slice(steps - len(h), steps)
            d_hh[: 2 * C] += weight_gradient(taps, h, d_gates[with_h])
            d_hh[2 * C :] += weight_gradient(taps, self._reset[with_h], d_new[with_h])
