"""A stack of LSTM or GRU layers over a sequence, forward and back: one loop over time each, all layers in it.

Letters: T time, B batch, I input channels, C hidden channels, L layers, S two or three spatial axes.

With a head the stack predicts its next input, and can read its own prediction in place of it:

    y_t = output(sum over layers of W_l h_(l,t) + b)
    x_t = given_t        for t < given, or where read_given says so
    x_t = y_(t-1)        elsewhere

What makes it fast: input and hidden state are convolved together, from a buffer that stays in the cache and
into which the pointwise kernels write; those pass over memory once; a weight's gradient is one convolution
for many time steps; a hidden state of zeros is not convolved. Kept for the backward pass are, per layer, the
outputs, the activated gates and the cell states, 6 C numbers per step and pixel of an LSTM; with checkpoints,
only the outputs and a few cell states, and the rest is computed anew, a chunk of time at a time. A GRU's
cell state has no channels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convlstm.ops.convolution import channels_last, empty_frames
from convlstm.ops.gru_before_tape import GRUBeforeBackward, GRUBeforeWeights
from convlstm.ops.gru_tape import GRUBackward, GRUWeights
from convlstm.ops.kernels import rows
from convlstm.ops.lstm_tape import LSTMBackward, LSTMWeights, wide_type

NOTHING, EVERYTHING, CHECKPOINTS = 0, 1, 2
"""What the forward pass keeps for the backward pass."""


def chunk_length(steps: int, keep: int) -> int:
    """Time steps whose gate gradients (with checkpoints also gates) are held at a time."""
    return math.ceil(math.sqrt(steps / 5) if keep == CHECKPOINTS else steps / 8)


@dataclass
class Stack:
    """What a stack computes, but its numbers."""

    layers: Sequence[LSTMWeights | GRUWeights | GRUBeforeWeights]
    steps: int
    """T, time steps."""
    keep: int
    given: int
    """Frames that are read whatever `read_given` says, from the first on: T without feedback."""
    head: tuple[Tensor, Tensor] | None = None
    """Weight (I, C_1 + ... + C_L) and bias (I,) of the head, or None for none."""
    sigmoid: bool = False
    """Whether a sigmoid follows the head."""
    first: int = 0
    """The step from which on there are predictions."""


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
        input: (T, B, I, *S), or (given, B, I, *S) where no more is read.
        states: per layer h and c (B, C, *S), None for zeros.
        read_given: bool (T - given, B), where the given frame is read and not the prediction; None: nowhere.
        lengths: (B,) steps after which the last states are taken; None: T for all.

    Returns:
        The outputs, (T, B, C, *S) of the last layer, or (T - first, B, I, *S) of the head; the last states, h
        and c of each layer; and what is kept: per layer gates, cells and outputs (but the last layer's
        where they are the result), and with a head the frames that were read.
    """
    T, (B, I, *S), like = stack.steps, input.shape[1:], input[0]
    chunk, everything = chunk_length(T, stack.keep), stack.keep == EVERYTHING
    layers = [weights.forward(like, T if everything else 0) for weights in stack.layers]
    for layer, state in zip(layers, states, strict=True):
        layer.start(*state)
    head = Head(stack) if stack.head else None
    places = head.places(like) if head else []  # where it reads the states, of one step each
    # Without a backward pass, the outputs of a step are needed at that step alone, but for the result.
    needed = [T if stack.keep else 0] * (len(layers) - 1) + [T if stack.keep or not head else 0]
    outs = [
        empty_frames(steps, B, w.channels, *S, like=like)
        for steps, w in zip(needed, stack.layers, strict=True)
    ]
    starts = [
        empty_frames(math.ceil(T / chunk) if stack.keep == CHECKPOINTS else 0, *layer.c.shape, like=layer.c)
        for layer in layers
    ]
    y = empty_frames(T - stack.first, B, I, *S, like=like) if head else outs[-1]
    read = empty_frames(T if head and stack.keep else 0, B, I, *S, like=like)
    last = [(torch.empty_like(layer.h), torch.empty_like(layer.c)) for layer in layers]
    for t in range(T):
        for layer, start in zip(layers, starts, strict=True):
            if len(start) and t % chunk == 0:
                start[t // chunk].copy_(layer.c)
        frame = input[t] if t < len(input) else y[t - 1 - stack.first]
        if t >= stack.given:
            frame = _where(stack, t, read_given, frame, y[t - 1 - stack.first])
        layers[0].x.copy_(frame)
        if len(read):
            read[t].copy_(frame)
        for n, layer in enumerate(layers):
            above = [upper.x for upper in layers[n + 1 : n + 2]]
            out = [outs[n][t]] if len(outs[n]) else []
            layer.step(t if everything else None, *out, *above, *places[n : n + 1])
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
    kept = [
        tensor
        for n, layer in enumerate(layers)
        for tensor in (layer.gates, layer.cells if everything else starts[n])
    ]
    hidden = (outs if head else outs[:-1]) if stack.keep else []
    return y, [state for pair in last for state in pair], [*kept, *hidden, read]


def _per_sequence(flags: Tensor, like: Tensor) -> Tensor:
    return flags.reshape(-1, *(1 for _ in like.shape[1:]))  # (B, 1, ...)


def _ends(lengths: Tensor, t: int, like: Tensor) -> Tensor:
    return _per_sequence(lengths == t + 1, like)


class Head:
    """The 1x1 convolution of all layers' states, as products of rows; and its gradients."""

    def __init__(self, stack: Stack):
        assert stack.head is not None
        self._weight, self._bias = stack.head
        self._widths = [layer.channels for layer in stack.layers]
        self._sigmoid = stack.sigmoid

    def places(self, like: Tensor) -> list[Tensor]:
        """Return (B, C, *S) of each layer, where `predict` reads its state."""
        B, _, *S = like.shape
        self._states = empty_frames(B, sum(self._widths), *S, like=like)
        return list(self._states.split(self._widths, dim=1))

    def predict(self, y: Tensor) -> None:
        """Write the prediction (B, I, *S) of the states in `places`."""
        result = torch.addmm(self._bias, rows(self._states), self._weight.t(), out=rows(y))
        if self._sigmoid:
            result.sigmoid_()

    def back(self, y: Tensor, d_y: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the gradients before the output function, rows (B P, I), and of the states (B, C, *S)."""
        d_rows = rows(d_y)
        if self._sigmoid:
            values = rows(y)
            d_rows = torch.ops.aten.sigmoid_backward(d_rows, values)
        B, _, *S = y.shape
        d_states = torch.mm(d_rows, self._weight).view(B, *S, -1).movedim(-1, 1)
        return d_rows, list(d_states.split(self._widths, dim=1))

    def gradients(self, d_rows: Tensor, states: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Of weight and bias, from the rows (N P, I) and the states (N, C, *S) of many steps."""
        d_weight = [torch.mm(d_rows.t(), rows(state)) for state in states]
        return torch.cat(d_weight, dim=1), d_rows.sum(0, dtype=wide_type(d_rows))


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
    to_input: bool,
) -> tuple[Tensor | None, list[Tensor | None], list[Tensor | None], tuple[Tensor, Tensor] | None]:
    """Run back over a sequence.

    Args:
        stack: as for `forward`, as are input, states, read_given and lengths.
        input: see stack.
        states: see stack.
        read_given: see stack.
        lengths: see stack.
        y: the outputs that `forward` returned.
        kept: what it kept.
        d_y: the gradient of the outputs, or None.
        d_last: the gradients of the last states, h and c of each layer, None where there is none.
        to_input: whether the gradient of the input is wanted.

    Returns:
        The gradients of the input; of the states, h and c of each layer; of the layers' parameters, four of
        each; and of the head's. None where there is nothing.
    """
    T, like, L = stack.steps, input[0], len(stack.layers)
    chunk, again = chunk_length(T, stack.keep), stack.keep == CHECKPOINTS
    gates, cells, hidden, read = kept[0 : 2 * L : 2], kept[1 : 2 * L : 2], kept[2 * L : -1], kept[-1]
    outs, fed = (hidden, read) if stack.head else ([*hidden, y], input)
    first_h = [None if h is None else channels_last(h) for h, _ in states]
    first_c = [
        torch.zeros_like(out[0][:, : w.cell_channels]) if c is None else channels_last(c.to(out.dtype))
        for out, w, (_, c) in zip(outs, stack.layers, states, strict=True)
    ]
    starts, recompute = cells, [weights.forward(like, chunk) for weights in stack.layers if again]
    if again:
        gates, cells = [layer.gates for layer in recompute], [layer.cells for layer in recompute]
    d_h_last, d_c_last = d_last[::2], d_last[1::2]
    layers = [
        weights.backward(like, chunk, d_c if lengths is None else None)
        for weights, d_c in zip(stack.layers, d_c_last, strict=True)
    ]
    d_h = [None if d is None or lengths is not None else channels_last(d) for d in d_h_last]
    d_input = empty_frames(*input.shape, like=like) if to_input else None
    head = Head(stack) if stack.head else None
    d_rows = [like.new_empty(0)] * (T - stack.first)  # the gradients before the output function
    d_read: Tensor | None = None  # the gradient of the frame that the step after read
    for begin in reversed(range(0, T, chunk)):
        end = min(begin + chunk, T)
        before = [
            out[begin - 1 : begin] if begin else (out[:0] if h0 is None else h0[None])
            for out, (h0, _) in zip(outs, states, strict=True)
        ]  # (1 or 0, B, C, *S)
        if again:
            first_c = [start[begin // chunk].to(like.dtype) for start in starts]
            for layer, h, start in zip(recompute, before, starts, strict=True):
                layer.start(h[0] if len(h) else None, start[begin // chunk])
            for t in range(begin, end):
                recompute[0].x.copy_(fed[t])
                for n, layer in enumerate(recompute):
                    layer.step(t - begin, *[above.x for above in recompute[n + 1 : n + 2]])
        base = begin if again else 0  # the step of the first gates and cells
        for t in reversed(range(begin, end)):
            parts: list[list[Tensor]] = [[] if d is None else [d] for d in d_h]
            if head and t >= stack.first:
                d_own = None if d_y is None else d_y[t - stack.first]
                if d_read is not None and t + 1 >= stack.given:
                    d_back = _where(stack, t + 1, read_given, torch.zeros_like(d_read), d_read)
                    d_own = d_back if d_own is None else d_own + d_back
                d_own = torch.zeros_like(y[0]) if d_own is None else channels_last(d_own.to(y.dtype))
                d_rows[t - stack.first], d_states = head.back(y[t - stack.first], d_own)
                for part, d_state in zip(parts, d_states, strict=True):
                    part.append(d_state)
            elif not head and d_y is not None:
                parts[-1].append(channels_last(d_y[t]))
            if lengths is not None:
                _add_last(_ends(lengths, t, like), d_h_last, d_c_last, parts, layers)
            to_x = t >= stack.given or to_input
            d_read = None
            for n in reversed(range(L)):
                if d_read is not None:
                    parts[n].append(d_read)
                c = cells[n][t - base - 1] if t > base else first_c[n]
                h, at = outs[n][t - 1] if t else first_h[n], t - base
                kept_here = gates[n][at], h, c, cells[n][at]
                d_read, d_h[n] = layers[n].step(t - begin, *kept_here, parts[n], n > 0 or to_x)
            if d_input is not None and d_read is not None and t < len(input):
                d_input[t] = _where(stack, t, read_given, d_read, torch.zeros_like(d_read))
        for n, layer in enumerate(layers):
            below = outs[n - 1] if n else fed
            h = outs[n][begin - 1 : end - 1] if begin else torch.cat([before[n], outs[n][: end - 1]])
            layer.weights(end - begin, below[begin:end], h)
    d_head = None
    if head:
        states_read = [out[stack.first :].flatten(0, 1) for out in outs]
        d_head = head.gradients(torch.cat(d_rows), states_read)
    d_states = [
        d if state is not None else None
        for h, pair, layer in zip(d_h, states, layers, strict=True)
        for d, state in zip(layer.d_states(h), pair, strict=True)
    ]
    return d_input, d_states, [d for layer in layers for d in layer.gradients], d_head


def _where(stack: Stack, t: int, read_given: Tensor | None, given: Tensor, own: Tensor) -> Tensor:
    """`given` for the sequences whose step t reads the given frame, `own` for the others."""
    if t < stack.given:
        return given
    if read_given is None:
        return own
    return torch.where(_per_sequence(read_given[t - stack.given], own), given, own)


def _add_last(
    ends: Tensor,
    d_h_last: list[Tensor | None],
    d_c_last: list[Tensor | None],
    parts: list[list[Tensor]],
    layers: Sequence[LSTMBackward | GRUBackward | GRUBeforeBackward],
) -> None:
    """Add the gradients of the last states, for the sequences that end with this step."""
    for d_h, d_c, part, layer in zip(d_h_last, d_c_last, parts, layers, strict=True):
        if d_c is not None:
            layer.carried += torch.where(ends, d_c, 0)
        if d_h is not None:
            part.append(channels_last(torch.where(ends, d_h, 0)))
