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
    # Asking about meta, which has no autocast, raises; is_autocast_available is a graph break in torch 2.11.
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


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
    """Raise ValueError unless the parameters of a cell with so many gates go together."""
    sizes_hh = tuple(weight_hh.shape)
    if weight_hh.dim() not in (3, 4, 5) or 0 in sizes_hh or sizes_hh[0] != gates * sizes_hh[1]:
        raise ValueError(f"weight_hh has shape {sizes_hh}; it needs ({gates} C, C, *K) with 1 to 3 axes K")
    C, taps = sizes_hh[1], sizes_hh[2:]
    channels = weight_ih.shape[1] if weight_ih is not None and weight_ih.dim() > 1 else 0
    axes = weight_ch.shape[1:] if weight_ch is not None and weight_ch.dim() == weight_hh.dim() - 1 else taps
    needs = {
        "weight_ih": (weight_ih, (gates * C, channels, *taps)),
        "bias": (bias, (gates * C,)),
        "weight_ch": (weight_ch, (3 * C, *axes)),
        "bias_hn": (bias_hn, (C,)),
    }
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


def check_head(head: tuple[Tensor, Tensor], input: Tensor, weights_hh: Sequence[Tensor]) -> None:
    """Raise ValueError unless a head (weight, bias) maps all layers' states to what the first one reads."""
    (weight, bias), I, first = head, input.shape[2], weights_hh[0]
    shape = (I, sum(hh.shape[1] for hh in weights_hh), *(1 for _ in input.shape[3:]))
    if tuple(weight.shape) != shape or tuple(bias.shape) != (I,):
        raise ValueError(
            f"head has shapes {tuple(weight.shape)} and {tuple(bias.shape)}; it needs {shape} and {(I,)}"
        )
    if any(t.device != first.device or t.dtype != first.dtype for t in head):
        raise ValueError(f"head needs tensors of {first.dtype} on {first.device}, as the layers' weights")


Layer = tuple[Tensor | None, Tensor, Tensor | None, Tensor | None]
"""weight_ih, weight_hh, bias, and the LSTM's weight_ch or the GRU's bias_hn."""


def check_layers(kind: str, layers: Sequence[Layer]) -> None:
    """Raise ValueError unless the parameters of all layers fit, and each layer the one below it."""
    if not layers:
        raise ValueError("layers is empty; it needs one layer or more")
    for number, (weight_ih, weight_hh, bias, more) in enumerate(layers):
        if kind == "lstm":
            check_parameters(4, weight_ih, weight_hh, bias, weight_ch=more)
        else:
            check_parameters(3, weight_ih, weight_hh, bias, bias_hn=more)
        if kind == "gru_before" and more is not None:
            raise ValueError(
                f"layer {number} has a bias_hn, which gru_before has no place for; it needs None"
            )
        if number == 0:
            continue
        below, channels = layers[number - 1][1], 0 if weight_ih is None else weight_ih.shape[1]
        like_below = (weight_hh.dim(), weight_hh.dtype, weight_hh.device)
        if channels != below.shape[1] or like_below != (below.dim(), below.dtype, below.device):
            raise ValueError(
                f"layer {number} has {channels} input channels and a weight_hh {tuple(weight_hh.shape)} of "
                f"{weight_hh.dtype} on {weight_hh.device}; it needs {below.shape[1]} channels, and the axes, "
                f"type and device of the layer below: {tuple(below.shape)}, {below.dtype}, {below.device}"
            )


def check_peepholes(input: Tensor, weight_ch: Tensor | None) -> None:
    """Raise ValueError unless peepholes per pixel were made for frames of the input's size."""
    frame, pixels = tuple(input.shape[3:]), None if weight_ch is None else tuple(weight_ch.shape[1:])
    if pixels is not None and pixels != frame and set(pixels) != {1}:
        raise ValueError(
            f"input has frames of {sizes(frame)}, but the per-pixel peepholes were made for "
            f"{sizes(pixels)}; give frames of that size (peephole='channel' fits any)"
        )


def check_steps(input: Tensor, read_given: Tensor | None, given: int, steps: int, first: int) -> None:
    """Raise ValueError unless the numbers of a forecast go together; see `convlstm.ops.forecast`."""
    T, B, *_ = input.shape
    if input.dim() == 4:
        raise ValueError(f"input has shape {tuple(input.shape)}; it needs two or three spatial axes")
    inputs = given if read_given is None else steps
    if not 0 <= first < given <= steps or inputs != T:
        raise ValueError(
            f"first, given and steps are {first}, {given} and {steps}, of {T} inputs; it needs 0 <= first < "
            "given <= steps, and as many inputs as steps with read_given, as given without"
        )
    if read_given is None:
        return
    shape, found = (steps - given, B), (tuple(read_given.shape), read_given.dtype, read_given.device)
    if found != (shape, torch.bool, input.device):
        raise ValueError(
            f"read_given has shape {found[0]} and type {found[1]} on {found[2]}; "
            f"it needs {shape} and torch.bool on {input.device}"
        )


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
