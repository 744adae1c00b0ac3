"""A sequence op per kind of cell: checks its arguments, makes missing states, then runs an implementation.

Letters: T time, B batch, I input channels, C hidden channels, S the spatial axes, K kernel taps per axis.
All three take (T, B, I, *S) and parameters shaped as in `convlstm.ops.functional`. The hidden state is held
in the type the convolutions compute in (autocast's, or the weights'), the LSTM's cell state in float32
(float64 for float64): it is a sum over all of time and would lose the small terms in a shorter type.

`reference` is the definition of right; `fused` is tested against it and is what runs where it is compiled.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from convlstm.ops import checks, fused, reference
from convlstm.ops.checks import check_lengths, check_state, check_type, compute_dtype
from convlstm.ops.choice import is_fused, reference_only

__all__ = [
    "check_lengths",
    "check_state",
    "check_type",
    "compute_dtype",
    "forecast",
    "gru",
    "gru_kind",
    "is_fused",
    "lstm",
    "reference_only",
    "rnn",
    "stack",
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
    """Run a convolutional Elman network over a sequence.

    Args:
        input: (T, B, I, *S).
        h0: (B, C, *S), or None for zeros.
        weight_ih: (C, I, *K), or None for no input convolution (then I is 0).
        weight_hh: (C, C, *K).
        bias: (C,), or None.
        nonlinearity: "tanh" (default) or "relu".
        lengths: (B,), steps of each sequence, 1 to T; None (default) for T. What comes after them is not
            looked at, the outputs there are zero, and the last state is the one at the length.

    Returns:
        The hidden states (T, B, C, *S) and the last of them (B, C, *S).

    Raises:
        ValueError: a wrong shape, type or device, named with what is needed.
    """
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity is {nonlinearity!r}; it needs tanh or relu")
    checks.check_parameters(1, weight_ih, weight_hh, bias)
    input, lengths = _check(input, weight_ih, weight_hh, lengths, h0=h0)
    dtype = checks.compute_dtype(weight_hh)
    out, h_n = reference.rnn(
        input, _state(h0, input, weight_hh, dtype), weight_ih, weight_hh, bias, nonlinearity, lengths
    )
    return _cut(out, lengths), h_n


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
    implementation: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a convolutional LSTM over a sequence.

    Args:
        input: (T, B, I, *S).
        h0: (B, C, *S), or None for zeros.
        c0: (B, C, *S), or None for zeros.
        weight_ih: (4C, I, *K), rows i, f, g, o, or None for no input convolution (then I is 0).
        weight_hh: (4C, C, *K), rows i, f, g, o.
        bias: (4C,), or None.
        weight_ch: peepholes, rows i, f, o: (3C, 1, ...), (3C, *S) or None.
        lengths: (B,), steps of each sequence, 1 to T; None (default) for T. What comes after them is not
            looked at, the outputs there are zero, and the last states are those at the length.
        recompute: keep little for the backward pass and compute the rest anew in it (default False); only the
            fused implementation can, the reference ignores it.
        implementation: "auto", "reference" or "fused"; None (default): see `convlstm.ops.choice`.

    Returns:
        The hidden states (T, B, C, *S), the last hidden and the last cell state (B, C, *S).

    Raises:
        ValueError: a wrong shape, type or device, named with what is needed.
    """
    checks.check_parameters(4, weight_ih, weight_hh, bias, weight_ch=weight_ch)
    input, lengths = _check(input, weight_ih, weight_hh, lengths, h0=h0, c0=c0)
    checks.check_peepholes(input, weight_ch)
    dtype = checks.compute_dtype(weight_hh)
    wide = torch.promote_types(dtype, torch.float32)
    if is_fused(implementation, input.device, dtype):
        layers = [(weight_ih, weight_hh, bias, weight_ch)]
        options = {"dtype": dtype, "recompute": recompute}
        out, [(h_n, c_n)] = fused.sequence("lstm", input, [(h0, c0)], layers, lengths, **options)
    else:
        h, c = _state(h0, input, weight_hh, dtype), _state(c0, input, weight_hh, wide)
        out, h_n, c_n = reference.lstm(input, h, c, weight_ih, weight_hh, bias, weight_ch, lengths)
    return _cut(out, lengths), h_n, c_n


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
    implementation: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Run a convolutional GRU over a sequence.

    Args:
        input: (T, B, I, *S).
        h0: (B, C, *S), or None for zeros.
        weight_ih: (3C, I, *K), rows r, z, n, or None for no input convolution (then I is 0).
        weight_hh: (3C, C, *K), rows r, z, n.
        bias: (3C,), or None.
        bias_hn: (C,), or None; only with reset_after.
        reset_after: apply the reset gate after the recurrent convolution (default) or before it.
        lengths: (B,), steps of each sequence, 1 to T; None (default) for T. What comes after them is not
            looked at, the outputs there are zero, and the last state is the one at the length.
        recompute: keep little for the backward pass and compute the rest anew in it (default False); only the
            fused implementation can, the reference ignores it.
        implementation: "auto", "reference" or "fused"; None (default): see `convlstm.ops.choice`.

    Returns:
        The hidden states (T, B, C, *S) and the last of them (B, C, *S).

    Raises:
        ValueError: a wrong shape, type or device, named with what is needed.
    """
    checks.check_parameters(3, weight_ih, weight_hh, bias, bias_hn=bias_hn)
    if bias_hn is not None and not reset_after:
        raise ValueError("bias_hn is given with reset_after=False, which has no place for it; it needs None")
    input, lengths = _check(input, weight_ih, weight_hh, lengths, h0=h0)
    dtype = checks.compute_dtype(weight_hh)
    if is_fused(implementation, input.device, dtype):
        layers = [(weight_ih, weight_hh, bias, bias_hn)]
        options = {"dtype": dtype, "recompute": recompute}
        out, [(h_n, _)] = fused.sequence(
            gru_kind(reset_after), input, [(h0, None)], layers, lengths, **options
        )
    else:
        h = _state(h0, input, weight_hh, dtype)
        out, h_n = reference.gru(input, h, weight_ih, weight_hh, bias, bias_hn, reset_after, lengths)
    return _cut(out, lengths), h_n


def gru_kind(reset_after: bool) -> str:
    """The name that the fused ops have for a GRU."""
    return "gru" if reset_after else "gru_before"


def stack(
    kind: str,
    input: Tensor,
    states: Sequence[tuple[Tensor | None, Tensor | None]],
    layers: Sequence[fused.Layer],
    lengths: Tensor | None = None,
    *,
    recompute: bool = False,
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Run a stack of layers in one fused op; it does what `lstm` or `gru` do one layer after the other.

    Args:
        kind: "lstm", "gru" or "gru_before" (reset_after=False).
        input: (T, B, I, *S).
        states: per layer h and c (B, C, *S), None for zeros; c is None for GRUs.
        layers: per layer weight_ih, weight_hh, bias, and weight_ch or bias_hn.
        lengths: see `lstm`.
        recompute: see `lstm`.

    Returns:
        The last layer's hidden states (T, B, C, *S), and the last h and c of each layer.

    Raises:
        ValueError: a wrong shape, type or device, named with what is needed.
    """
    _check_kind(kind)
    checks.check_layers(kind, layers)
    input, lengths = _check(input, layers[0][0], layers[0][1], lengths)
    for _, _, _, more in layers:
        checks.check_peepholes(input, more if kind == "lstm" else None)
    if len(states) != len(layers):
        raise ValueError(f"states has {len(states)} pairs; it needs {len(layers)}, one for each layer")
    for (h, c), (_, weight_hh, _, _) in zip(states, layers, strict=True):
        checks.check_states(input, weight_hh, h=h, c=c)
    dtype = checks.compute_dtype(layers[0][1])
    out, last = fused.sequence(kind, input, states, layers, lengths, dtype=dtype, recompute=recompute)
    return _cut(out, lengths), last


