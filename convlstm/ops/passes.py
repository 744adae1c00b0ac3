"""A stack of LSTM or GRU layers over a sequence, forward and back: one loop over time each, all layers in it.

Letters: T time, B batch, I input channels, C hidden channels, L layers, S two or three spatial axes.

With a head the stack predicts its next input, and can read its own prediction in place of it:

    y_t = sum over layers of W_l h_(l,t) + b
    x_t = given_t            for t < given, or where read_given says so
    x_t = output(y_(t-1))    elsewhere

What makes it fast: input and hidden state are convolved together, from a buffer that stays in the cache and
into which the pointwise kernels write; those pass over memory once; a weight's gradient is one convolution
for many time steps; a hidden state of zeros is not convolved. Kept for the backward pass are, per layer, the
outputs, the cell states and the activated gates, 6 C numbers per step and pixel of an LSTM; or outputs and
cell states alone, 2 C, and the gates are computed anew, a step at a time. A GRU's cell state has no channels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convlstm.ops.convolution import channels_last, empty_frames
from convlstm.ops.gru_before_tape import GRUBeforeBackward, GRUBeforeWeights
from convlstm.ops.gru_tape import GRUBackward, GRUWeights
from convlstm.ops.head import Head
from convlstm.ops.kernels import frames, rows, rows_of_steps
from convlstm.ops.lstm_tape import LSTMBackward, LSTMWeights

NOTHING, EVERYTHING, STATES = 0, 1, 2
"""What the forward pass keeps for the backward pass."""


def chunk_length(steps: int, keep: int) -> int:
    """Time steps whose gate gradients are held at a time: a small part of what is kept."""
    return math.ceil(steps / (8 if keep == EVERYTHING else 20))


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
    """Whether a sigmoid follows the head, before what it gives is read."""
    first: int = 0
    """The step from which on there are predictions."""

    def make_head(self) -> Head | None:
        """Return the head, if there is one."""
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
        input: (T, B, I, *S), or (given, B, I, *S) where no more is read.
        states: per layer h and c (B, C, *S), None for zeros.
        read_given: bool (T - given, B), where the given frame is read and not the prediction; None: nowhere.
        lengths: (B,) steps after which the last states are taken; None: T for all.

    Returns:
        The outputs, (T, B, C, *S) of the last layer, or (T - first, B, I, *S) of the head, before the
        sigmoid; the last states, h and c of each layer; and what is kept: per layer the gates of each step
        and the cells, then the layers' outputs (but the last layer's where they are the result), and with a
        head the frames that were read.
    """
    T, (B, I, *S), like = stack.steps, input.shape[1:], input[0]
    slots, keep_gates = T if stack.keep else 0, stack.keep == EVERYTHING
    layers = [weights.forward(like, slots, keep_gates) for weights in stack.layers]
    for layer, state in zip(layers, states, strict=True):
        layer.start(*state)
    head = stack.make_head()
    outs = [  # without a backward pass the result alone is needed for longer than a step
        empty_frames(
            T if stack.keep or (not head and n == len(layers) - 1) else 0, B, w.channels, *S, like=like
        )
        for n, w in enumerate(stack.layers)
    ]
    # Where a layer's hidden state goes, as rows: what holds it for good, the layer above, the head.
    kept_h = [rows_of_steps(out) for out in outs]
    above = [rows(layer.x) for layer in layers[1:]]
    to_head = head.places(like) if head else []
    y = empty_frames(T - stack.first, B, I, *S, like=like) if head else outs[-1]
    read = empty_frames(T if head and stack.keep else 0, B, I, *S, like=like)
    # Zeros for a length that no step has: nothing looks at the lengths of a graph that is traced.
    last = [(torch.zeros_like(layer.h), torch.zeros_like(layer.c)) for layer in layers if lengths is not None]
    for t in range(T):
        if t < stack.given or not head:
            frame = input[t]
        else:
            own = head.to_read(y[t - 1 - stack.first])
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
        stack: as for `forward`, as are input, states, read_given and lengths.
        input: see stack.
        states: see stack.
        read_given: see stack.
        lengths: see stack.
        y: the outputs that `forward` returned.
        kept: what it kept.
        d_y: the gradient of the outputs, or None.
        d_last: the gradients of the last states, h and c of each layer, None where there is none.
        wanted: whether the gradient of the input is wanted, then for each layer whether its parameters' are;
            those of a layer where they are not, as of a frozen one, mean nothing and take no time.

    Returns:
        The gradients of the input; of the states, h and c of each layer; of the layers' parameters, four of
        each; and of the head's. None where there is nothing.
    """
    T, like, L = stack.steps, input[0], len(stack.layers)
    to_input, to_weights = bool(wanted[0]), wanted[1:]
    B, _, *S = like.shape
    chunk, again = chunk_length(T, stack.keep), stack.keep == STATES
    slots = 0 if again else T
    gates = [kept[n * (slots + 1) : n * (slots + 1) + slots] for n in range(L)]
    cells = [kept[n * (slots + 1) + slots] for n in range(L)]
    hidden, read = kept[L * (slots + 1) : -1], kept[-1]
    outs, fed = (hidden, read) if stack.head else ([*hidden, y], input)
    h_rows = [rows_of_steps(out) for out in outs]
    first_h = [None if h is None else rows(channels_last(h)) for h, _ in states]
    first_c = [
        rows(empty_frames(B, w.cell_channels, *S, like=like).zero_() if c is None else channels_last(c))
        for w, (_, c) in zip(stack.layers, states, strict=True)
    ]
    first_c = [c.to(like.dtype) for c in first_c]
    recompute = [weights.forward(like, 1, True) for weights in stack.layers if again]
    c_rows = [rows_of_steps(cell) for cell in cells]
    d_h_last, d_c_last = d_last[::2], d_last[1::2]
    layers = [
        weights.backward(like, chunk, d_c if lengths is None else None)
        for weights, d_c in zip(stack.layers, d_c_last, strict=True)
    ]
    d_h = [None if d is None or lengths is not None else rows(channels_last(d)) for d in d_h_last]
    d_input = empty_frames(*input.shape, like=like) if to_input else None
    d_input_rows = () if d_input is None else rows_of_steps(d_input)
    head, y_rows = stack.make_head(), rows_of_steps(y)
    d_rows = [like.new_empty(0)] * (T - stack.first)  # the gradients of what the head gave
    d_read: Tensor | None = None  # the gradient of the frame that the step after read
    for begin in reversed(range(0, T, chunk)):
        end = min(begin + chunk, T)
        for t in reversed(range(begin, end)):
            parts: list[list[Tensor]] = [[] if d is None else [d] for d in d_h]
            if head and t >= stack.first:
                y_here = y_rows[t - stack.first]
                d_own = None if d_y is None else rows(channels_last(d_y[t - stack.first].to(y.dtype)))
                if d_read is not None and t + 1 >= stack.given:
                    d_back = _where(stack, t + 1, read_given, torch.zeros_like(d_read), d_read)
                    d_back = head.back_from_read(y_here, d_back)
                    d_own = d_back if d_own is None else d_own + d_back
                d_rows[t - stack.first] = torch.zeros_like(y_here) if d_own is None else d_own
                d_states = head.back(d_rows[t - stack.first])
                for part, d_state in zip(parts, d_states, strict=True):
                    part.append(d_state)
            elif not head and d_y is not None:
                parts[-1].append(rows(channels_last(d_y[t])))
            if lengths is not None:
                _add_last(_ends(lengths, t, like), d_h_last, d_c_last, parts, layers)
            to_x = t >= stack.given or to_input
            d_read = None
            for n in reversed(range(L)):
                if d_read is not None:
                    parts[n].append(d_read)
                c, h = (c_rows[n][t - 1], h_rows[n][t - 1]) if t else (first_c[n], first_h[n])
                if again:
                    recompute[n].start(None if h is None else frames(h, like), frames(c, like))
                    recompute[n].x.copy_((outs[n - 1] if n else fed)[t])
                    recompute[n].step(0)
                kept_here = rows(recompute[n].gates[0] if again else gates[n][t]), h, c, c_rows[n][t]
                d_read, d_h[n] = layers[n].step(t - begin, *kept_here, parts[n], n > 0 or to_x)
            if d_read is not None and t < len(d_input_rows):
                d_input_rows[t].copy_(_where(stack, t, read_given, d_read, torch.zeros_like(d_read)))
        for n, layer in enumerate(layers):
            if not to_weights[n]:
                continue
            below = outs[n - 1] if n else fed
            h, h0 = outs[n][max(begin - 1, 0) : end - 1], states[n][0]
            h = torch.cat([h0[None], h]) if begin == 0 and h0 is not None else h
            layer.weights(end - begin, below[begin:end], h)
    d_head = None
    if head:
        states_read = [out[stack.first :].flatten(0, 1) for out in outs]
        d_head = head.gradients(torch.cat(d_rows), states_read)
    d_states = [
        None if d is None or state is None else d
        for h, pair, layer in zip(d_h, states, layers, strict=True)
        for d, state in zip(layer.d_states(None if h is None else frames(h, like)), pair, strict=True)
    ]
    return d_input, d_states, [d for layer in layers for d in layer.gradients], d_head


def _where(stack: Stack, t: int, read_given: Tensor | None, given: Tensor, own: Tensor) -> Tensor:
    """`given` for the sequences whose step t reads the given frame, `own` for the others; frames or rows."""
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
    layers: Sequence[LSTMBackward | GRUBackward | GRUBeforeBackward],
) -> None:
    """Add the gradients of the last states, for the sequences that end with this step."""
    for d_h, d_c, part, layer in zip(d_h_last, d_c_last, parts, layers, strict=True):
        if d_c is not None:
            layer.carried += torch.where(ends, d_c, 0)
        if d_h is not None:
            part.append(rows(channels_last(torch.where(ends, d_h, 0))))
