"""FullyConnectedForecaster: torch.nn's recurrent layers over flattened frames, as a baseline.

Letters: T time, B batch, C image channels, H W pixels, L layers, N hidden units. Frames are (B, T, C, H, W)
with pixels in [0, 1].
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from convlstm.core.checks import check_choices, positive, set_fields
from convlstm.core.registry import register_model
from convlstm.models.forecaster import ForecasterConfig
from convlstm.models.next_frame import CellStates, NextFrameForecaster
from convlstm.ops.functional import probabilities

__all__ = ["FullyConnectedForecaster", "FullyConnectedForecasterConfig"]

LAYERS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


@dataclass(frozen=True, kw_only=True)
class FullyConnectedForecasterConfig(ForecasterConfig):
    """The config of a `FullyConnectedForecaster`: the fields of `ForecasterConfig` and those below.

    Attributes:
        cell: Kind of recurrent cell.
        frame_size: Height and width of the frames, in pixels; every pixel has weights of its own.
        hidden_size: Hidden units N of each layer.
        num_layers: Recurrent layers L, one above the other.

    Example:
        >>> config = convlstm.FullyConnectedForecasterConfig(cell="gru", frame_size=(32, 32))
        >>> network = convlstm.FullyConnectedForecaster(config)
    """

    cell: Literal["rnn", "lstm", "gru"] = "lstm"
    frame_size: tuple[int, int] = (64, 64)
    hidden_size: int = 512
    num_layers: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self, cell=tuple(LAYERS))
        if not isinstance(self.frame_size, tuple | list) or len(self.frame_size) != 2:
            raise ValueError(f"frame_size is {self.frame_size!r}; it needs a height and a width, as (64, 64)")
        frame_size = tuple(positive("frame_size", side) for side in self.frame_size)
        sizes = {name: positive(name, getattr(self, name)) for name in ("hidden_size", "num_layers")}
        set_fields(self, frame_size=frame_size, **sizes)

    def frame_size_error(self, height: int, width: int) -> str:
        """Return why the network cannot take frames of this size, as the end of a sentence; "" if it can."""
        H, W = self.frame_size
        if (height, width) == (H, W):
            return ""
        return f"but a fully connected network reads those of its frame_size alone: {H} x {W}"


@register_model
class FullyConnectedForecaster(NextFrameForecaster[FullyConnectedForecasterConfig]):
    """A torch.nn.RNN, LSTM or GRU over flattened frames, each unit with a weight for every pixel.

    The network predicts the next frame from each frame and reads its own predictions after the context, as a
    `StackedForecaster` does, and is called in the same way. A linear layer turns the uppermost hidden state
    into the pixels of the next frame. It is the baseline that convolution is measured against (the FC-LSTM of
    Srivastava et al. 2015 and Shi et al. 2015): what it learns about one place of a frame tells it nothing
    about another, and its frames are of one size.

    With G gates (RNN 1, LSTM 4, GRU 3) it has G N (C H W + N + 2) parameters in the first layer,
    G N (2 N + 2) in each other and (N + 1) C H W in the head. The states of a layer are `(B, N, 1, 1)`:
    frames of one pixel.

    Args:
        config: a `FullyConnectedForecasterConfig`.
        fields: its fields, in place of it, as in `FullyConnectedForecaster(hidden_size=256)`.

    Example:
        >>> network = convlstm.FullyConnectedForecaster(frame_size=(16, 16), hidden_size=32)
        >>> network(torch.rand(2, 5, 1, 16, 16), horizon=3).shape
        torch.Size([2, 3, 1, 16, 16])
    """

    config_type = FullyConnectedForecasterConfig

    def __init__(self, config: FullyConnectedForecasterConfig | None = None, **fields: Any):
        super().__init__(config, **fields)
        config = self.config
        H, W = config.frame_size
        pixels = config.channels * H * W
        self.rnn = LAYERS[config.cell](pixels, config.hidden_size, num_layers=config.num_layers)
        self.head = nn.Linear(config.hidden_size, pixels)

    @property
    def _layers(self) -> int:
        return self.config.num_layers

    def _next_frames(
        self, frames: Tensor, cells: CellStates
    ) -> tuple[Tensor, tuple[tuple[Tensor, ...], ...]]:
        pixels = frames.flatten(2).transpose(0, 1)  # (T, B, C * H * W)
        outputs, last = self.rnn(pixels, self._first(cells))  # (T, B, N)
        predictions = self.head(outputs).transpose(0, 1).unflatten(2, frames.shape[2:])
        if self.config.output == "sigmoid":
            predictions = probabilities(predictions)
        states = last if isinstance(last, tuple) else (last,)  # (L, B, N) each
        by_layer = zip(*(state[..., None, None] for state in states), strict=True)
        return predictions.to(frames.dtype), tuple(by_layer)

    def _first(self, cells: CellStates) -> Tensor | tuple[Tensor, Tensor] | None:
        """Return the states to begin with, as torch.nn takes them; None for zeros."""
        given = [cell for cell in cells if cell is not None]
        if not given:
            return None
        # Under autocast the layers return shorter types than they take.
        stacked = [
            torch.stack(states)[..., 0, 0].to(self._weight.dtype) for states in zip(*given, strict=True)
        ]  # (L, B, N) each
        return (stacked[0], stacked[1]) if len(stacked) == 2 else stacked[0]
