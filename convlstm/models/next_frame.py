"""What the autoregressive networks share: they predict the next frame from each frame, and read it.

Letters: T time, B batch, C image channels, H W pixels.
"""

from collections.abc import Sequence

from torch import Tensor

from convlstm import ops
from convlstm.core.checks import check_tensor
from convlstm.models.forecaster import Config, Forecaster, ForecasterState

CellStates = tuple[tuple[Tensor, ...] | None, ...]


class NextFrameForecaster(Forecaster[Config]):
    """An autoregressive network: it predicts the next frame from each; subclasses define `_next_frames`."""

    def encode(self, context: Tensor) -> ForecasterState:
        """Read the context (B, T, C, H, W); its last frame waits in the state for the first step."""
        self._check_context(context)
        return self._read(context)[1]

    def step(self, frame: Tensor | None, state: ForecasterState) -> tuple[Tensor, ForecasterState]:
        """Read a frame (B, C, H, W), or None for the network's own last one; predict the frame after it."""
        if state.frame is None:
            raise ValueError("state.frame is None: this state is not from this network's encode or step")
        if frame is None:
            frame = state.frame
        else:
            check_tensor("frame", frame)
            if frame.shape != state.frame.shape:
                raise ValueError(
                    f"frame has shape {tuple(frame.shape)}; it needs {tuple(state.frame.shape)}, "
                    "as the context had"
                )
            ops.check_type("frame", frame, self._weight)
        predictions, cells = self._next_frames(frame.unsqueeze(1), state.cells)
        prediction = predictions.squeeze(1)  # (B, C, H, W)
        return prediction, ForecasterState(cells, prediction.clone())  # whatever is done to the one returned

    def _read(self, context: Tensor) -> tuple[Sequence[Tensor], ForecasterState]:
        predictions, cells = (), (None,) * self._layers
        if context.shape[1] > 1:
            frames, cells = self._next_frames(context[:, :-1], cells)
            predictions = frames.unbind(1)
        return predictions, ForecasterState(cells, context[:, -1].clone())  # not the caller's memory

    @property
    def _layers(self) -> int:
        """Number of cells, one above the other."""
        raise NotImplementedError

    def _next_frames(
        self, frames: Tensor, cells: CellStates
    ) -> tuple[Tensor, tuple[tuple[Tensor, ...], ...]]:
        """Predict the frame after each of (B, T, C, H, W), in their type; return also the cells' states."""
        raise NotImplementedError
