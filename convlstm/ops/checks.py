"""Checks of the ops' arguments, and the type that an op computes in.

Letters: T time, B batch, I input channels, C hidden channels, S the spatial axes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def autocast_on(device: torch.device) -> bool:
    """Return whether autocast is on for a device."""
    # The meta device has no autocast: asking raises. is_autocast_available is a graph break in torch 2.11.
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def compute_dtype(weight: Tensor) -> torch.dtype:
    """Return the type that an op on these weights computes in: autocast's, or theirs."""
    if autocast_on(weight.device) and weight.dtype != torch.float64:
        return torch.get_autocast_dtype(weight.device.type)
    return weight.dtype


def check_input(input: Tensor, weight_ih: Tensor | None, weight_hh: Tensor) -> None:
    """Raise ValueError unless an input (T, B, I, *S) fits the weights."""
    channels, shape = 0 if weight_ih is None else weight_ih.shape[1], tuple(input.shape)
    if len(shape) != weight_hh.dim() + 1 or shape[2] != channels or 0 in shape[:2] + shape[3:]:
        axes = ", ".join(("D", "H", "W")[5 - weight_hh.dim() :])
        raise ValueError(
            f"input has shape {shape}; it needs (T, B, {channels}, {axes}) with at least one frame, "
            "one sequence and one pixel"
        )
    check_type("input", input, weight_hh)


def check_parameters(
    gates: int,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None,
    weight_ch: Tensor | None = None,
    bias_hn: Tensor | None = None,
) -> None:
    """Raise ValueError unless the parameters of a cell with this number of gates fit each other."""
    C, channels, taps = _sizes(gates, weight_ih, weight_hh)
    axes = weight_ch.shape[1:] if weight_ch is not None and weight_ch.dim() == weight_hh.dim() - 1 else taps
    needs = {
        "weight_ih": (weight_ih, (gates * C, channels, *taps)),
        "bias": (bias, (gates * C,)),
        "weight_ch": (weight_ch, (3 * C, *axes)),
        "bias_hn": (bias_hn, (C,)),
    }
    _check_fit(weight_hh, needs)


def check_st_lstm_parameters(
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None,
    weight_mm: Tensor,
    weight_co: Tensor,
    weight_last: Tensor,
) -> None:
    """Raise ValueError unless the parameters of a spatiotemporal LSTM fit each other."""
    C, channels, taps = _sizes(4, weight_ih, weight_hh)
    needs = {
        "weight_ih": (weight_ih, (7 * C, channels, *taps)),
        "bias": (bias, (7 * C,)),
        "weight_mm": (weight_mm, (3 * C, C, *taps)),
        "weight_co": (weight_co, (C, 2 * C, *taps)),
        "weight_last": (weight_last, (C, 2 * C, *(1 for _ in taps))),
    }
    _check_fit(weight_hh, needs)


def _sizes(gates: int, weight_ih: Tensor | None, weight_hh: Tensor) -> tuple[int, int, tuple[int, ...]]:
    """Return C, I and the kernel's sizes; raise ValueError unless weight_hh has rows for these gates."""
    sizes_hh = tuple(weight_hh.shape)
    if weight_hh.dim() not in (3, 4, 5) or 0 in sizes_hh or sizes_hh[0] != gates * sizes_hh[1]:
        raise ValueError(f"weight_hh has shape {sizes_hh}; it needs ({gates} C, C, *K) with 1 to 3 axes K")
    channels = weight_ih.shape[1] if weight_ih is not None and weight_ih.dim() > 1 else 0
    return sizes_hh[1], channels, sizes_hh[2:]


def _check_fit(weight_hh: Tensor, needs: dict[str, tuple[Tensor | None, tuple[int, ...]]]) -> None:
    """Raise ValueError unless each named tensor has its shape, and the device and type of weight_hh."""
    sizes_hh = tuple(weight_hh.shape)
    for name, (tensor, shape) in needs.items():
        if tensor is None:
            continue
        if tuple(tensor.shape) != tuple(shape):
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; it needs {tuple(shape)} with weight_hh {sizes_hh}"
            )
        if tensor.device != weight_hh.device:
            raise ValueError(f"{name} is on {tensor.device}; it needs {weight_hh.device}, as weight_hh")
        # Peepholes meet the cell state, whose type may be wider.
        if not tensor.is_floating_point() or (name != "weight_ch" and tensor.dtype != weight_hh.dtype):
            raise ValueError(f"{name} has type {tensor.dtype}; it needs {weight_hh.dtype}, as weight_hh")


INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

Layer = tuple[Tensor | None, Tensor, Tensor | None, Tensor | None]
"""weight_ih, weight_hh, bias, and the LSTM's weight_ch or the GRU's bias_hn."""


def check_layers(kind: str, layers: Sequence[Layer], input: Tensor) -> None:
    """Raise ValueError unless each layer's parameters fit each other, the layer below and the input."""
    below = input.shape[2]
    for number, (weight_ih, weight_hh, bias, last) in enumerate(layers):
        if kind == "lstm":
            check_parameters(4, weight_ih, weight_hh, bias, weight_ch=last)
            check_peepholes(input, last)
        else:
            check_parameters(3, weight_ih, weight_hh, bias, bias_hn=last)
        channels, first = 0 if weight_ih is None else weight_ih.shape[1], layers[0][1]
        found = (channels, weight_hh.dim(), weight_hh.dtype, weight_hh.device)
        if found != (below, first.dim(), first.dtype, first.device):
            raise ValueError(
                f"layer {number} has {channels} input channels and a weight_hh {tuple(weight_hh.shape)} of "
                f"{weight_hh.dtype} on {weight_hh.device}; it needs {below} input channels and a weight_hh "
                f"with {first.dim()} axes of {first.dtype} on {first.device}"
            )
        below = weight_hh.shape[1]


def check_peepholes(input: Tensor, weight_ch: Tensor | None) -> None:
    """Raise ValueError unless per-pixel peepholes were made for frames of the input's size."""
    frame, pixels = tuple(input.shape[3:]), None if weight_ch is None else tuple(weight_ch.shape[1:])
    if pixels is not None and pixels != frame and set(pixels) != {1}:
        given, needed = (" x ".join(map(str, size)) for size in (frame, pixels))
        raise ValueError(
            f"input has frames of {given}, but the per-pixel peepholes were made for {needed}; give frames "
            "of that size (peephole='channel' fits any)"
        )


def check_type(name: str, input: Tensor, weight: Tensor) -> None:
    """Raise ValueError unless an input is on the weights' device and has a type that fits theirs."""
    if input.device != weight.device:
        raise ValueError(
            f"{name} is on {input.device}, the weights are on {weight.device}; move one with .to(...)"
        )
    if not input.is_floating_point():
        raise ValueError(
            f"{name} has type {input.dtype}; it needs a floating type: pixels in [0, 1], not integers"
        )
    # Autocast converts every floating type but float64.
    autocast = autocast_on(input.device)
    if input.dtype != weight.dtype and (not autocast or torch.float64 in (input.dtype, weight.dtype)):
        raise ValueError(
            f"{name} has type {input.dtype}, the weights have {weight.dtype}; "
            "convert one with .to(...), or run under torch.autocast"
        )


def check_state(name: str, state: Tensor, shape: tuple[int, ...], device: torch.device) -> None:
    """Raise ValueError unless a state has the given shape, is on the device and has a floating type."""
    if tuple(state.shape) != tuple(shape):
        raise ValueError(f"{name} has shape {tuple(state.shape)}; it needs {tuple(shape)}")
    if state.device != device:
        raise ValueError(f"{name} is on {state.device}, the input is on {device}; move it with .to({device})")
    if not state.is_floating_point():
        raise ValueError(f"{name} has type {state.dtype}; it needs a floating type")


def check_lengths(lengths: Tensor | Sequence[int] | None, input: Tensor) -> Tensor | None:
    """Return the lengths of the sequences in (T, B, ...) as int64 (B,) on its device; None for None.

    Raises:
        ValueError: they are not one whole number from 1 to T per sequence.
    """
    if lengths is None:
        return None
    T, B = input.shape[:2]
    needs = f"it needs {B} whole numbers from 1 to {T}, one per sequence"
    try:
        numbers = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"lengths is {lengths!r}; {needs}") from error
    if numbers.shape != (B,) or numbers.dtype not in INTEGERS:
        raise ValueError(f"lengths has shape {tuple(numbers.shape)} and type {numbers.dtype}; {needs}")
    # Reading the values would break a graph that is being traced.
    if not torch.compiler.is_compiling() and not (int(numbers.min()) >= 1 and int(numbers.max()) <= T):
        raise ValueError(f"lengths is {numbers.tolist()}; {needs}")
    return numbers.to(input.device, torch.int64)
