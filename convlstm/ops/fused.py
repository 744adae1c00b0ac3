"""The fused op as a custom operator of torch: one node for autograd, torch.compile and the profiler.

It runs a stack of layers, with or without a head, by the loops in `convlstm.ops.fused_loop`.

Letters: T time, B batch, I input channels, C hidden channels, L layers, S two or three spatial axes.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convlstm.ops import fused_loop
from convlstm.ops.checks import Layer
from convlstm.ops.functional import probabilities
from convlstm.ops.fused_gru import GRUWeights
from convlstm.ops.fused_loop import Keep, Stack
from convlstm.ops.fused_lstm import LSTMWeights
from convlstm.ops.layout import channels_last, empty_frames, wide_type

WEIGHTS = {"lstm": LSTMWeights, "gru": GRUWeights}
PARAMETERS = 4  # of a layer: weight_ih, weight_hh, bias, and the LSTM's weight_ch or the GRU's bias_hn
STATES = 2  # of a layer: h and c; a GRU's c is None when given and has no channels when returned


def _layer_count(present: Sequence[int]) -> int:
    return (len(present) - 3) // (STATES + PARAMETERS)


class _Arguments:
    """The arguments of a call, unpacked from the flat lists that a custom operator takes.

    Args:
        kind: of all layers, "lstm" or "gru".
        tensors: those that are not None among the input, the states of each layer, the parameters of each
            layer, and weight and bias of the head.
        present: for each of them 1 if it is among the tensors and 0 if it is None.
        numbers: steps, keep, given, first and sigmoid of `Stack`.
    """

    def __init__(self, kind: str, tensors: list[Tensor], present: list[int], numbers: list[int]):
        remaining = iter(tensors)
        input, *rest = [next(remaining) if there else None for there in present]
        assert input is not None
        split = STATES * _layer_count(present)
        states, parameters, (weight, bias) = rest[:split], rest[split:-2], rest[-2:]
        self.input = input
        self.states = list(zip(states[::2], states[1::2], strict=True))
        self.parameters = [tensor for tensor in rest[split:] if tensor is not None]
        """Those that are not None, of the layers and the head."""
        steps, keep, given, first, sigmoid = numbers
        starts = range(0, len(parameters), PARAMETERS)
        layers = [WEIGHTS[kind](*parameters[n : n + PARAMETERS]) for n in starts]
        head = None if weight is None or bias is None else (weight, bias)
        self.stack = Stack(layers, steps, keep, given, head, bool(sigmoid), first)


@torch.library.custom_op(
    "convlstm::stack",
    mutates_args=(),
    # torch 2.6 reads no schema off annotations such as list[Tensor].
    schema="(str kind, Tensor[] tensors, SymInt[] present, SymInt[] numbers, Tensor? read_given, "
    "Tensor? lengths) -> Tensor[]",
)
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
        y, last, kept = fused_loop.forward(call.stack, call.input, call.states, read_given, lengths)
    return [y, *last, *kept]


@_stack.register_fake
def _(kind, tensors, present, numbers, read_given, lengths):
    call = _Arguments(kind, tensors, present, numbers)
    stack, (_, B, I, *S) = call.stack, call.input.shape
    T, like, wide = stack.steps, call.input[0], wide_type(call.input)

    def frames(*shape, dtype=None):
        return empty_frames(*shape, *S, like=like, dtype=dtype)

    widths = [layer.channels for layer in stack.layers]
    gates, cells = T if stack.keep == Keep.GATES else 0, T if stack.keep else 0
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


@torch.library.custom_op(
    "convlstm::stack_backward",
    mutates_args=(),
    schema="(str kind, Tensor[] tensors, SymInt[] present, SymInt[] numbers, Tensor? read_given, "
    "Tensor? lengths, Tensor[] outputs, Tensor[] gradients, SymInt[] given_gradients, SymInt[] wanted) "
    "-> Tensor[]",
)
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
    remaining = iter(gradients)
    d_y, *d_last = [next(remaining) if there else None for there in given_gradients]
    y, kept = outputs[0], outputs[1:]
    with torch.autocast(call.input.device.type, enabled=False):
        d_input, d_states, d_parameters, d_head = fused_loop.backward(
            call.stack, call.input, call.states, read_given, lengths, y, kept, d_y, d_last, wanted
        )
    results = [d_input] if d_input is not None else []
    results += [channels_last(d) for d in d_states if d is not None]
    summed = [d for d in (*d_parameters, *(d_head or ())) if d is not None]
    # The sums over time may be in a wider type than the parameters.
    return results + [d.to(p.dtype) for d, p in zip(summed, call.parameters, strict=True)]


@_stack_backward.register_fake
def _(kind, tensors, present, numbers, read_given, lengths, outputs, gradients, given_gradients, wanted):
    call = _Arguments(kind, tensors, present, numbers)
    results = [empty_frames(*call.input.shape, like=call.input[0])] if wanted[0] else []
    results += [empty_frames(*s.shape, like=s) for pair in call.states for s in pair if s is not None]
    return results + [torch.empty_like(p, memory_format=torch.contiguous_format) for p in call.parameters]


def _save(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    kind, tensors, present, numbers, read_given, lengths = inputs
    ctx.kind, ctx.present, ctx.numbers, ctx.count = kind, present, numbers, len(tensors)
    kept = output[1 + STATES * _layer_count(present) :]  # after the outputs and the last states
    ctx.save_for_backward(*tensors, read_given, lengths, output[0], *kept)
    ctx.set_materialize_grads(False)


def _wanted(needed: Sequence[bool], present: list[int]) -> list[int]:
    """Return 1 where a gradient is needed, else 0: of the input, then of any parameter of each layer."""
    remaining = iter(needed)
    flags = [bool(there) and next(remaining) for there in present]
    parameters = flags[1 + STATES * _layer_count(present) : -2]
    layers = [any(parameters[n : n + PARAMETERS]) for n in range(0, len(parameters), PARAMETERS)]
    return [int(flag) for flag in (flags[0], *layers)]


def _backward(ctx: Any, gradients: list[Tensor | None]) -> tuple[Any, ...]:
    saved = ctx.saved_tensors  # read once: activation checkpointing recomputes them at each read
    tensors, (read_given, lengths, *outputs) = list(saved[: ctx.count]), saved[ctx.count :]
    used = gradients[: 1 + STATES * _layer_count(ctx.present)]
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
        "the fused op has no second derivatives; set the environment variable CONVLSTM_OPS=reference"
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
    """Run a stack of layers over a sequence in the given type; see `convlstm.ops.stack`."""
    if input.dim() == 4:  # one spatial axis is two, of which the first is one pixel
        y, last = sequence(
            kind,
            input.unsqueeze(-2),
            [(_row(h), _row(c)) for h, c in states],
            [(_row(ih), hh.unsqueeze(-2), bias, _row(last)) for ih, hh, bias, last in layers],
            lengths,
            dtype=dtype,
            recompute=recompute,
        )
        return y.squeeze(-2), [(h.squeeze(-2), c.squeeze(-2)) for h, c in last]
    wide = torch.promote_types(dtype, torch.float32)
    first = [state for h, c in states for state in (_to(h, dtype), _to(c, wide))]
    tensors = [input.to(dtype), *first, *_parameters(kind, layers, dtype), None, None]
    T = len(input)
    y, *last = _run(kind, tensors, [T, _keep(tensors, recompute), T, 0, 0], None, lengths)
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
    """Run a stack of layers that predicts its next input, in the given type; see `convlstm.ops.forecast`."""
    weight, bias = (tensor.to(dtype) for tensor in head)
    states = [None] * (STATES * len(layers))
    tensors = [input.to(dtype), *states, *_parameters(kind, layers, dtype), weight.flatten(1), bias]
    numbers = [steps, _keep(tensors, recompute), given, first, int(sigmoid)]
    y = _run(kind, tensors, numbers, read_given, None)[0]
    return probabilities(y) if sigmoid else y


def _parameters(kind: str, layers: Sequence[Layer], dtype: torch.dtype) -> list[Tensor | None]:
    """Return all layers' parameters in the types that the operator takes, with odd kernels."""
    # Peepholes multiply the cell state, whose type is wide.
    last_dtype = torch.promote_types(dtype, torch.float32) if kind == "lstm" else dtype
    return [
        parameter
        for ih, hh, bias, last in layers
        for parameter in (_odd(_to(ih, dtype)), _odd(hh.to(dtype)), _to(bias, dtype), _to(last, last_dtype))
    ]


