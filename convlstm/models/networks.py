"""The networks: StackedForecaster and EncoderForecaster, built from configs that go to JSON and back.

Letters: T time, B batch, C image channels, H W pixels, p patch size. Frames are (B, T, C, H, W) with pixels
in [0, 1]. A network holds no loss, no device and no training setting.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convlstm import ops
from convlstm.core.checks import check_choices, set_fields
from convlstm.models.convolutional import (
    ConvForecaster,
    ConvForecasterConfig,
    convolution_down,
    convolution_up,
    on_each_frame,
    run_cells,
    whole_numbers,
)
from convlstm.models.forecaster import ForecasterState
from convlstm.models.next_frame import NextFrameForecaster
from convlstm.nn.base import ConvCell

__all__ = [
    "EncoderForecaster",
    "EncoderForecasterConfig",
    "StackedForecaster",
    "StackedForecasterConfig",
]

GROUP = 8  # channels of a group norm's groups


@dataclass(frozen=True, kw_only=True)
class StackedForecasterConfig(ConvForecasterConfig):
    """Everything that a `StackedForecaster` is built from."""

    residual: bool = False
    """Whether a cell reads the sum of the outputs of all cells below it, in place of the last of them."""
    norm: Literal["group"] | None = None
    """Of what a cell reads from the cells below it: none, or a group norm in groups of 8 channels."""
    head: Literal["all", "last"] = "all"
    """Whose states the head reads: those of all cells, concatenated, or of the last one alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self, norm=(None, "group"), head=("all", "last"))
        if not isinstance(self.residual, bool):
            raise ValueError(f"residual is {self.residual!r}; it needs true or false")
        if self.residual and len(set(self.hidden_channels)) > 1:
            raise ValueError(
                f"residual is True, but hidden_channels is {self.hidden_channels}; to be summed, all layers "
                "need the same number"
            )
        if self.norm and any(c % GROUP for c in self.hidden_channels):
            raise ValueError(
                f"norm is {self.norm!r}, but hidden_channels is {self.hidden_channels}; groups of {GROUP} "
                f"channels need multiples of {GROUP}"
            )

    @property
    def unread_channels(self) -> int:
        """The hidden channels, of the first layers, that the head does not read."""
        return sum(self.hidden_channels[:-1]) if self.head == "last" else 0


@dataclass(frozen=True, kw_only=True)
class EncoderForecasterConfig(ConvForecasterConfig):
    """Everything that an `EncoderForecaster` is built from; the defaults are the paper's best network."""

    hidden_channels: tuple[int, ...] = (128, 64, 64)
    """Hidden channels of each encoder layer; the forecaster has the same, reversed."""
    peephole: Literal["channel"] | None = "channel"
    """Peepholes of LSTM cells: one weight per channel, as in the paper, or none."""
    strides: tuple[int, ...] = ()
    """Of each layer, the one nearest the frames first, as (1, 2, 2): where it is above 1, a convolution of
    this stride stands before the encoder's cell, and a transposed one after the forecaster's. None (the
    default): 1 everywhere."""

    def __post_init__(self) -> None:
        super().__post_init__()
        strides = whole_numbers("strides", self.strides, "(1, 2)")
        if strides and len(strides) != len(self.hidden_channels):
            raise ValueError(
                f"strides is {strides}; it needs {len(self.hidden_channels)} numbers, as hidden_channels has"
            )
        set_fields(self, strides=strides if math.prod(strides) > 1 else ())

    @property
    def unit(self) -> int:
        """The pixels that the sides of a frame must be whole multiples of."""
        return self.patch_size * math.prod(self.strides)

    @property
    def layers_on_grid(self) -> int:
        """How many layers, from the first, work on the same grid: those whose states the head reads."""
        coarser = (n for n, stride in enumerate(self.strides) if n and stride > 1)
        return next(coarser, super().layers_on_grid)

    def _divisors(self) -> str:
        return super()._divisors() + (f" and strides of {self.strides}" if self.strides else "")


