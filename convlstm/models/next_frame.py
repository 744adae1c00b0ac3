"""What the networks share that predict the next frame from each frame, and read it in its turn.

Letters: T time, B batch, C image channels, H W pixels.
"""

import torch
from torch import Tensor

from convlstm import ops
from convlstm.core.checks import check_tensor
from convlstm.models.forecaster import Config, Forecaster, ForecasterState


class NextFrameForecaster(Forecaster[Config]):
    """A network that reads a frame and predicts the one after it; subclasses give `_next_frames`."""

    feedback = True

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

    def _read(self, context: Tensor) -> tuple[Tensor, ForecasterState]:
        """Read all frames but the last; return the predictions of frames 2..T and the state."""
        cells: tuple[tuple[Tensor, ...] | None, ...] = (None,) * self._layers
        predictions = context[:, :0]
        if context.shape[1] > 1:
            predictions, cells = self._next_frames(context[:, :-1], cells)
        return predictions, ForecasterState(cells, context[:, -1].clone())  # not the caller's memory

    @property
    def _layers(self) -> int:
        """How many cells there are one above the other."""
        raise NotImplementedError

    def _next_frames(
        self, frames: Tensor, cells: tuple[tuple[Tensor, ...] | None, ...]
    ) -> tuple[Tensor, tuple[tuple[Tensor, ...], ...]]:
        """Predict the frame after each of (B, T, C, H, W), in their type; return also the cells' states."""
        raise NotImplementedError


def _waiting(state: ForecasterState) -> Tensor:
    if state.frame is None:
        raise ValueError("state.frame is None: this state is not from this network's encode or step")
    return state.frame