def forecast(
    kind: str,
    input: Tensor,
    layers: list[fused.Layer],
    head: tuple[Tensor, Tensor],
    read_given: Tensor | None = None,
    *,
    given: int,
    steps: int,
    first: int = 0,
    sigmoid: bool = False,
    recompute: bool = False,
) -> Tensor:
    """Predict the next input again and again, reading the given ones first and then the predictions.

        y_t = W (h_(1,t), ..., h_(L,t)) + b, after a sigmoid if so asked
        x_t = input_t for t < given and where read_given says so, else y_(t-1)

    All of it is one op with one gradient per weight, where a loop of single steps would make one per step.
    It does what `StackedForecaster` does frame by frame, the definition that it is tested against.

    Args:
        kind: "lstm", "gru" or "gru_before" (reset_after=False).
        input: (T, B, I, *S) with T = steps if read_given is there, else T = given.
        layers: per layer weight_ih, weight_hh, bias, and weight_ch or bias_hn, as for `convlstm.ops`.
        head: weight (I, C_1 + ... + C_L, 1, ...) and bias (I,) of the 1x1 convolution over all states.
        read_given: bool (steps - given, B), where a step after the given ones reads input and not the
            prediction; None (default): nowhere.
        given: inputs that are read in any case, 1 or more.
        steps: time steps in all.
        first: the first step whose prediction is returned, below `given` (default 0).
        sigmoid: whether a sigmoid follows the head (default False).
        recompute: keep little for the backward pass and compute the rest anew in it (default False).

    Returns:
        The predictions (steps - first, B, I, *S), in the type that the op computes in; after a sigmoid in
        float32 at least.

    Raises:
        ValueError: a wrong shape, type or device, or numbers that do not go together, named.
    """
    _check_kind(kind)
    checks.check_layers(kind, layers)
    checks.check_input(input, layers[0][0], layers[0][1])
    checks.check_head(head, input, [weight_hh for _, weight_hh, _, _ in layers])
    checks.check_steps(input, read_given, given, steps, first)
    options = {"given": given, "steps": steps, "first": first, "sigmoid": sigmoid}
    options["recompute"] = recompute
    dtype = checks.compute_dtype(head[0])
    return fused.forecast(kind, input, layers, head, read_given, dtype=dtype, **options)


def _check_kind(kind: str) -> None:
    if kind not in fused.LAYERS:
        raise ValueError(f"kind is {kind!r}; it needs one of {', '.join(fused.LAYERS)}")


def _check(
    input: Tensor,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    lengths: Tensor | Sequence[int] | None,
    **states: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Check the arguments; return the input, zeros past the lengths, and the lengths."""
    checks.check_input(input, weight_ih, weight_hh)
    checks.check_states(input, weight_hh, **states)
    lengths = checks.check_lengths(lengths, input)
    # Zeros, whatever is there: a gradient of zero times a NaN would be a NaN.
    return _cut(input, lengths), lengths


def _cut(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """(T, B, ...) with zeros past the lengths."""
    if lengths is None:
        return sequence
    past = torch.arange(len(sequence), device=lengths.device)[:, None] >= lengths  # (T, B)
    return sequence.masked_fill(past.reshape(*past.shape, *(1 for _ in sequence.shape[2:])), 0)


def _state(state: Tensor | None, input: Tensor, weight_hh: Tensor, dtype: torch.dtype) -> Tensor:
    """An initial state (B, C, *S) in its type, zeros for None."""
    if state is not None:
        return state.to(dtype)
    return input.new_zeros(input.shape[1], weight_hh.shape[1], *input.shape[3:], dtype=dtype)
