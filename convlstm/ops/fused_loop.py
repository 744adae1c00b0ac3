"""The fused op's loops over time, forward and back, with all layers of a stack inside each.

Letters: T time, B batch, I input channels, C hidden channels, L layers, S two or three spatial axes.

With a head the stack predicts its next input, and can read its own prediction in place of it:

    y_t = sum over layers of W_l h_(l,t) + b
    x_t = input_t            for t < given, or where read_given is true
    x_t = output(y_(t-1))    elsewhere

What makes it fast:

- Input and hidden state are convolved together, from a buffer that stays in the cache.
- The pointwise kernels pass over memory once and write into that buffer.
- A weight's gradient is one convolution for many time steps.
- A hidden state of zeros is not convolved.

For the backward pass each layer keeps its outputs, cell states and activated gates, 6 C numbers per step and
pixel of an LSTM. With `Keep.STATES` it keeps outputs and cell states, 2 C, and computes the gates again, step
by step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from convlstm.ops.fused_gru import GRUBackward, GRUWeights
from convlstm.ops.fused_head import Head
from convlstm.ops.fused_lstm import LSTMBackward, LSTMWeights
from convlstm.ops.layout import channels_last, empty_frames, frames_of, rows, rows_of_steps


class Keep(IntEnum):
    """What the forward pass keeps for the backward pass."""

    NOTHING = 0
    GATES = 1
    """Gates, cell states and outputs."""
    STATES = 2
    """Cell states and outputs; the backward pass computes the gates again."""


@dataclass
class Stack:
    """A stack of layers, and how it runs over a sequence."""

    layers: Sequence[LSTMWeights | GRUWeights]
    steps: int
    """T, time steps."""
    keep: int
    """A value of `Keep`."""
    given: int
    """The first steps that always read the input: T without a head."""
    head: tuple[Tensor, Tensor] | None = None
    """Weight (I, C_1 + ... + C_L) and bias (I,) of the head, or None."""
    sigmoid: bool = False
    """Apply a sigmoid to predictions before they are read."""
    first: int = 0
    """The first step whose prediction is returned."""

    def make_head(self) -> Head | None:
        """Return the head, or None without one."""
        widths = [layer.channels for layer in self.layers]
        return Head(*self.head, widths, self.sigmoid) if self.head else None


def forward(
    stack: Stack,
    input: Tensor,
    states: list[tuple[Tensor | None, Tensor | None]],
    read_given: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Run over a sequence.

    Args:
        stack: what is computed.
        input: (T, B, I, *S), or (given, B, I, *S) if no more is read.
        states: per layer h and c (B, C, *S), None for zeros.
        read_given: bool (T - given, B), true where a step reads the input and not the prediction; None for
            nowhere.
        lengths: (B,), the steps after which the last states are taken; None for T.

    Returns:
        - the outputs: (T, B, C, *S) of the last layer, or (T - first, B, I, *S) of the head, before the
          sigmoid
        - the last states: h and c of each layer
        - what is kept: per layer the gates of each step and the cell states of all; then the outputs of each
          layer, without the last layer's if they are the result; then, with a head, the frames that were read
    """
    T, (B, I, *S), like = stack.steps, input.shape[1:], input[0]
    slots, keep_gates = T if stack.keep else 0, stack.keep == Keep.GATES
    layers = [weights.forward(like, slots, keep_gates) for weights in stack.layers]
    for layer, state in zip(layers, states, strict=True):
        layer.start(*state)
    head = stack.make_head()
    outs = [  # without a backward pass only the result outlives its step
        empty_frames(
            T if stack.keep or (not head and n == len(layers) - 1) else 0, B, w.channels, *S, like=like
        )
        for n, w in enumerate(stack.layers)
    ]
    # Where a layer's hidden state goes, as rows: the outputs that are kept, the layer above, the head.
    kept_h = [rows_of_steps(out) for out in outs]
    above = [rows(layer.x) for layer in layers[1:]]
    to_head = head.state_rows(like) if head else []
    y = empty_frames(T - stack.first, B, I, *S, like=like) if head else outs[-1]
    read = empty_frames(T if head and stack.keep else 0, B, I, *S, like=like)
    # Zeros for a length that no step has: in a traced graph the values of lengths are not checked.
    last = [(torch.zeros_like(layer.h), torch.zeros_like(layer.c)) for layer in layers if lengths is not None]
    for t in range(T):
        if t < stack.given or not head:
            frame = input[t]
        else:
            own = head.next_frame(y[t - 1 - stack.first])
            frame = own if read_given is None else _where(stack, t, read_given, input[t], own)
        layers[0].x.copy_(frame)
        if len(read):
            read[t].copy_(frame)
        for n, layer in enumerate(layers):
            places = (*kept_h[n][t : t + 1], *above[n : n + 1], *to_head[n : n + 1])
            layer.step(t if stack.keep else None, *places)
        if head and t >= stack.first:
            head.predict(y[t - stack.first])
        if lengths is not None:
            ends = _ends(lengths, t, like)
            last = [
                (torch.where(ends, layer.h, h), torch.where(ends, layer.c, c))
                for layer, (h, c) in zip(layers, last, strict=True)
            ]
    if lengths is None:
        last = [(channels_last(layer.h.clone()), layer.c.clone()) for layer in layers]
    kept = [tensor for layer in layers for tensor in (*layer.gates, layer.cells)]
    hidden = (outs if head else outs[:-1]) if stack.keep else []
    return y, [state for pair in last for state in pair], [*kept, *hidden, read]


