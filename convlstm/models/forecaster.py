"""What the forecasters share: the config, the call and its checks, the state.

Letters: T time, B batch, C image channels, H W pixels. Frames are (B, T, C, H, W) with pixels in [0, 1].
"""

from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from convlstm import ops
from convlstm.core.checks import check_choices, check_tensor, positive, set_fields
from convlstm.core.saving import Configured
from convlstm.nn.base import ConvRecurrent


@dataclass(frozen=True, kw_only=True)
class ForecasterConfig:
    """The fields that the configs of all forecasters share."""

    cell: Literal["rnn", "lstm", "gru"] = "lstm"
    """Kind of recurrent cell."""
    channels: int = 1
    """C, channels of a frame: 1 for gray, 3 for colour."""
    output: Literal["linear", "sigmoid"] = "linear"
    """What the head ends with: nothing (unclipped values), or a sigmoid (values in (0, 1))."""

    def __post_init__(self) -> None:
        set_fields(self, channels=positive("channels", self.channels))
        check_choices(self, cell=("rnn", "lstm", "gru"), output=("linear", "sigmoid"))

    def misfit(self, height: int, width: int) -> str:
        """Say what is wrong with frames of so many pixels, as the end of a sentence; empty if they fit."""
        raise NotImplementedError


Config = TypeVar("Config", bound=ForecasterConfig)


class ForecasterState(NamedTuple):
    """What a forecaster carries from frame to frame.

    Attributes:
        cells: per cell its states, (B, hidden, h, w) each, h and w the rows and columns of the grid that the
            cell works on; None for a cell that has not run yet.
        frame: (B, C, H, W), the frame that the next step reads, for networks that read frames.
    """

    cells: tuple[tuple[Tensor, ...] | None, ...]
    frame: Tensor | None


class Forecaster(Configured, Generic[Config]):
    """What the forecasters share: the call and its checks.

    Subclasses give `encode(context) -> state` and `step(frame, state) -> (frame, state)`.

    Raises:
        TypeError: a config of another kind than the network's own.
    """

    config_type: ClassVar[type[ForecasterConfig]]
    config: Config
    feedback: ClassVar[bool]
    """Whether the network reads its own predictions, and so can be given targets in their place."""

    def __init__(self, config: Config):
        super().__init__()
        if type(config) is not self.config_type:
            raise TypeError(
                f"config is a {type(config).__name__}; {type(self).__name__} needs its own "
                f"{self.config_type.__name__}"
            )
        self.config = config

    def forward(
        self,
        context: Tensor,
        horizon: int,
        *,
        targets: Tensor | None = None,
        use_target: Tensor | None = None,
        return_context: bool = False,
    ) -> Tensor:
        """Predict the `horizon` frames that follow the context.

        Args:
            context: (B, T, C, H, W), T of 1 or more.
            horizon: number of frames to predict, 1 or more.
            targets: (B, horizon, C, H, W), the true frames, for scheduled sampling; with use_target.
            use_target: bool (B, horizon - 1): where True, the network reads the true frame in place of its
                own prediction of it (Bengio et al. 2015, "Scheduled Sampling").
            return_context: put the predictions of context frames 2..T before the others (default False).

        Returns:
            (B, horizon, C, H, W), or (B, T - 1 + horizon, C, H, W) with return_context, in the type of the
            context.

        Raises:
            TypeError: a context, targets or use_target that is no tensor.
            ValueError: an argument that does not fit, named with what is needed; targets or return_context
                for a network that never reads its own predictions.
        """
        self._check_context(context)
        horizon = positive("horizon", horizon)
        if (targets is None) != (use_target is None):
            raise ValueError("targets and use_target go together: give both or neither")
        if not self.feedback and (targets is not None or return_context):
            name = "targets" if targets is not None else "return_context"
            raise ValueError(
                f"{name} given to {type(self).__name__}, which never reads its own predictions; leave it out"
            )
        if targets is not None and use_target is not None:
            check_tensor("targets", targets)
            check_tensor("use_target", use_target)
            B, _, *frame = context.shape
            if tuple(targets.shape) != (B, horizon, *frame):
                raise ValueError(f"targets has shape {tuple(targets.shape)}; it needs {(B, horizon, *frame)}")
            if tuple(use_target.shape) != (B, horizon - 1) or use_target.dtype != torch.bool:
                raise ValueError(
                    f"use_target has shape {tuple(use_target.shape)} and type {use_target.dtype}; "
                    f"it needs {(B, horizon - 1)} and torch.bool"
                )
            if use_target.device != context.device:
                raise ValueError(
                    f"use_target is on {use_target.device}, the context is on {context.device}; "
                    "move it with .to(...)"
                )
            ops.check_type("targets", targets, self._weight)
        return self._predict(context, horizon, targets, use_target, return_context)

    def encode(self, context: Tensor) -> ForecasterState:
        """Read the context (B, T, C, H, W) and return the state from which `step` goes on."""
        raise NotImplementedError

    def step(self, frame: Tensor | None, state: ForecasterState) -> tuple[Tensor, ForecasterState]:
        """Predict one frame (B, C, H, W) and return it with the state that follows."""
        raise NotImplementedError

    def example(self) -> str:
        """Return how the network is called, for the card."""
        shape = f"(B, T, {self.config.channels}, H, W)"
        return f"frames = convlstm.rollout(model, context, horizon=10)  # context: {shape}, pixels in [0, 1]"

    def _predict(
        self,
        context: Tensor,
        horizon: int,
        targets: Tensor | None,
        use_target: Tensor | None,
        return_context: bool,
    ) -> Tensor:
        raise NotImplementedError

    def _check_context(self, context: Tensor) -> None:
        check_tensor("context", context)
        C = self.config.channels
        if context.dim() != 5:
            raise ValueError(
                f"context has {context.dim()} dimensions, shape {tuple(context.shape)}; "
                f"it needs 5: (B, T, {C}, H, W)"
            )
        if context.shape[2] != C:
            raise ValueError(
                f"context has {context.shape[2]} channels, shape {tuple(context.shape)}; "
                f"the network was built for {C}: (B, T, {C}, H, W)"
            )
        ops.check_type("context", context, self._weight)
        if 0 in context.shape:
            raise ValueError(
                f"context has shape {tuple(context.shape)}; it needs one sequence and one frame or more"
            )
        H, W = context.shape[3:]
        if wrong := self.config.misfit(H, W):
            raise ValueError(f"context has frames of {H} x {W} pixels, {wrong}")

    @property
    def _weight(self) -> Tensor:
        """A parameter, for its type and device."""
        return next(self.parameters())


def as_forecaster(model: nn.Module, name: str = "model") -> Forecaster:
    """Return a model that forecasts, typed as such; else raise ValueError naming it.

    Args:
        model: such as a loaded one, of which nobody knows yet what it is.
        name: of the argument or the checkpoint, for the error.
    """
    if isinstance(model, Forecaster):
        return model
    kind = type(model).__name__
    if isinstance(model, ConvRecurrent):
        kind += " layer, which forecasts no frames"
    raise ValueError(f"{name} is a {kind}; it needs a forecaster, such as StackedForecaster")
