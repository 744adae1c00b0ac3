"""The ops that run recurrent cells over a sequence: each checks its arguments and chooses an implementation.

- `functional.py`: the equations of one step, and the order of the gates.
- `reference.py`: a plain loop over these steps, the definition that the fused op is tested against.
- `choice.py`: which of the two runs.
- `fused.py`: the fused op as torch sees it; `fused_loop.py`: its loops over time; `fused_lstm.py`,
  `fused_gru.py` and `fused_head.py`: what a step does, forward and back, by `convolution.py` and the
  pointwise `kernels`.

Letters: T time, B batch, I input channels, C hidden channels, S the spatial axes, K kernel taps per axis.
Inputs are (T, B, I, *S), parameters are shaped as in `functional.py`. The hidden state has the type that the
convolutions compute in (autocast's, or the weights'). The LSTM's cell state is float32 (float64 for
float64): it is a sum over all of time and would lose small terms in a shorter type.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from convlstm.ops import checks, fused, reference
from convlstm.ops.checks import Layer, check_lengths, check_state, check_type, compute_dtype
from convlstm.ops.choice import is_fused, use_implementation

__all__ = [
    "Layer",
    "check_lengths",
    "check_state",
    "check_type",
    "compute_dtype",
    "forecast",
    "gru",
    "is_fused",
    "lstm",
    "rnn",
    "stack",
    "use_implementation",
]


def rnn(
    input: Tensor,
    h0: Tensor | None,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    nonlinearity: str = "tanh",
    lengths: Tensor | Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Run a convolutional Elman network over a sequence, always by the reference.

    The arguments are those of `lstm`, with weights for one gate: weight_ih `(C, I, *K)`, weight_hh
    `(C, C, *K)` and bias `(C,)`. The nonlinearity is "tanh" (default) or "relu".

    Returns:
        The hidden states `(T, B, C, *S)` and the last of them `(B, C, *S)`.

    Raises:
        ValueError: an argument has a wrong shape, type or device.
    """
    checks.check_parameters(1, weight_ih, weight_hh, bias)
    input, lengths = _check(input, weight_ih, weight_hh, lengths, h0=h0)
    h = _state(h0, input, weight_hh, compute_dtype(weight_hh))
    out, h_n = reference.rnn(input, h, weight_ih, weight_hh, bias, nonlinearity, lengths)
    return _zero_past(out, lengths), h_n


