"""The networks: StackedForecaster and EncoderForecaster, built from configs that go to JSON and back.

Letters: T time, B batch, C image channels, H W pixels, p patch size. Frames are (B, T, C, H, W) with pixels
in [0, 1]. A network holds no loss, no device and no training setting.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from convlstm import ops
from convlstm.arguments import check_tensor
from convlstm.base import ConvCell
from convlstm.forecaster import Forecaster, ForecasterConfig, ForecasterState, run_cells

__all__ = [
    "EncoderForecaster",
    "EncoderForecasterConfig",
    "StackedForecaster",
    "StackedForecasterConfig",
]


@dataclass(frozen=True, kw_only=True)
class StackedForecasterConfig(ForecasterConfig):
    """Everything that a `StackedForecaster` is built from."""


@dataclass(frozen=True, kw_only=True)
class EncoderForecasterConfig(ForecasterConfig):
    """Everything that an `EncoderForecaster` is built from; the defaults are the paper's best network."""

    hidden_channels: tuple[int, ...] = (128, 64, 64)
    """Hidden channels of each encoder layer; the forecaster has the same, reversed."""
    peephole: Literal["channel"] | None = "channel"
    """Peepholes of LSTM cells: one weight per channel, as in the paper, or none."""


class StackedForecaster(Forecaster):
    """A stack of recurrent cells that predicts the next frame from each frame, and reads it in its turn.

    Frames are cut into patches, whose pixels become channels; each cell reads the states of the one before;
    a 1x1 convolution turns the states of all cells, concatenated, into the patches of the next frame. After
    the context the network reads its own predictions (or, in training, targets where `use_target` says so).

    `step(frame, state)` reads `frame`, or where it is None the network's own last prediction (the last
    context frame just after `encode`), and predicts the frame after it.
    """

    feedback = True
    config_type = StackedForecasterConfig

    def __init__(self, config: StackedForecasterConfig):
        super().__init__(config)
        widths = (config.patch_channels, *config.hidden_channels)
        self.cells = nn.ModuleList(config.make_cell(i, c) for i, c in pairwise(widths))
        self.head = nn.Conv2d(sum(config.hidden_channels), config.patch_channels, kernel_size=1)

    def encode(self, context: Tensor) -> ForecasterState:
        """Read the context (B, T, C, H, W); its last frame waits in the state for the first step."""
        self._check_context(context)
        return self._read(context)[1]

    def step(self, frame: Tensor | None, state: ForecasterState) -> tuple[Tensor, ForecasterState]:
        """Read a frame (B, C, H, W), or None for the network's own last one; predict the frame after it."""
        waiting = _waiting(state)
        if frame is None:
            frame = waiting
        else:
            check_tensor("frame", frame)
            if frame.shape != waiting.shape:
                raise ValueError(
                    f"frame has shape {tuple(frame.shape)}; it needs {tuple(waiting.shape)}, "
                    "as the context had"
                )
            ops.check_type("frame", frame, self._weight)
        predictions, cells = self._next_frames(frame.unsqueeze(1), state.cells)
        prediction = predictions.squeeze(1)  # (B, C, H, W)
        return prediction, ForecasterState(cells, prediction.clone())  # whatever is done to the one returned

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
        in_context, state = self._read(context)
        predictions = []
        for t in range(horizon):
            frame = _waiting(state)
            if t and targets is not None and use_target is not None:
                true = targets[:, t - 1].to(frame.dtype)
                frame = torch.where(use_target[:, t - 1, None, None, None], true, frame)
            prediction, state = self.step(frame, state)
            predictions.append(prediction)
        after = torch.stack(predictions, dim=1)  # (B, horizon, C, H, W)
        return torch.cat([in_context, after], dim=1) if return_context else after

    def _at_once(self, context: Tensor) -> bool:
        """Whether a fused op runs the whole forecast, with one gradient per weight for all of it."""
        dtype = ops.compute_dtype(self.head.weight)
        return self.config.cell != "rnn" and ops.is_fused(None, context.device, dtype)

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
        cells = [cell for cell in self.cells if isinstance(cell, ConvCell)]
        predictions = ops.forecast(
            str(cells[0].kind),
            self._to_patches(frames),
            [cell.parameters_of_op() for cell in cells],
            (self.head.weight, self.head.bias),
            None if use_target is None else use_target.t(),
            given=given,
            steps=given + horizon - 1,
            first=0 if return_context else given - 1,
            sigmoid=self.config.output == "sigmoid",
            recompute=cells[0].recompute,
        )  # (T, B, p * p * C, h, w)
        return self._to_frames(predictions).to(context.dtype)

    def _read(self, context: Tensor) -> tuple[Tensor, ForecasterState]:
        """Read all frames but the last; return the predictions of frames 2..T and the state."""
        cells: tuple[tuple[Tensor, ...] | None, ...] = (None,) * len(self.cells)
        predictions = context[:, :0]
        if context.shape[1] > 1:
            predictions, cells = self._next_frames(context[:, :-1], cells)
        return predictions, ForecasterState(cells, context[:, -1].clone())  # not the caller's memory

    def _next_frames(
        self, frames: Tensor, cells: tuple[tuple[Tensor, ...] | None, ...]
    ) -> tuple[Tensor, tuple[tuple[Tensor, ...], ...]]:
        """Predict the frame after each of (B, T, C, H, W); return them and the cells' states."""
        outputs, cells = run_cells(self.cells, self._to_patches(frames), cells)
        return self._to_frames(self._apply_head(outputs)).to(frames.dtype), cells


def _waiting(state: ForecasterState) -> Tensor:
    if state.frame is None:
        raise ValueError("state.frame is None: this state is not from this network's encode or step")
    return state.frame


class EncoderForecaster(Forecaster):
    """The encoder-forecaster of Shi et al. 2015, "Convolutional LSTM Network", figure 3.

    The encoder's cells read the context. The forecaster is the encoder reversed: each of its cells starts
    from the state of the encoder cell of its width; its first cell has no input convolution, the others read
    the cell before. A 1x1 convolution over the states of all forecaster cells, concatenated, gives the
    patches of each predicted frame. No frame is ever read after the context, so `step` takes None for one.

    With peepholes per channel, 5x5 kernels and 128, 64, 64 channels on 4x4 patches (the default config) it
    has 7,585,296 parameters; 128, 128 gives 10,042,896 and 256 gives 13,524,496, as printed in the paper.
    """

    feedback = False
    config_type = EncoderForecasterConfig

    def __init__(self, config: EncoderForecasterConfig):
        super().__init__(config)
        widths = (config.patch_channels, *config.hidden_channels)
        self.encoder = nn.ModuleList(config.make_cell(i, c) for i, c in pairwise(widths))
        upward = (0, *reversed(config.hidden_channels))
        self.forecaster = nn.ModuleList(config.make_cell(i, c) for i, c in pairwise(upward))
        self.head = nn.Conv2d(sum(config.hidden_channels), config.patch_channels, kernel_size=1)

    def encode(self, context: Tensor) -> ForecasterState:
        """Read the context (B, T, C, H, W); return the states for the forecaster's cells."""
        self._check_context(context)
        _, states = run_cells(self.encoder, self._to_patches(context), (None,) * len(self.encoder))
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
        outputs, cells = run_cells(self.forecaster, nothing, state.cells)
        # Autocast shortens the type that the head computes in, not that of the frames.
        frames = self._to_frames(self._apply_head(outputs))
        return frames.to(self.head.weight.dtype), ForecasterState(cells, None)
