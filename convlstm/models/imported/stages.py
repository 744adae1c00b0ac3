"""The stages of an `ImportedNetwork`, as plain data that can be written as JSON.

A stage reads a sequence (B, T, C, *S) or a frame (B, C, *S), where S is the one to three spatial axes. Stages
without a time axis of their own treat each frame of a sequence alike.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from convlstm.core.checks import check_choices, finite, positive, set_fields


def hard_sigmoid_keras2(x: Tensor) -> Tensor:
    """clip(0.2 x + 0.5, 0, 1), which Keras 2 calls hard_sigmoid; Keras 3 and torch divide by 6 instead."""
    return (0.2 * x + 0.5).clamp(0, 1)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "tanh": torch.tanh,
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": partial(F.leaky_relu, negative_slope=0.2),  # as in Keras 3 and the nowcasting codes
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "silu": F.silu,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": F.hardsigmoid,
    "hard_sigmoid_keras2": hard_sigmoid_keras2,
}


class Described:
    """The base of the stages, which shows the fields that differ from their defaults."""

    def __str__(self) -> str:
        """Return the stage as in convolution(input_channels=1, output_channels=8, kernel_size=(3, 3))."""
        kind, *others = fields(cast(Any, self))
        shown = []
        for field in others:
            value = getattr(self, field.name)
            # An empty default of sizes stands for ones or zeros.
            is_default = value == field.default or (field.default == () and set(value) in ({0}, {1}))
            shown += [] if is_default else [f"{field.name}={value!r}"]
        return f"{kind.default}({', '.join(shown)})"


@dataclass(frozen=True, kw_only=True)
class Recurrent(Described):
    """A ConvLSTM cell over time. The defaults are `ConvLSTMCell`; other values are what other projects do."""

    stage: Literal["recurrent"] = "recurrent"
    input_channels: int
    hidden_channels: int
    kernel_size: tuple[int, ...]
    """Taps per spatial axis."""
    bias: bool = True
    peephole: Literal["channel"] | tuple[int, ...] | None = None
    """None for no peepholes, "channel" for one weight per channel, or a frame size for one per channel and
    pixel."""
    activation: str = "tanh"
    """Activation of the candidate g and of the cell state."""
    recurrent_activation: str = "sigmoid"
    """Activation of the gates."""
    output: Literal["cell", "candidate"] = "cell"
    """h = o . a(c) for "cell", h = o . a(g) for "candidate"."""
    norm: Literal["group", "layer"] | None = None
    """Norm before the activations of the gates: None, a group norm of the sum of both convolutions, or a
    layer norm of each."""
    groups: int = 1
    """Groups of the group norm."""
    frame: tuple[int, ...] | None = None
    """Frame size of the layer norms."""
    padding: Literal["same", "valid"] = "same"
    """Padding of the input convolution. The recurrent convolution keeps the frame size."""
    stride: tuple[int, ...] = ()
    """Stride of the input convolution, per axis. Default: ones."""
    dilation: tuple[int, ...] = ()
    """Dilation of the input convolution, per axis. Default: ones."""
    reverse: bool = False
    """Whether to read time backwards and return the outputs in that order, as Keras's go_backwards does."""
    merge: Literal["concat", "sum", "mul", "ave"] | None = None
    """How to merge the outputs with those of a second cell, which reads time in the other direction. None: no
    second cell."""
    sequences: bool = True
    """Whether to return the outputs of all steps, or only that of the last, as a frame."""
    starts_from: int | None = None
    """In a forecaster: index of the recurrent stage of `stages` whose last states it starts from."""

    def __post_init__(self) -> None:
        axes = len(self.kernel_size)
        ones = (1,) * axes
        for name, default in (("kernel_size", ()), ("stride", ones), ("dilation", ones), ("frame", None)):
            _set_sizes(self, name, axes, default)
        if isinstance(self.peephole, list):
            set_fields(self, peephole=tuple(self.peephole))
        for name in ("input_channels", "hidden_channels", "groups"):
            positive(name, getattr(self, name))
        check_choices(self, activation=tuple(ACTIVATIONS), recurrent_activation=tuple(ACTIVATIONS))
        check_choices(self, output=("cell", "candidate"), norm=(None, "group", "layer"))
        check_choices(self, padding=("same", "valid"), merge=(None, "concat", "sum", "mul", "ave"))
        if (self.norm == "layer") != (self.frame is not None):
            raise ValueError(f"frame is {self.frame} with norm {self.norm!r}; only norm 'layer' needs one")
        if 4 * self.hidden_channels % self.groups:
            raise ValueError(
                f"groups is {self.groups}; it needs to divide the {4 * self.hidden_channels} gate channels"
            )

    @property
    def plain(self) -> bool:
        """True if this is the equation of `ConvLSTMCell`."""
        equation = self.activation, self.recurrent_activation, self.output, self.norm, self.padding
        steps = {*self.stride, *self.dilation}
        return equation == ("tanh", "sigmoid", "cell", None, "same") and steps == {1}

    @property
    def channels_out(self) -> int:
        """Channels of a frame that leaves the stage."""
        return self.hidden_channels * (2 if self.merge == "concat" else 1)


