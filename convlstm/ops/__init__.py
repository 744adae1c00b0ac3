"""A sequence op per kind of cell: checks its arguments, makes missing states, then runs an implementation.

Letters: T time, B batch, I input channels, C hidden channels, S the spatial axes, K kernel taps per axis.
All three take (T, B, I, *S) and parameters shaped as in `convlstm.functional`. The hidden state is held in
the type the convolutions compute in (autocast's, or the weights'), the LSTM's cell state in float32 (float64
for float64): the cell state is a sum over all of time and would lose the small terms in a shorter type.
"""

import torch
from torch import Tensor

from convlstm.ops import reference

__all__ = ["gru", "lstm", "rnn"]


def rnn(
    input: Tensor,
    h0: Tensor | None,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    nonlinearity: str = "tanh",
) -> tuple[Tensor, Tensor]:
    """Run a convolutional Elman network over a sequence.

    Args:
        input: (T, B, I, *S).
        h0: (B, C, *S), or None for zeros.
        weight_ih: (C, I, *K), or None for no input convolution (then I is 0).
        weight_hh: (C, C, *K).
        bias: (C,), or None.
        nonlinearity: "tanh" (default) or "relu".

    Returns:
        The hidden states (T, B, C, *S) and the last of them (B, C, *S).

    Raises:
        ValueError: a wrong shape, type or device, named with what is needed.
    """
    _check_input(input, weight_ih, weight_hh)
    h = _state("h0", h0, input, weight_hh)
    return reference.rnn(input, h, weight_ih, weight_hh, bias, nonlinearity)


def lstm(
    input: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    weight_ch: Tensor | None = None,
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

    Returns:
        The hidden states (T, B, C, *S), the last hidden and the last cell state (B, C, *S).

    Raises:
        ValueError: a wrong shape, type or device, named with what is needed.
    """
    _check_input(input, weight_ih, weight_hh)
    frame, pixels = tuple(input.shape[3:]), None if weight_ch is None else tuple(weight_ch.shape[1:])
    if pixels is not None and pixels != frame and set(pixels) != {1}:
        raise ValueError(
            f"input has frames of {_sizes(frame)}, but the per-pixel peepholes were made for "
            f"{_sizes(pixels)}; give frames of that size "
            "(peephole='channel' fits any)"
        )
    h = _state("h0", h0, input, weight_hh)
    c = _state("c0", c0, input, weight_hh, torch.float64 if h.dtype == torch.float64 else torch.float32)
    return reference.lstm(input, h, c, weight_ih, weight_hh, bias, weight_ch)


def gru(
    input: Tensor,
    h0: Tensor | None,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    bias_hn: Tensor | None = None,
    reset_after: bool = True,
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

    Returns:
        The hidden states (T, B, C, *S) and the last of them (B, C, *S).

    Raises:
        ValueError: a wrong shape, type or device, named with what is needed.
    """
    _check_input(input, weight_ih, weight_hh)
    h = _state("h0", h0, input, weight_hh)
    return reference.gru(input, h, weight_ih, weight_hh, bias, bias_hn, reset_after)


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)


def _autocast(device: torch.device) -> bool:
    # Asking about a device that has no autocast, such as meta, raises.
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def _compute_dtype(weight: Tensor) -> torch.dtype:
    if _autocast(weight.device) and weight.dtype != torch.float64:
        return torch.get_autocast_dtype(weight.device.type)
    return weight.dtype


def _check_input(input: Tensor, weight_ih: Tensor | None, weight_hh: Tensor) -> None:
    channels = 0 if weight_ih is None else weight_ih.shape[1]
    axes = ("D", "H", "W")[5 - weight_hh.dim() :]
    if input.dim() != weight_hh.dim() + 1:
        raise ValueError(
            f"input has {input.dim()} dimensions, shape {tuple(input.shape)}; "
            f"it needs {weight_hh.dim() + 1}: (T, B, {channels}, {', '.join(axes)})"
        )
    if input.shape[2] != channels:
        raise ValueError(
            f"input has {input.shape[2]} channels, shape {tuple(input.shape)}; it needs {channels}: "
            f"(T, B, {channels}, {', '.join(axes)})"
        )
    if 0 in input.shape[:2] or 0 in input.shape[3:]:
        raise ValueError(
            f"input has shape {tuple(input.shape)} (T, B, I, {', '.join(axes)}); "
            "it needs at least one frame, one sequence and one pixel"
        )
    check_type("input", input, weight_hh)


def check_type(name: str, input: Tensor, weight: Tensor) -> None:
    """Raise ValueError unless an input lies where the weights lie and has a type that goes with theirs."""
    if input.device != weight.device:
        raise ValueError(
            f"{name} is on {input.device}, the weights are on {weight.device}; move one with .to(...)"
        )
    if not input.is_floating_point():
        raise ValueError(
            f"{name} has type {input.dtype}; it needs a floating type: pixels in [0, 1], not integers"
        )
    # Autocast converts every floating type but float64.
    autocast = _autocast(input.device)
    if input.dtype != weight.dtype and (not autocast or torch.float64 in (input.dtype, weight.dtype)):
        raise ValueError(
            f"{name} has type {input.dtype}, the weights have {weight.dtype}; "
            "convert one with .to(...), or run under torch.autocast"
        )


def _state(
    name: str, state: Tensor | None, input: Tensor, weight_hh: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """Check a given state and cast it, or make one of zeros; (B, C, *S)."""
    shape = (input.shape[1], weight_hh.shape[1], *input.shape[3:])
    dtype = dtype or _compute_dtype(weight_hh)
    if state is None:
        return torch.zeros(shape, device=input.device, dtype=dtype)
    check_state(name, state, shape, input.device)
    return state.to(dtype)


def check_state(name: str, state: Tensor, shape: tuple[int, ...], device: torch.device) -> None:
    """Raise ValueError unless a state has the given shape, lies on the device and holds floating numbers."""
    if tuple(state.shape) != tuple(shape):
        raise ValueError(f"{name} has shape {tuple(state.shape)}; it needs {tuple(shape)}")
    if state.device != device:
        raise ValueError(f"{name} is on {state.device}, the input is on {device}; move it with .to({device})")
    if not state.is_floating_point():
        raise ValueError(f"{name} has type {state.dtype}; it needs a floating type")
