"""The fused ops as custom operators of torch: what autograd, torch.compile and the profiler see of them.

Letters: as in `convlstm.ops.passes`.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convlstm.ops import passes
from convlstm.ops.checks import Layer
from convlstm.ops.convolution import channels_last, empty_frames
from convlstm.ops.gru_before_tape import GRUBeforeWeights
from convlstm.ops.gru_tape import GRUWeights
from convlstm.ops.head import probabilities
from convlstm.ops.lstm_tape import LSTMWeights, wide_type
from convlstm.ops.passes import EVERYTHING, NOTHING, STATES, Stack

LAYERS = {"lstm": LSTMWeights, "gru": GRUWeights, "gru_before": GRUBeforeWeights}
PARAMETERS = 4  # of a layer: weight_ih, weight_hh, bias, and the LSTM's weight_ch or the GRU's bias_hn
OF_STATE = 2  # of a layer: h, c; the GRU's c is never given, and returned with no channels


class _Arguments:
    """The tensors of a call, which an operator takes in one list, sorted out.

    The list holds, of the following, those that are there: the input, the states of each layer, the
    parameters of each layer, weight and bias of the head. `present` has a 1 or 0 for each of them. `kind` is
    that of all layers, a key of LAYERS.
    """

    def __init__(self, kind: str, tensors: list[Tensor], present: list[int], numbers: list[int]):
        left = iter(tensors)
        everything = [next(left) if there else None for there in present]
        steps, keep, given, first, sigmoid = numbers
        L = (len(present) - 3) // (PARAMETERS + OF_STATE)
        input, states = everything[0], everything[1 : 1 + OF_STATE * L]
        assert input is not None
        parameters = everything[1 + OF_STATE * L : -2]
        self.input = input
        self.states = list(zip(states[::2], states[1::2], strict=True))
        layers = [
            LAYERS[kind](*parameters[n : n + PARAMETERS]) for n in range(0, len(parameters), PARAMETERS)
        ]
        weight, bias = everything[-2:]
        head = None if weight is None or bias is None else (weight, bias)
        self.stack = Stack(layers, steps, keep, given, head, bool(sigmoid), first)


@torch.library.custom_op("convlstm::stack", mutates_args=())
def _stack(
    kind: str,
    tensors: list[Tensor],
    present: list[int],
    numbers: list[int],
    read_given: Tensor | None,
    lengths: Tensor | None,
) -> list[Tensor]:
    call = _Arguments(kind, tensors, present, numbers)
    with torch.autocast(call.input.device.type, enabled=False):
        y, last, kept = passes.forward(call.stack, call.input, call.states, read_given, lengths)
    return [y, *last, *kept]


@_stack.register_fake
def _(kind, tensors, present, numbers, read_given, lengths):
    call = _Arguments(kind, tensors, present, numbers)
    stack, (_, B, I, *S) = call.stack, call.input.shape
    T, like, wide = stack.steps, call.input[0], wide_type(call.input)

    def frames(*shape, dtype=None):
        return empty_frames(*shape, *S, like=like, dtype=dtype)

    widths = [layer.channels for layer in stack.layers]
    gates, cells = T if stack.keep == EVERYTHING else 0, T if stack.keep else 0
    y = frames(T - stack.first, B, I) if stack.head else frames(T, B, widths[-1])
    last = [
        state
        for w in stack.layers
        for state in (frames(B, w.channels), frames(B, w.cell_channels, dtype=wide))
    ]
    kept = [
        k
        for w in stack.layers
        for k in (*(frames(B, w.kept_channels) for _ in range(gates)), frames(cells, B, w.cell_channels))
    ]
    hidden = (widths if stack.head else widths[:-1]) if stack.keep else []
    read = frames(T if stack.head and stack.keep else 0, B, I)
    return [y, *last, *kept, *(frames(T, B, C) for C in hidden), read]


@torch.library.custom_op("convlstm::stack_backward", mutates_args=())
def _stack_backward(
    kind: str,
    tensors: list[Tensor],
    present: list[int],
    numbers: list[int],
    read_given: Tensor | None,
    lengths: Tensor | None,
    outputs: list[Tensor],
    gradients: list[Tensor],
    given_gradients: list[int],
    wanted: list[int],
) -> list[Tensor]:
    call = _Arguments(kind, tensors, present, numbers)
    left = iter(gradients)
    d_y, *d_last = [next(left) if there else None for there in given_gradients]
    y, kept = outputs[0], outputs[1:]
    with torch.autocast(call.input.device.type, enabled=False):
        d_input, d_states, d_parameters, d_head = passes.backward(
            call.stack, call.input, call.states, read_given, lengths, y, kept, d_y, d_last, wanted
        )
    # Sums over time are made in a wider type than the parameters may have.
    results = [d_input] if d_input is not None else []
    results += [channels_last(d) for d in d_states if d is not None]
    parameters = tensors[len(tensors) - sum(present[1 + OF_STATE * len(call.states) :]) :]
    summed = [d for d in (*d_parameters, *(d_head or ())) if d is not None]
    return results + [d.to(p.dtype) for d, p in zip(summed, parameters, strict=True)]


@_stack_backward.register_fake
def _(kind, tensors, present, numbers, read_given, lengths, outputs, gradients, given_gradients, wanted):
    call = _Arguments(kind, tensors, present, numbers)
    results = [empty_frames(*call.input.shape, like=call.input[0])] if wanted[0] else []
    results += [empty_frames(*s.shape, like=s) for pair in call.states for s in pair if s is not None]
    parameters = tensors[len(tensors) - sum(present[1 + OF_STATE * len(call.states) :]) :]
    return results + [torch.empty_like(p, memory_format=torch.contiguous_format) for p in parameters]


def _save(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    kind, tensors, present, numbers, read_given, lengths = inputs
    L = (len(present) - 3) // (PARAMETERS + OF_STATE)
    ctx.kind, ctx.present, ctx.numbers, ctx.last = kind, present, numbers, OF_STATE * L
    ctx.count = len(tensors)
    # The last states are not needed.
    ctx.save_for_backward(*tensors, read_given, lengths, output[0], *output[1 + OF_STATE * L :])
    ctx.set_materialize_grads(False)


def _wanted(needed: Sequence[bool], present: list[int]) -> list[int]:
    """Whether the gradient of the input is needed, and for each layer one of its parameters'."""
    left = iter(needed)
    everything = [bool(there) and next(left) for there in present]
    L = (len(present) - 3) // (PARAMETERS + OF_STATE)
    parameters = everything[1 + OF_STATE * L : -2]
    layers = [any(parameters[n : n + PARAMETERS]) for n in range(0, len(parameters), PARAMETERS)]
    return [int(flag) for flag in (everything[0], *layers)]


