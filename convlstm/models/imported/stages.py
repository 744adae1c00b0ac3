"""The stages that a `ImportedNetwork` is made of, as plain data that goes to JSON and back.

A stage works on a sequence (B, T, C, *S) or on one frame (B, C, *S), S the one to three spatial axes; those
without a time axis of their own work on each frame of a sequence.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from convlstm.core.checks import check_choices, finite, positive, set_fields
from convlstm.models.imported.functions import ACTIVATIONS


@dataclass(frozen=True, kw_only=True)
class Recurrent:
    """A ConvLSTM cell over time; the defaults are `ConvLSTMCell`, the rest is what other projects do."""

    stage: Literal["recurrent"] = "recurrent"
    input_channels: int
    hidden_channels: int
    kernel_size: tuple[int, ...]
    """Taps per spatial axis."""
    bias: bool = True
    peephole: Literal["channel"] | tuple[int, ...] | None = None
    """None, one weight per channel, or the frame size: one per channel and pixel."""
    activation: str = "tanh"
    """Of the candidate g and of the cell state."""
    recurrent_activation: str = "sigmoid"
    """Of the gates."""
    output: Literal["cell", "candidate"] = "cell"
    """h = o . a(c), or h = o . a(g)."""
    norm: Literal["group", "layer"] | None = None
    """Of the gates before their activations: none, a group norm of the sum, or layer norms of both parts."""
    groups: int = 1
    """Of the group norm."""
    frame: tuple[int, ...] | None = None
    """Frame size of the layer norms."""
    padding: Literal["same", "valid"] = "same"
    """Of the input convolution; the recurrent one keeps the frame size."""
    stride: tuple[int, ...] = ()
    """Of the input convolution, per axis (default ones)."""
    dilation: tuple[int, ...] = ()
    """Of the input convolution, per axis (default ones)."""
    reverse: bool = False
    """Read time backwards, and return the outputs in that order, as Keras's go_backwards."""
    merge: Literal["concat", "sum", "mul", "ave"] | None = None
    """Run a second cell over time reversed, and merge its outputs with the first's so."""
    sequences: bool = True
    """Return the outputs of all steps; else of the last, as a frame."""
    starts_from: int | None = None
    """In a forecaster: number of the encoder's recurrent stage, from 0, whose last states it starts with."""

    def __post_init__(self) -> None:
        axes = len(self.kernel_size)
        set_fields(self, kernel_size=tuple(positive("kernel_size", k) for k in self.kernel_size))
        for name in ("stride", "dilation"):
            set_fields(self, **{name: tuple(positive(name, n) for n in getattr(self, name)) or (1,) * axes})
            _as_many(self, name, axes)
        _flags(self, "bias", "reverse", "sequences")
        for name in ("peephole", "frame"):
            if isinstance(getattr(self, name), list):
                set_fields(self, **{name: tuple(getattr(self, name))})
        for name in ("input_channels", "hidden_channels", "groups"):
            positive(name, getattr(self, name))
        for name in ("activation", "recurrent_activation"):
            check_choices(self, **{name: tuple(ACTIVATIONS)})
        check_choices(self, output=("cell", "candidate"))
        check_choices(self, norm=(None, "group", "layer"))
        check_choices(self, padding=("same", "valid"))
        check_choices(self, merge=(None, "concat", "sum", "mul", "ave"))
        if (self.norm == "layer") != (self.frame is not None):
            raise ValueError(
                f"frame is {self.frame} with norm {self.norm!r}; norm 'layer' needs it, no other"
            )
        if self.frame is not None:
            set_fields(self, frame=tuple(positive("frame", size) for size in self.frame))
            _as_many(self, "frame", axes)
        if 4 * self.hidden_channels % self.groups:
            raise ValueError(
                f"groups is {self.groups}; it needs to divide the {4 * self.hidden_channels} gate channels"
            )

    @property
    def plain(self) -> bool:
        """Whether this is the equation of `ConvLSTMCell`."""
        ones = (1,) * len(self.kernel_size)
        return (self.activation, self.recurrent_activation, self.output) == ("tanh", "sigmoid", "cell") and (
            self.norm,
            self.padding,
            self.stride,
            self.dilation,
        ) == (None, "same", ones, ones)

    def __str__(self) -> str:
        peephole = "no" if self.peephole is None else "per-channel"
        if isinstance(self.peephole, tuple):
            peephole = f"per-pixel {_times(self.peephole)}"
        extras = [] if self.plain else [f"{self.activation}, {self.recurrent_activation}"]
        extras += ["h = o * g"] if self.output == "candidate" else []
        extras += [f"{self.norm} norm"] if self.norm else []
        extras += ["valid padding"] if self.padding == "valid" else []
        extras += ["time reversed"] if self.reverse else []
        extras += [f"both directions, {self.merge}"] if self.merge else []
        extras += [] if self.sequences else ["last step"]
        sizes = f"{self.input_channels} -> {self.hidden_channels}, {_times(self.kernel_size)}"
        return ", ".join([f"ConvLSTM {sizes}, {peephole} peepholes", *extras])

    @property
    def channels_out(self) -> int:
        """Channels of a frame that leaves the stage."""
        return self.hidden_channels * (2 if self.merge == "concat" else 1)


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """A convolution of each frame, or over time too, or a transposed one."""

    stage: Literal["convolution"] = "convolution"
    input_channels: int
    output_channels: int
    kernel_size: tuple[int, ...]
    """Taps per axis; with `over_time`, time's first."""
    stride: tuple[int, ...] = ()
    """Per axis (default ones)."""
    dilation: tuple[int, ...] = ()
    """Per axis (default ones)."""
    padding: Literal["same", "valid"] | tuple[int, ...] = "same"
    """Zeros at both ends of each axis, or "same" or "valid" as in Keras."""
    output_padding: tuple[int, ...] = ()
    """Of a transposed convolution, per axis (default zeros)."""
    transposed: bool = False
    over_time: bool = False
    bias: bool = True

    def __post_init__(self) -> None:
        axes = len(self.kernel_size)
        for name, default in (("kernel_size", ()), ("stride", (1,) * axes), ("dilation", (1,) * axes)):
            set_fields(self, **{name: tuple(positive(name, n) for n in getattr(self, name)) or default})
        if not isinstance(self.padding, str):
            set_fields(self, padding=tuple(positive("padding", n, least=0) for n in self.padding))
        elif self.transposed:
            raise ValueError(f"padding is {self.padding!r}; a transposed convolution needs numbers")
        else:
            check_choices(self, padding=("same", "valid"))
        zeros = (0,) * axes
        padded = tuple(positive("output_padding", n, 0) for n in self.output_padding)
        set_fields(self, output_padding=padded or zeros)
        for name in ("stride", "dilation", "padding", "output_padding"):
            if not isinstance(getattr(self, name), str):
                _as_many(self, name, axes)
        _flags(self, "transposed", "over_time", "bias")
        for name in ("input_channels", "output_channels"):
            positive(name, getattr(self, name))

    def __str__(self) -> str:
        kind = "transposed convolution" if self.transposed else "convolution"
        extras = ["over time"] if self.over_time else []
        extras += [] if set(self.stride) == {1} else [f"stride {_times(self.stride)}"]
        sizes = f"{self.input_channels} -> {self.output_channels}, {_times(self.kernel_size)}"
        return ", ".join([f"{kind} {sizes}", *extras])