class StackedForecaster(
    ConvForecaster[StackedForecasterConfig], NextFrameForecaster[StackedForecasterConfig]
):
    """A stack of recurrent cells that predicts the next frame from each frame, and reads it in its turn.

    Frames are cut into patches, whose pixels become channels; each cell reads the states of the one before;
    a 1x1 convolution turns the states of all cells, concatenated, or with head="last" those of the last cell,
    into the patches of the next frame. After the context the network reads its own predictions (or, in
    training, targets where `use_target` says so).

    `step(frame, state)` reads `frame`, or where it is None the network's own last prediction (the last
    context frame just after `encode`), and predicts the frame after it.

    With `residual` and `norm` a cell reads the sum of the outputs of the cells below it, and a norm of what
    it would read; nothing of this is inside the recurrence, and the head reads the outputs themselves. Such
    networks run cell by cell, where others run a whole forecast as one op: they are slower.
    """

    config_type = StackedForecasterConfig

    def __init__(self, config: StackedForecasterConfig):
        super().__init__(config)
        widths = (config.patch_channels, *config.hidden_channels)
        self.cells = nn.ModuleList(config.make_cell(i, c) for i, c in pairwise(widths))
        read = sum(config.hidden_channels) - config.unread_channels
        self.head = nn.Conv2d(read, config.patch_channels, kernel_size=1)
        self.norms = nn.ModuleList(
            nn.GroupNorm(c // GROUP, c) for c in (config.hidden_channels[:-1] if config.norm else ())
        )

    def _predict(
        self,
        context: Tensor,
        horizon: int,
        targets: Tensor | None,
        use_target: Tensor | None,
        return_context: bool,
    ) -> Tensor:
        if self._at_once(context):
            return self._predict_at_once(context, horizon, targets, use_target, return_context)
        return super()._predict(context, horizon, targets, use_target, return_context)

    def _at_once(self, context: Tensor) -> bool:
        """Whether a fused op runs the whole forecast, with one gradient per weight for all of it."""
        if self.config.cell == "rnn" or self.config.residual or self.config.norm:
            return False
        return ops.is_fused(context.device, ops.compute_dtype(self.head.weight))

    def _predict_at_once(
        self,
        context: Tensor,
        horizon: int,
        targets: Tensor | None,
        use_target: Tensor | None,
        return_context: bool,
    ) -> Tensor:
        frames, given = context, context.shape[1]
        if targets is not None:
            frames = torch.cat([context, targets[:, :-1].to(context.dtype)], dim=1)
        assert self.head.bias is not None
        # The op's head reads all states: zeros stand for those that are not read.
        weight = F.pad(self.head.weight, [0, 0, 0, 0, self.config.unread_channels, 0])
        cells = [cell for cell in self.cells if isinstance(cell, ConvCell)]
        predictions = ops.forecast(
            str(cells[0].kind),
            self._to_patches(frames),
            [cell.parameters_of_op() for cell in cells],
            (weight, self.head.bias),
            None if use_target is None else use_target.t(),
            given=given,
            steps=given + horizon - 1,
            first=0 if return_context else given - 1,
            sigmoid=self.config.output == "sigmoid",
            recompute=cells[0].recompute,
        )  # (T, B, p * p * C, h, w)
        return self._to_frames(predictions).to(context.dtype)

    @property
    def _layers(self) -> int:
        return len(self.cells)

    def _next_frames(
        self, frames: Tensor, cells: tuple[tuple[Tensor, ...] | None, ...]
    ) -> tuple[Tensor, tuple[tuple[Tensor, ...], ...]]:
        outputs, cells = run_cells(self.cells, self._to_patches(frames), cells, self._between)
        patches = self._apply_head(torch.cat(outputs if self.config.head == "all" else outputs[-1:], dim=2))
        return self._to_frames(patches).to(frames.dtype), cells

    def _between(self, number: int, outputs: list[Tensor]) -> Tensor:
        """What a cell reads of the cells below it."""
        x = torch.stack(outputs).sum(dim=0) if self.config.residual else outputs[-1]
        return on_each_frame(self.norms[number - 1], x) if self.config.norm else x


class EncoderForecaster(ConvForecaster[EncoderForecasterConfig]):
    """The encoder-forecaster of Shi et al. 2015, "Convolutional LSTM Network", figure 3.

    The encoder's cells read the context. The forecaster is the encoder reversed: each of its cells starts
    from the state of the encoder cell of its width; its first cell has no input convolution, the others read
    the cell before. A 1x1 convolution over the states of all forecaster cells, concatenated, gives the
    patches of each predicted frame. No frame is ever read after the context, so `step` takes None for one.

    With peepholes per channel, 5x5 kernels and 128, 64, 64 channels on 4x4 patches (the default config) it
    has 7,585,296 parameters; 128, 128 gives 10,042,896 and 256 gives 13,524,496, as printed in the paper.

    With `strides` it is the later form, of Shi et al. 2017, "Deep Learning for Precipitation Nowcasting",
    figure 1: upper layers see more of a frame on a coarser grid. Before the encoder's cell of a layer with
    stride s stands a convolution of stride s with the layer's channels; after its cell of the forecaster a
    transposed one with the channels of the layer below; each ends with a leaky ReLU of slope 0.2. The head
    then reads the forecaster's cells on the finest grid alone; where the first stride is above 1, through the
    transposed convolution that leads to the patches.
    """

    feedback = False
    config_type = EncoderForecasterConfig

    def __init__(self, config: EncoderForecasterConfig):
        super().__init__(config)
        hidden = config.hidden_channels
        strides = config.strides or (1,) * len(hidden)
        below = (config.patch_channels, *hidden)
        # What a cell reads of the layer below or above it has, after a convolution, the cell's own channels.
        upward = [c if s > 1 else b for (b, c), s in zip(pairwise(below), strides, strict=True)]
        downward = [b if s > 1 else c for (b, c), s in zip(pairwise(hidden), strides[1:], strict=True)]
        self.encoder = nn.ModuleList(map(config.make_cell, upward, hidden))
        self.forecaster = nn.ModuleList(map(config.make_cell, (0, *downward[::-1]), hidden[::-1]))
        finest = sum(hidden[: config.layers_on_grid])
        self.head = nn.Conv2d(hidden[0] if strides[0] > 1 else finest, config.patch_channels, kernel_size=1)
        # By the number of the layer that they lie below.
        self.down, self.up = nn.ModuleDict(), nn.ModuleDict()
        for n, ((b, c), s) in enumerate(zip(pairwise(below), strides, strict=True)):
            if s > 1:
                self.down[str(n)] = convolution_down(b, c, s)
                self.up[str(n)] = convolution_up(c, b, s) if n else convolution_up(finest, c, s)

    def encode(self, context: Tensor) -> ForecasterState:
        """Read the context (B, T, C, H, W); return the states for the forecaster's cells."""
        self._check_context(context)
        first = _through(self.down, 0, self._to_patches(context))
        nothing = (None,) * len(self.encoder)
        _, states = run_cells(
            self.encoder, first, nothing, lambda number, outputs: _through(self.down, number, outputs[-1])
        )
        return ForecasterState(states[::-1], None)

    def step(self, frame: Tensor | None, state: ForecasterState) -> tuple[Tensor, ForecasterState]:
        """Predict the next frame (B, C, H, W), in the type of the weights; `frame` must be None."""
        if frame is not None:
            raise ValueError(
                "frame given to EncoderForecaster.step, which reads no frame after the context; pass None"
            )
        frames, state = self._forecast(state, 1)
        return frames.squeeze(1), state

    def _predict(
        self,
        context: Tensor,
        horizon: int,
        targets: Tensor | None,
        use_target: Tensor | None,
        return_context: bool,
    ) -> Tensor:
        return self._forecast(self.encode(context), horizon)[0].to(context.dtype)

    def _forecast(self, state: ForecasterState, horizon: int) -> tuple[Tensor, ForecasterState]:
        """Predict `horizon` frames (B, horizon, C, H, W) from the forecaster's states."""
        if state.cells[0] is None:
            raise ValueError("state.cells is empty: this state is not from this network's encode or step")
        if state.frame is not None:
            raise ValueError("state.frame is given: this state is not from this network's encode or step")
        B, _, h, w = state.cells[0][0].shape
        nothing = self.head.weight.new_empty(horizon, B, 0, h, w)  # only its sizes count
        L = len(self.forecaster)
        outputs, cells = run_cells(
            self.forecaster,
            nothing,
            state.cells,
            lambda number, outputs: _through(self.up, L - number, outputs[-1]),
        )
        finest = torch.cat(outputs[-self.config.layers_on_grid :], dim=2)  # (T, B, hidden, h, w)
        # Autocast shortens the type that the head computes in, not that of the frames.
        frames = self._to_frames(self._apply_head(_through(self.up, 0, finest)))
        return frames.to(self.head.weight.dtype), ForecasterState(cells, None)


def _through(convolutions: nn.ModuleDict, layer: int, sequence: Tensor) -> Tensor:
    """A sequence (T, B, C, h, w) through the convolution that lies below a layer, if there is one."""
    name = str(layer)
    return on_each_frame(convolutions[name], sequence) if name in convolutions else sequence
