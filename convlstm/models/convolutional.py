"""What the networks of convolutional cells share: patches, stacks of cells, what stands between the cells.

Letters: T time, B batch, C image channels, H W pixels, p patch size, h w rows and columns of a grid.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from einops import rearrange
from torch import Tensor, nn

from convlstm.core.checks import check_choices, positive, set_fields
from convlstm.models.forecaster import Forecaster, ForecasterConfig
from convlstm.nn.base import ConvCell
from convlstm.nn.cells import ConvGRUCell, ConvLSTMCell, ConvRNNCell
from convlstm.ops.functional import probabilities


@dataclass(frozen=True, kw_only=True)
class ConvForecasterConfig(ForecasterConfig):
    """What the configs of convolutional networks share: the fields of `ForecasterConfig` and those below.

    Attributes:
        cell: Kind of recurrent cell.
        hidden_channels: Hidden channels of each layer, the one nearest the frames first.
        kernel_size: Kernel size of a cell's convolutions.
        patch_size: Side p of the square patches that become channels, in pixels; it must divide the frames.
        peephole: Peepholes of LSTM cells: none, or one weight per channel.
    """

    cell: Literal["rnn", "lstm", "gru"] = "lstm"
    hidden_channels: tuple[int, ...] = (64, 64, 64)
    kernel_size: int = 5
    patch_size: int = 4
    peephole: Literal["channel"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        hidden = whole_numbers("hidden_channels", self.hidden_channels, "(64, 64)")
        if not hidden:
            raise ValueError("hidden_channels is empty; it needs one number per layer")
        sizes = {name: positive(name, getattr(self, name)) for name in ("kernel_size", "patch_size")}
        set_fields(self, hidden_channels=hidden, **sizes)
        check_choices(self, cell=("rnn", "lstm", "gru"), peephole=(None, "channel"))
        if self.peephole is not None and self.cell != "lstm":
            raise ValueError(
                f"peephole is {self.peephole!r}, but a {self.cell} has no cell state; set it to None "
                "(train.py: --model.peephole None)"
            )

    def make_cell(self, input_channels: int, hidden_channels: int) -> ConvCell:
        """Make a cell of the configured kind."""
        if self.cell == "lstm":
            return ConvLSTMCell(input_channels, hidden_channels, self.kernel_size, peephole=self.peephole)
        kind = {"rnn": ConvRNNCell, "gru": ConvGRUCell}[self.cell]
        return kind(input_channels, hidden_channels, self.kernel_size)

    @property
    def patch_channels(self) -> int:
        """Channels of a frame cut into patches, p * p * C."""
        return self.channels * self.patch_size**2

    def frame_size_error(self, height: int, width: int) -> str:
        """Return why the network cannot take frames of this size, as the end of a sentence; "" if it can."""
        unit, divisors = self._unit()
        if height % unit == 0 and width % unit == 0:
            return ""
        return f"which {divisors} do not divide; it needs multiples of {unit}"

    def _unit(self) -> tuple[int, str]:
        """Return the number of pixels whose multiples the sides of a frame need to be, and what it is for."""
        return self.patch_size, f"patches of {self.patch_size} x {self.patch_size}"


def whole_numbers(name: str, value: Any, example: str) -> tuple[int, ...]:
    """Return numbers of 1 or more, one per layer, as a tuple; else raise ValueError naming the field."""
    if not isinstance(value, tuple | list):
        raise ValueError(f"{name} is {value!r}; it needs one number per layer, as in {example}")
    return tuple(positive(name, number) for number in value)


Config = TypeVar("Config", bound=ConvForecasterConfig)


class ConvForecaster(Forecaster[Config]):
    """What the networks of convolutional cells share: frames to patches and back, and the head."""

    head: nn.Conv2d

    def _to_patches(self, frames: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (T, B, p * p * C, H / p, W / p)."""
        p = self.config.patch_size
        return rearrange(frames, "b t c (h p) (w q) -> t b (p q c) h w", p=p, q=p)

    def _to_frames(self, patches: Tensor) -> Tensor:
        """(T, B, p * p * C, h, w) -> (B, T, C, h * p, w * p)."""
        p = self.config.patch_size
        return rearrange(patches, "t b (p q c) h w -> b t c (h p) (w q)", p=p, q=p)

    def _apply_head(self, states: Tensor) -> Tensor:
        """(T, B, hidden, h, w) -> the patches (T, B, p * p * C, h, w)."""
        patches = on_each_frame(self.head, states)
        return probabilities(patches) if self.config.output == "sigmoid" else patches


def run_cells(
    cells: nn.ModuleList,
    x: Tensor,
    states: tuple[tuple[Tensor, ...] | None, ...],
    between: Callable[[int, list[Tensor]], Tensor] = lambda number, outputs: outputs[-1],
) -> tuple[list[Tensor], tuple[tuple[Tensor, ...], ...]]:
    """Run a stack over a sequence.

    Args:
        cells: one after the other.
        x: (T, B, I, h, w), what the first cell reads.
        states: of each cell, or None to begin with zeros.
        between: returns what cell number 1, 2, ... reads, from its number and the outputs of those before it
            (default: the output of the last of them).

    Returns:
        The outputs (T, B, hidden, h, w) and the last states of every cell.
    """
    outputs, last_states = [], []
    for number, (cell, state) in enumerate(zip(cells, states, strict=True)):
        assert isinstance(cell, ConvCell)
        x = between(number, outputs) if number else x
        output, *last = cell.sequence(x, *(state or [None] * len(cell.states)))  # (T, B, hidden, h, w)
        outputs.append(output)
        last_states.append(tuple(last))
    return outputs, tuple(last_states)


def on_each_frame(module: nn.Module, sequence: Tensor) -> Tensor:
    """Apply a module for frames (B, C, h, w) to each of a sequence (T, B, C, h, w)."""
    return module(sequence.flatten(0, 1)).unflatten(0, sequence.shape[:2])