@dataclass(frozen=True, kw_only=True)
class BatchNorm:
    """A batch norm per channel, with the running statistics in evaluation mode."""

    stage: Literal["batch_norm"] = "batch_norm"
    channels: int
    eps: float = 1e-5

    def __post_init__(self) -> None:
        positive("channels", self.channels)
        if finite("eps", self.eps) < 0:
            raise ValueError(f"eps is {self.eps}; it needs a number of 0 or more")

    def __str__(self) -> str:
        return f"batch norm {self.channels}"


@dataclass(frozen=True, kw_only=True)
class Activation:
    """An activation, elementwise."""

    stage: Literal["activation"] = "activation"
    name: str
    slope: float | None = None
    """Of a leaky_relu below zero (default 0.2)."""

    def __post_init__(self) -> None:
        check_choices(self, name=tuple(ACTIVATIONS))
        if self.slope is not None:
            finite("slope", self.slope)

    def __str__(self) -> str:
        return self.name if self.slope is None else f"{self.name} {self.slope:g}"


@dataclass(frozen=True, kw_only=True)
class Patches:
    """Frames cut into size x size patches that become channels, (dy, dx, c) slow to fast; or the inverse."""

    stage: Literal["patches"] = "patches"
    size: int
    inverse: bool = False

    def __post_init__(self) -> None:
        positive("size", self.size)
        _flags(self, "inverse")

    def __str__(self) -> str:
        return f"patches of {self.size}x{self.size} {'back to frames' if self.inverse else 'to channels'}"


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """One frame, (B, C, *S) or (B, 1, C, *S), as a sequence of `times` of it."""

    stage: Literal["repeat"] = "repeat"
    times: int

    def __post_init__(self) -> None:
        positive("times", self.times)

    def __str__(self) -> str:
        return f"one frame {self.times} times"


@dataclass(frozen=True, kw_only=True)
class Pick:
    """The steps of a sequence with these numbers; or its last one alone, as a frame, where there are none."""

    stage: Literal["pick"] = "pick"
    steps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        set_fields(self, steps=tuple(positive("steps", n, least=0) for n in self.steps))

    def __str__(self) -> str:
        return f"steps {', '.join(map(str, self.steps))}" if self.steps else "last step"


Stage = Recurrent | Convolution | BatchNorm | Activation | Patches | Repeat | Pick
_KINDS: dict[str, type[Any]] = {
    "recurrent": Recurrent,
    "convolution": Convolution,
    "batch_norm": BatchNorm,
    "activation": Activation,
    "patches": Patches,
    "repeat": Repeat,
    "pick": Pick,
}


def stage_of(value: Any) -> Stage:
    """Return a stage, or the stage that `dataclasses.asdict` made a dict of.

    Raises:
        ValueError: neither, an unknown stage or field, or a value that does not fit.
    """
    if isinstance(value, tuple(_KINDS.values())):
        return value
    if not isinstance(value, Mapping) or value.get("stage") not in _KINDS:
        raise ValueError(f"a stage is {value!r}; it needs an object with 'stage', one of {', '.join(_KINDS)}")
    kind = _KINDS[value["stage"]]
    fields = {field.name: field for field in dataclasses.fields(kind)}
    needed = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    if wrong := sorted(value.keys() ^ (value.keys() & fields.keys() | needed)):
        raise ValueError(f"a stage {value['stage']!r} has unknown or missing fields: {', '.join(wrong)}")
    try:
        return kind(**value)
    except TypeError as error:  # such as a number where a list belongs
        raise ValueError(f"a stage {value['stage']!r} has a field of a wrong type: {error}") from error


def _flags(stage: Any, *names: str) -> None:
    for name in names:
        if not isinstance(getattr(stage, name), bool):
            raise ValueError(f"{name} is {getattr(stage, name)!r}; it needs true or false")


def _as_many(stage: Any, name: str, axes: int) -> None:
    """Raise ValueError unless a field has one number per axis of the kernel."""
    if len(getattr(stage, name)) != axes:
        raise ValueError(f"{name} is {getattr(stage, name)}; it needs {axes} numbers, one per axis")


def _times(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
