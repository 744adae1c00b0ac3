"""StackedForecaster: a stack of cells that predicts the next frame from each frame.

Letters: T time, B batch, C image channels, H W pixels, p patch size.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convlstm import ops
from convlstm.core.checks import check_choices
from convlstm.core.registry import register_model
from convlstm.models.convolutional import ConvForecaster, ConvForecasterConfig, on_each_frame, run_cells
from convlstm.models.next_frame import CellStates, NextFrameForecaster
from convlstm.nn.base import ConvCell

__all__ = ["StackedForecaster", "StackedForecasterConfig"]

GROUP = 8  # channels of a group norm's groups


@dataclass(frozen=True, kw_only=True)
class StackedForecasterConfig(ConvForecasterConfig):
    """The config of a `StackedForecaster`: the fields of `ConvForecasterConfig` and those below.

    Attributes:
        residual: Whether a cell reads the sum of the outputs of all cells below it, not only that of the last
            one.
        norm: Norm of what a cell reads from the cells below it: none, or a group norm in groups of 8
            channels.
        head: Cells whose states the head reads: all of them, concatenated, or the last one alone.

    Example:
        >>> config = convlstm.StackedForecasterConfig(hidden_channels=(64, 64), cell="gru")
        >>> network = convlstm.StackedForecaster(config)
    """

    residual: bool = False
    norm: Literal["group"] | None = None
    head: Literal["all", "last"] = "all"

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
        """Number of hidden channels, those of the first layers, that the head does not read."""
        return sum(self.hidden_channels[:-1]) if self.head == "last" else 0


@register_model
class StackedForecaster(
    ConvForecaster[StackedForecasterConfig], NextFrameForecaster[StackedForecasterConfig]
):
    """A stack of recurrent cells that predicts the next frame from each frame, autoregressively.

    Frames are cut into patches, whose pixels become channels. Each cell reads the states of the one before.
    A 1x1 convolution turns the states of all cells, concatenated, or with head="last" those of the last cell,
    into the patches of the next frame. After the context the network reads its own predictions (or, in
    training, targets where `use_target` says so).

    `step(frame, state)` reads `frame`, or where it is None the network's own last prediction (the last
    context frame just after `encode`), and predicts the frame after it.

    With `residual` a cell reads the sum of the outputs of the cells below it, with `norm` a group norm of
    what it would read. Neither is inside the recurrence, and the head reads the outputs themselves. Such
    networks run cell by cell and are slower: others run a whole forecast as one op.

    Args:
        config: a `StackedForecasterConfig`.
        fields: its fields, in place of it, as in `StackedForecaster(hidden_channels=(64, 64))`.

    Example:
        >>> network = convlstm.StackedForecaster(hidden_channels=(16, 16), kernel_size=3)
        >>> context = torch.rand(2, 5, 1, 32, 32)
        >>> network(context, horizon=3).shape
        torch.Size([2, 3, 1, 32, 32])
        >>> frame, state = network.step(None, network.encode(context))  # the first of them
    """

    config_type = StackedForecasterConfig

    def __init__(self, config: StackedForecasterConfig | None = None, **fields: Any):
        super().__init__(config, **fields)
        config = self.config
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
        if not self._runs_as_one_op(context):
            return super()._predict(context, horizon, targets, use_target, return_context)
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

    def _runs_as_one_op(self, context: Tensor) -> bool:
        """Return whether a fused op runs the whole forecast, with one gradient per weight for all of it."""
        if self.config.cell == "rnn" or self.config.residual or self.config.norm:
            return False
        return ops.is_fused(context.device, ops.compute_dtype(self.head.weight))

    @property
    def _layers(self) -> int:
        return len(self.cells)

    def _next_frames(
        self, frames: Tensor, cells: CellStates
    ) -> tuple[Tensor, tuple[tuple[Tensor, ...], ...]]:
        outputs, cells = run_cells(self.cells, self._to_patches(frames), cells, self._between)
        patches = self._apply_head(torch.cat(outputs if self.config.head == "all" else outputs[-1:], dim=2))
        return self._to_frames(patches).to(frames.dtype), cells

    def _between(self, number: int, outputs: list[Tensor]) -> Tensor:
        """Return what a cell reads of the cells below it."""
        x = torch.stack(outputs).sum(dim=0) if self.config.residual else outputs[-1]
        return on_each_frame(self.norms[number - 1], x) if self.config.norm else x