def _to(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.to(dtype)


def _row(tensor: Tensor | None) -> Tensor | None:
    """Add an axis of size 1 to frames or weights with one spatial axis; leave a bias as it is."""
    return tensor if tensor is None or tensor.dim() == 1 else tensor.unsqueeze(-2)


def _odd(weight: Tensor | None) -> Tensor | None:
    """Return a weight (O, I, *K) with a tap of zeros put before an even number of taps.

    With the same padding on both sides, it convolves as the even kernel with one more at the end.
    """
    if weight is None or all(k % 2 for k in weight.shape[2:]):
        return weight
    return F.pad(weight, [side for k in reversed(weight.shape[2:]) for side in (1 - k % 2, 0)])


def _keep(tensors: list[Tensor | None], recompute: bool) -> int:
    """Return what a call must keep for its backward pass, a value of `Keep`."""
    if not (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)):
        return int(Keep.NOTHING)
    return int(Keep.STATES if recompute else Keep.GATES)


def _run(
    kind: str,
    tensors: list[Tensor | None],
    numbers: list[int],
    read_given: Tensor | None,
    lengths: Tensor | None,
) -> list[Tensor]:
    """Call the operator; return the outputs, then h and c of each layer."""
    present = [int(tensor is not None) for tensor in tensors]
    there = [tensor for tensor in tensors if tensor is not None]
    return _stack(kind, there, present, numbers, read_given, lengths)[: 1 + STATES * _layer_count(present)]