def _backward(ctx: Any, gradients: list[Tensor | None]) -> tuple[Any, ...]:
    saved = ctx.saved_tensors  # looked at once: under activation checkpointing they are made anew for it
    tensors, (read_given, lengths, *outputs) = list(saved[: ctx.count]), saved[ctx.count :]
    used = gradients[: 1 + ctx.last]
    wanted = _wanted(ctx.needs_input_grad[1], ctx.present)
    results = _stack_backward(
        ctx.kind,
        tensors,
        ctx.present,
        ctx.numbers,
        read_given,
        lengths,
        outputs,
        [gradient for gradient in used if gradient is not None],
        [int(gradient is not None) for gradient in used],
        wanted,
    )
    return None, results if wanted[0] else [None, *results], None, None, None, None


_stack.register_autograd(_backward, setup_context=_save)


def _no_second_derivatives(ctx: Any, *_: Any) -> None:
    raise NotImplementedError(
        "the fused ops have no second derivatives; call with implementation='reference', or set the "
        "environment variable CONVLSTM_OPS=reference"
    )


_stack_backward.register_autograd(_no_second_derivatives)


def sequence(
    kind: str,
    input: Tensor,
    states: Sequence[tuple[Tensor | None, Tensor | None]],
    layers: Sequence[Layer],
    lengths: Tensor | None,
    *,
    dtype: torch.dtype,
    recompute: bool,
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Run a stack of layers of a kind over a sequence, as `convlstm.ops.reference` runs each of them.

    Args:
        kind: "lstm", "gru" or "gru_before".
        input: (T, B, I, *S).
        states: per layer h and c (B, C, *S), None for zeros.
        layers: per layer its parameters.
        lengths: (B,) int64 on the input's device, or None.
        dtype: to compute in.
        recompute: keep little for the backward pass.

    Returns:
        The last layer's outputs (T, B, C, *S), and the last h and c of each layer; a GRU's c has no channels.
    """
    if input.dim() == 4:  # one spatial axis is two, of which the first is one pixel
        y, last = sequence(
            kind,
            input.unsqueeze(-2),
            [(_row(h), _row(c)) for h, c in states],
            [(_row(ih), hh.unsqueeze(-2), bias, _row(more)) for ih, hh, bias, more in layers],
            lengths,
            dtype=dtype,
            recompute=recompute,
        )
        return y.squeeze(-2), [(h.squeeze(-2), c.squeeze(-2)) for h, c in last]
    wide = torch.promote_types(dtype, torch.float32)
    first = [state for h, c in states for state in (_to(h, dtype), _to(c, wide))]
    everything = [input.to(dtype), *first, *_parameters(kind, layers, dtype), None, None]
    T = len(input)
    y, *last = run(kind, everything, [T, keep_of(everything, recompute), T, 0, 0], None, lengths)
    return y, list(zip(last[::2], last[1::2], strict=True))


def forecast(
    kind: str,
    input: Tensor,
    layers: Sequence[Layer],
    head: tuple[Tensor, Tensor],
    read_given: Tensor | None,
    *,
    dtype: torch.dtype,
    given: int,
    steps: int,
    first: int,
    sigmoid: bool,
    recompute: bool,
) -> Tensor:
    """Run a stack of layers of a kind that predicts its next input; see `convlstm.ops.forecast`."""
    weight, bias = (tensor.to(dtype) for tensor in head)
    none = [None] * (OF_STATE * len(layers))
    everything = [input.to(dtype), *none, *_parameters(kind, layers, dtype), weight.flatten(1), bias]
    numbers = [steps, keep_of(everything, recompute), given, first, int(sigmoid)]
    y = run(kind, everything, numbers, read_given, None)[0]
    return probabilities(y) if sigmoid else y


def _parameters(kind: str, layers: Sequence[Layer], dtype: torch.dtype) -> list[Tensor | None]:
    """All layers' parameters, in the types and with the kernels that the operator takes."""
    last = (
        torch.promote_types(dtype, torch.float32) if kind == "lstm" else dtype
    )  # peepholes meet the cell state
    return [
        parameter
        for ih, hh, bias, more in layers
        for parameter in (odd(_to(ih, dtype)), odd(hh.to(dtype)), _to(bias, dtype), _to(more, last))
    ]


def _to(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.to(dtype)


def _row(tensor: Tensor | None) -> Tensor | None:
    """Frames of one axis as frames of one row; a bias stays as it is."""
    return tensor if tensor is None or tensor.dim() == 1 else tensor.unsqueeze(-2)


def odd(weight: Tensor | None) -> Tensor | None:
    """A weight (O, I, *K) with a tap of zeros before the others along axes where their number is even.

    Padded alike on both sides, it convolves as the even kernel does that is padded by one more at the end.
    """
    if weight is None or all(k % 2 for k in weight.shape[2:]):
        return weight
    return F.pad(weight, [side for k in reversed(weight.shape[2:]) for side in (1 - k % 2, 0)])


def keep_of(tensors: list[Tensor | None], recompute: bool) -> int:
    """What a call must keep for its backward pass."""
    if not (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)):
        return NOTHING
    return STATES if recompute else EVERYTHING


def run(
    kind: str,
    tensors: list[Tensor | None],
    numbers: list[int],
    read_given: Tensor | None,
    lengths: Tensor | None,
) -> list[Tensor]:
    """Call the operator; return the outputs, and h and c of each layer."""
    present = [int(tensor is not None) for tensor in tensors]
    L = (len(present) - 3) // (PARAMETERS + OF_STATE)
    given = [tensor for tensor in tensors if tensor is not None]
    return _stack(kind, given, present, numbers, read_given, lengths)[: 1 + OF_STATE * L]