def _per_sequence(flags: Tensor, like: Tensor) -> Tensor:
    return flags.reshape(-1, *(1 for _ in like.shape[1:]))  # (B, 1, ...)


def _ends(lengths: Tensor, t: int, like: Tensor) -> Tensor:
    return _per_sequence(lengths == t + 1, like)


def backward(
    stack: Stack,
    input: Tensor,
    states: list[tuple[Tensor | None, Tensor | None]],
    read_given: Tensor | None,
    lengths: Tensor | None,
    y: Tensor,
    kept: list[Tensor],
    d_y: Tensor | None,
    d_last: list[Tensor | None],
    wanted: Sequence[int],
) -> tuple[Tensor | None, list[Tensor | None], list[Tensor | None], tuple[Tensor, Tensor] | None]:
    """Run back over a sequence.

    Args:
        stack: as for `forward`.
        input: as for `forward`.
        states: as for `forward`.
        read_given: as for `forward`.
        lengths: as for `forward`.
        y: the outputs that `forward` returned.
        kept: what `forward` kept.
        d_y: the gradient of the outputs, or None.
        d_last: the gradients of the last states, h and c of each layer, or None.
        wanted: 1 if the gradient of the input is needed, else 0; then the same for the parameters of each
            layer. Those of a layer that does not need them (a frozen one) are not computed: their values mean
            nothing.

    Returns:
        The gradients of the input; of the states, h and c of each layer; of the four parameters of each
        layer; and of the head's. None where there is no such tensor.
    """
    T, like, L = stack.steps, input[0], len(stack.layers)
    input_wanted, weights_wanted = bool(wanted[0]), wanted[1:]
    B, _, *S = like.shape
    recompute = stack.keep == Keep.STATES
    chunk = math.ceil(T / (20 if recompute else 8))  # steps whose gate gradients are in memory together
    slots = 0 if recompute else T
    gates = [kept[n * (slots + 1) : n * (slots + 1) + slots] for n in range(L)]
    cells = [kept[n * (slots + 1) + slots] for n in range(L)]
    hidden, read = kept[L * (slots + 1) : -1], kept[-1]
    outs, frames_read = (hidden, read) if stack.head else ([*hidden, y], input)
    h_rows = [rows_of_steps(out) for out in outs]
    first_h = [None if h is None else rows(channels_last(h)) for h, _ in states]
    first_c = [
        rows(empty_frames(B, w.cell_channels, *S, like=like).zero_() if c is None else channels_last(c))
        for w, (_, c) in zip(stack.layers, states, strict=True)
    ]
    first_c = [c.to(like.dtype) for c in first_c]
    again = [weights.forward(like, 1, True) for weights in stack.layers if recompute]
    c_rows = [rows_of_steps(cell) for cell in cells]
    d_h_last, d_c_last = d_last[::2], d_last[1::2]
    layers = [
        weights.backward(like, chunk, d_c if lengths is None else None)
        for weights, d_c in zip(stack.layers, d_c_last, strict=True)
    ]
    d_h = [None if d is None or lengths is not None else rows(channels_last(d)) for d in d_h_last]
    d_input = empty_frames(*input.shape, like=like) if input_wanted else None
    d_input_rows = () if d_input is None else rows_of_steps(d_input)
    head, y_rows = stack.make_head(), rows_of_steps(y)
    d_predictions = [like.new_empty(0)] * (T - stack.first)  # as rows
    d_read: Tensor | None = None  # gradient of what layer n read; between steps, of the next step's frame
    for begin in reversed(range(0, T, chunk)):
        end = min(begin + chunk, T)
        for t in reversed(range(begin, end)):
            # Per layer the parts whose sum is the gradient of its hidden state after step t.
            parts: list[list[Tensor]] = [[] if d is None else [d] for d in d_h]
            if head and t >= stack.first:
                y_here = y_rows[t - stack.first]
                d_own = None if d_y is None else rows(channels_last(d_y[t - stack.first].to(y.dtype)))
                if d_read is not None and t + 1 >= stack.given:
                    d_back = _where(stack, t + 1, read_given, torch.zeros_like(d_read), d_read)
                    d_back = head.next_frame_backward(y_here, d_back)
                    d_own = d_back if d_own is None else d_own + d_back
                d_predictions[t - stack.first] = torch.zeros_like(y_here) if d_own is None else d_own
                d_states = head.predict_backward(d_predictions[t - stack.first])
                for part, d_state in zip(parts, d_states, strict=True):
                    part.append(d_state)
            elif not head and d_y is not None:
                parts[-1].append(rows(channels_last(d_y[t])))
            if lengths is not None:
                _add_last(_ends(lengths, t, like), d_h_last, d_c_last, parts, layers)
            frame_wanted = t >= stack.given or input_wanted
            d_read = None
            for n in reversed(range(L)):
                if d_read is not None:
                    parts[n].append(d_read)
                c, h = (c_rows[n][t - 1], h_rows[n][t - 1]) if t else (first_c[n], first_h[n])
                if recompute:
                    again[n].start(None if h is None else frames_of(h, like), frames_of(c, like))
                    again[n].x.copy_((outs[n - 1] if n else frames_read)[t])
                    again[n].step(0)
                saved = rows(again[n].gates[0] if recompute else gates[n][t]), h, c, c_rows[n][t]
                d_read, d_h[n] = layers[n].step(t - begin, *saved, parts[n], n > 0 or frame_wanted)
            if d_read is not None and t < len(d_input_rows):
                d_input_rows[t].copy_(_where(stack, t, read_given, d_read, torch.zeros_like(d_read)))
        for n, layer in enumerate(layers):
            if not weights_wanted[n]:
                continue
            below = outs[n - 1] if n else frames_read
            h, h0 = outs[n][max(begin - 1, 0) : end - 1], states[n][0]
            h = torch.cat([h0[None], h]) if begin == 0 and h0 is not None else h
            layer.weights(end - begin, below[begin:end], h)
    d_head = None
    if head:
        states_read = [out[stack.first :].flatten(0, 1) for out in outs]
        d_head = head.gradients(torch.cat(d_predictions), states_read)
    d_states = [
        None if d is None or state is None else d
        for h, pair, layer in zip(d_h, states, layers, strict=True)
        for d, state in zip(layer.d_states(None if h is None else frames_of(h, like)), pair, strict=True)
    ]
    return d_input, d_states, [d for layer in layers for d in layer.gradients], d_head


def _where(stack: Stack, t: int, read_given: Tensor | None, given: Tensor, own: Tensor) -> Tensor:
    """Return `given` for sequences that read the input at step t, `own` for others; frames or rows."""
    if t < stack.given:
        return given
    if read_given is None:
        return own
    chosen = read_given[t - stack.given]
    if own.dim() == 2:
        chosen = chosen.repeat_interleave(len(own) // len(chosen))
    return torch.where(_per_sequence(chosen, own), given, own)


def _add_last(
    ends: Tensor,
    d_h_last: list[Tensor | None],
    d_c_last: list[Tensor | None],
    parts: list[list[Tensor]],
    layers: Sequence[LSTMBackward | GRUBackward],
) -> None:
    """Add the gradients of the last states for the sequences that end with this step."""
    for d_h, d_c, part, layer in zip(d_h_last, d_c_last, parts, layers, strict=True):
        if d_c is not None:
            layer.carried += torch.where(ends, d_c, 0)
        if d_h is not None:
            part.append(rows(channels_last(torch.where(ends, d_h, 0))))
