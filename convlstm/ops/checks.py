"""What every op checks of its arguments, and the type it computes in.

Letters: T time, B batch, I input channels, C hidden channels, S the spatial axes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def sizes(shape: tuple[int, ...]) -> str:
    """A frame size in words."""
    return " x ".join(str(size) for size in shape)


def autocast_on(device: torch.device) -> bool:
    """Whether autocast acts on a device."""
    # Asking about a device that has no autocast, such as meta, raises.
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def compute_dtype(weight: Tensor) -> torch.dtype:
    """The type that an op on these weights computes in: autocast's, or theirs."""
    if autocast_on(weight.device) and weight.dtype != torch.float64:
        return torch.get_autocast_dtype(weight.device.type)
    return weight.dtype


def check_input(input: Tensor, weight_ih: Tensor | None, weight_hh: Tensor) -> None:
    """Raise ValueError unless an input (T, B, I, *S) fits the weights."""
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


def check_parameters(
    gates: int,
    weight_ih: Tensor | None,
    weight_hh: Tensor,
    bias: Tensor | None,
    weight_ch: Tensor | None = None,
    bias_hn: Tensor | None = None,
) -> None:
    """Raise ValueError unless the parameters of a cell with so many gates have sizes that go together."""
    C, taps = weight_hh.shape[1], tuple(weight_hh.shape[2:])
    channels = 0 if weight_ih is None else weight_ih.shape[1]
    axes = None if weight_ch is None else tuple(weight_ch.shape[1:])
    needs = {
        "weight_ih": (weight_ih, (gates * C, channels, *taps)),
        "weight_hh": (weight_hh, (gates * C, C, *taps)),
        "bias": (bias, (gates * C,)),
        "weight_ch": (weight_ch, (3 * C, *(axes or ()))),
        "bias_hn": (bias_hn, (C,)),
    }
    for name, (tensor, shape) in needs.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it needs {shape}, as weight_hh has it")


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
    autocast = autocast_on(input.device)
    if input.dtype != weight.dtype and (not autocast or torch.float64 in (input.dtype, weight.dtype)):
        raise ValueError(
            f"{name} has type {input.dtype}, the weights have {weight.dtype}; "
            "convert one with .to(...), or run under torch.autocast"
        )


def check_states(input: Tensor, weight_hh: Tensor, **states: Tensor | None) -> None:
    """Raise ValueError unless each state is (B, C, *S), on the input's device, and floating; or None."""
    shape = (input.shape[1], weight_hh.shape[1], *input.shape[3:])
    for name, state in states.items():
        if state is not None:
            check_state(name, state, shape, input.device)


def check_state(name: str, state: Tensor, shape: tuple[int, ...], device: torch.device) -> None:
    """Raise ValueError unless a state has the given shape, lies on the device and holds floating numbers."""
    if tuple(state.shape) != tuple(shape):
        raise ValueError(f"{name} has shape {tuple(state.shape)}; it needs {tuple(shape)}")
    if state.device != device:
        raise ValueError(f"{name} is on {state.device}, the input is on {device}; move it with .to({device})")
    if not state.is_floating_point():
        raise ValueError(f"{name} has type {state.dtype}; it needs a floating type")


def check_lengths(lengths: Tensor | Sequence[int] | None, input: Tensor) -> Tensor | None:
    """Return the lengths of the sequences of (T, B, ...) as int64 (B,) on its device, or None for None.

    Raises:
        ValueError: not one whole number from 1 to T per sequence.
    """
    if lengths is None:
        return None
    T, B = input.shape[:2]
    needs = f"it needs {B} whole numbers from 1 to {T}, one per sequence"
    try:
        numbers = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"lengths is {lengths!r}; {needs}") from error
    if (
        numbers.shape != (B,)
        or numbers.is_floating_point()
        or numbers.is_complex()
        or numbers.dtype == torch.bool
    ):
        raise ValueError(f"lengths has shape {tuple(numbers.shape)} and type {numbers.dtype}; {needs}")
    # Looking at the values would break a graph that is being traced.
    if not torch.compiler.is_compiling() and not (int(numbers.min()) >= 1 and int(numbers.max()) <= T):
        raise ValueError(f"lengths is {numbers.tolist()}; {needs}")
    return numbers.to(input.device, torch.int64)