def lstm(
    input: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    weight_ch: Tensor | None = None,
    lengths: Tensor | Sequence[int] | None = None,
    *,
    recompute: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a convolutional LSTM over a sequence.

    Args:
        input: `(T, B, I, *S)`.
        h0: `(B, C, *S)`, or None for zeros.
        c0: `(B, C, *S)`, or None for zeros.
        weight_ih: `(4C, I, *K)`, rows i, f, g, o, or None for no input convolution (then I is 0).
        weight_hh: `(4C, C, *K)`, rows i, f, g, o.
        bias: `(4C,)`, or None.
        weight_ch: peepholes, rows i, f, o: `(3C, 1, ...)`, `(3C, *S)` or None.
        lengths: `(B,)`, the steps of each sequence, 1 to T; None (default) for T. Frames past a length are
            not read, outputs there are zero, and the last states are those at the length.
        recompute: keep less for the backward pass and compute the gates again in it. Default: False.

    Returns:
        The hidden states `(T, B, C, *S)`, the last hidden and the last cell state `(B, C, *S)`.

    Raises:
        ValueError: an argument has a wrong shape, type or device.
    """
    checks.check_parameters(4, weight_ih, weight_hh, bias, weight_ch=weight_ch)
    input, lengths = _check(input, weight_ih, weight_hh, lengths, h0=h0, c0=c0)
    checks.check_peepholes(input, weight_ch)
    dtype = compute_dtype(weight_hh)
    parameters = (weight_ih, weight_hh, bias, weight_ch)
    if is_fused(input.device, dtype):
        out, [(h_n, c_n)] = fused.sequence(
            "lstm", input, [(h0, c0)], [parameters], lengths, dtype=dtype, recompute=recompute
        )
    else:
        h = _state(h0, input, weight_hh, dtype)
        c = _state(c0, input, weight_hh, torch.promote_types(dtype, torch.float32))
        out, h_n, c_n = reference.lstm(input, h, c, *parameters, lengths, recompute)
    return _zero_past(out, lengths), h_n, c_n


def gru(
    input: Tensor,
    h0: Tensor | None,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    bias_hn: Tensor | None = None,
    reset_after: bool = True,
    lengths: Tensor | Sequence[int] | None = None,
    *,
    recompute: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run a convolutional GRU over a sequence; with reset_after=False always by the reference.

    Args:
        input: `(T, B, I, *S)`.
        h0: `(B, C, *S)`, or None for zeros.
        weight_ih: `(3C, I, *K)`, rows r, z, n, or None for no input convolution (then I is 0).
        weight_hh: `(3C, C, *K)`, rows r, z, n.
        bias: `(3C,)`, or None.
        bias_hn: `(C,)`, or None; only with reset_after.
        reset_after: apply the reset gate after the recurrent convolution (default True) or before it.
        lengths: see `lstm`.
        recompute: see `lstm`.

    Returns:
        The hidden states `(T, B, C, *S)` and the last of them `(B, C, *S)`.

    Raises:
        ValueError: an argument has a wrong shape, type or device.
    """
    checks.check_parameters(3, weight_ih, weight_hh, bias, bias_hn=bias_hn)
    input, lengths = _check(input, weight_ih, weight_hh, lengths, h0=h0)
    dtype = compute_dtype(weight_hh)
    parameters = (weight_ih, weight_hh, bias, bias_hn)
    if reset_after and is_fused(input.device, dtype):
        out, [(h_n, _)] = fused.sequence(
            "gru", input, [(h0, None)], [parameters], lengths, dtype=dtype, recompute=recompute
        )
    else:
        h = _state(h0, input, weight_hh, dtype)
        out, h_n = reference.gru(input, h, *parameters, reset_after, lengths, recompute)
    return _zero_past(out, lengths), h_n


def stack(
    kind: str,
    input: Tensor,
    states: Sequence[tuple[Tensor | None, Tensor | None]],
    layers: Sequence[Layer],
    lengths: Tensor | None = None,
    *,
    recompute: bool = False,
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Run a stack of layers in one fused op; the results are those of `lstm` or `gru`, layer after layer.

    Args:
        kind: "lstm", or "gru" (reset_after=True).
        input: `(T, B, I, *S)`.
        states: per layer h and c `(B, C, *S)`, None for zeros; c is None for GRUs. Their shapes are not
            checked.
        layers: per layer weight_ih, weight_hh, bias, and weight_ch or bias_hn.
        lengths: see `lstm`.
        recompute: see `lstm`.

    Returns:
        The last layer's hidden states `(T, B, C, *S)`, and the last h and c of each layer.

    Raises:
        ValueError: an argument has a wrong shape, type or device.
    """
    input, lengths = _check(input, layers[0][0], layers[0][1], lengths)
    checks.check_layers(kind, layers, input)
    dtype = compute_dtype(layers[0][1])
    out, last = fused.sequence(kind, input, states, layers, lengths, dtype=dtype, recompute=recompute)
    return _zero_past(out, lengths), last


def forecast(
    kind: str,
    input: Tensor,
    layers: Sequence[Layer],
    head: tuple[Tensor, Tensor],
    read_given: Tensor | None = None,
    *,
    given: int,
    steps: int,
    first: int = 0,
    sigmoid: bool = False,
    recompute: bool = False,
) -> Tensor:
    """Predict the next input again and again, reading the given inputs first and then the predictions.

        y_t = W (h_(1,t), ..., h_(L,t)) + b, after a sigmoid if `sigmoid`
        x_t = input_t for t < given and where read_given is true, else y_(t-1)

    It is one fused op with one gradient per weight, where a loop of single steps would make one per step. The
    results are those of `StackedForecaster` frame by frame. The op takes the network's own tensors and does
    not check that the head, `read_given` and the numbers fit each other.

    Args:
        kind: "lstm", or "gru" (reset_after=True).
        input: `(T, B, I, *S)` with two or three spatial axes; T = steps with `read_given`, else T = given.
        layers: per layer weight_ih, weight_hh, bias, and weight_ch or bias_hn.
        head: weight (I, C_1 + ... + C_L, 1, ...) and bias `(I,)` of the 1x1 convolution over all states.
        read_given: bool `(steps - given, B)`, true where a step after the given ones reads the input and not
            the prediction; None (default) for nowhere.
        given: the first steps that always read the input, 1 or more.
        steps: time steps in all.
        first: the first step whose prediction is returned, below `given`. Default: 0.
        sigmoid: apply a sigmoid after the head. Default: False.
        recompute: see `lstm`.

    Returns:
        The predictions `(steps - first, B, I, *S)`, in the type that the op computes in; after a sigmoid in
        float32 at least.

    Raises:
        ValueError: the input or a layer has a wrong shape, type or device.
    """
    checks.check_input(input, layers[0][0], layers[0][1])
    checks.check_layers(kind, layers, input)
    options = {"given": given, "steps": steps, "first": first, "sigmoid": sigmoid, "recompute": recompute}
    return fused.forecast(kind, input, layers, head, read_given, dtype=compute_dtype(head[0]), **options)


def _check(
    input: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    lengths: Tensor | Sequence[int] | None,
    **states: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Check the arguments; return the input, zeros past the lengths, and the lengths."""
    checks.check_input(input, weight_ih, weight_hh)
    shape = (input.shape[1], weight_hh.shape[1], *input.shape[3:])
    for name, state in states.items():
        if state is not None:
            check_state(name, state, shape, input.device)
    lengths = check_lengths(lengths, input)
    # A NaN past a length would make a NaN of a gradient of zero.
    return _zero_past(input, lengths), lengths


def _zero_past(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """Return (T, B, ...) with zeros past the lengths."""
    if lengths is None:
        return sequence
    past = torch.arange(len(sequence), device=lengths.device)[:, None] >= lengths  # (T, B)
    return sequence.masked_fill(past.reshape(*past.shape, *(1 for _ in sequence.shape[2:])), 0)


def _state(state: Tensor | None, input: Tensor, weight_hh: Tensor, dtype: torch.dtype) -> Tensor:
    """Return an initial state (B, C, *S) in its type, zeros for None."""
    if state is not None:
        return state.to(dtype)
    return input.new_zeros(input.shape[1], weight_hh.shape[1], *input.shape[3:], dtype=dtype)