@dataclass(frozen=True, kw_only=True)
class Convolution(Described):
    """A convolution of each frame, or over time too; it may be transposed."""

    stage: Literal["convolution"] = "convolution"
    input_channels: int
    output_channels: int
    kernel_size: tuple[int, ...]
    """Taps per axis; with `over_time`, those of the time axis come first."""
    stride: tuple[int, ...] = ()
    """Per axis. Default: ones."""
    dilation: tuple[int, ...] = ()
    """Per axis. Default: ones."""
    padding: Literal["same", "valid"] | tuple[int, ...] = "same"
    """Number of zeros at both ends of each axis, or "same" or "valid" as in Keras."""
    output_padding: tuple[int, ...] = ()
    """Output padding of a transposed convolution, per axis. Default: zeros."""
    transposed: bool = False
    over_time: bool = False
    bias: bool = True

    def __post_init__(self) -> None:
        axes = len(self.kernel_size)
        ones, zeros = (1,) * axes, (0,) * axes
        for name, default in (("kernel_size", ()), ("stride", ones), ("dilation", ones)):
            _set_sizes(self, name, axes, default)
        _set_sizes(self, "output_padding", axes, zeros, least=0)
        if not isinstance(self.padding, str):
            _set_sizes(self, "padding", axes, zeros, least=0)
        else:
            check_choices(self, padding=("same", "valid"))
            if self.transposed:
                raise ValueError(f"padding is {self.padding!r}; a transposed convolution needs numbers")
        for name in ("input_channels", "output_channels"):
            positive(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class BatchNorm(Described):
    """A batch norm of each channel."""

    stage: Literal["batch_norm"] = "batch_norm"
    channels: int
    eps: float = 1e-5

    def __post_init__(self) -> None:
        positive("channels", self.channels)
        finite("eps", self.eps, least=0)


@dataclass(frozen=True, kw_only=True)
class Activation(Described):
    """An elementwise activation."""

    stage: Literal["activation"] = "activation"
    name: str
    slope: float | None = None
    """Negative slope of a leaky_relu. Default: 0.2."""

    def __post_init__(self) -> None:
        check_choices(self, name=tuple(ACTIVATIONS))
        if self.slope is not None:
            finite("slope", self.slope)


@dataclass(frozen=True, kw_only=True)
class Patches(Described):
    """Cuts frames into patches of size x size pixels, which become channels (dy, dx, c); or the inverse."""

    stage: Literal["patches"] = "patches"
    size: int
    inverse: bool = False

    def __post_init__(self) -> None:
        positive("size", self.size)


@dataclass(frozen=True, kw_only=True)
class Repeat(Described):
    """Repeats one frame, (B, C, *S) or (B, 1, C, *S), into a sequence of `times` frames."""

    stage: Literal["repeat"] = "repeat"
    times: int

    def __post_init__(self) -> None:
        positive("times", self.times)


@dataclass(frozen=True, kw_only=True)
class Pick(Described):
    """Selects steps of a sequence by their indices. Without any, the last step alone, as a frame."""

    stage: Literal["pick"] = "pick"
    steps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        set_fields(self, steps=tuple(positive("steps", n, least=0) for n in self.steps))


Stage = Recurrent | Convolution | BatchNorm | Activation | Patches | Repeat | Pick
_KINDS: dict[str, type[Any]] = {kind.stage: kind for kind in get_args(Stage)}


def stage_of(value: Any) -> Stage:
    """Return a stage, given itself or the dict that `dataclasses.asdict` makes of it.

    Raises:
        ValueError: the value is neither, has an unknown stage or field, or has a value that does not fit.
    """
    if isinstance(value, Stage):
        return value
    if not isinstance(value, Mapping) or value.get("stage") not in _KINDS:
        raise ValueError(f"a stage is {value!r}; it needs an object with 'stage', one of {', '.join(_KINDS)}")
    try:
        return _KINDS[value["stage"]](**value)
    except TypeError as error:  # such as a number where a list belongs
        raise ValueError(f"a stage {value['stage']!r} does not fit: {error}") from error


def _set_sizes(stage: Any, name: str, axes: int, default: tuple[int, ...] | None, *, least: int = 1) -> None:
    """Set a field to a tuple of whole numbers, one per axis of the kernel; if empty, to the default."""
    value = getattr(stage, name)
    sizes = tuple(positive(name, size, least) for size in value) if value else default
    if sizes is not None and len(sizes) != axes:
        raise ValueError(f"{name} is {sizes}; it needs {axes} numbers, one per axis")
    set_fields(stage, **{name: sizes})
