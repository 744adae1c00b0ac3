"""What the forecasters share: the config, the call and its checks, the state.

Letters: T time, B batch, C image channels, H W pixels. Frames are (B, T, C, H, W) with pixels in [0, 1].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from convlstm import ops
from convlstm.core.checks import check_choices, check_tensor, positive, set_fields
from convlstm.core.registry import network_named
from convlstm.core.saving import NETWORKS, Configured
from convlstm.nn.base import ConvRecurrent


@dataclass(frozen=True, kw_only=True)
class ForecasterConfig:
    """The fields that the configs of all forecasters share; a config of your own is a subclass.

    Attributes:
        channels: Channels C of a frame: 1 for gray, 3 for color.
        output: What the head ends with: nothing (unclipped values), or a sigmoid (values in (0, 1)).

    Example:
        >>> convlstm.ForecasterConfig(channels=3)
        ForecasterConfig(channels=3, output='linear')
    """

    channels: int = 1
    output: Literal["linear", "sigmoid"] = "linear"

    def __post_init__(self) -> None:
        set_fields(self, channels=positive("channels", self.channels))
        check_choices(self, output=("linear", "sigmoid"))

    def frame_size_error(self, height: int, width: int) -> str:
        """Return why the network cannot take frames of this size, as the end of a sentence; "" if it can."""
        return ""


Config = TypeVar("Config", bound=ForecasterConfig)


class ForecasterState(NamedTuple):
    """The state that a forecaster carries from frame to frame.

    Attributes:
        cells: for each cell its states, `(B, hidden, h, w)` each, with h and w the rows and columns of the
            grid that the cell works on; None for a cell that has not run yet.
        frame: `(B, C, H, W)`, the frame that the next step reads, in networks that read frames; else None.

    Example:
        >>> network = convlstm.StackedForecaster(hidden_channels=(16, 16), patch_size=4)
        >>> state = network.encode(torch.rand(2, 5, 1, 32, 32))
        >>> h, c = state.cells[0]
        >>> h.shape, state.frame.shape
        (torch.Size([2, 16, 8, 8]), torch.Size([2, 1, 32, 32]))
    """

    cells: tuple[tuple[Tensor, ...] | None, ...]
    frame: Tensor | None


class Forecaster(Configured, Generic[Config]):
    """Base class of the networks that forecast frames.

    To add a network, write a config and a class with two methods: `encode` reads the context, `step` predicts
    one frame. The call, `rollout`, `stream`, saving, loading and evaluation follow from them. A network that
    predicts the next frame from each frame, with one ConvLSTM cell::

        import convlstm, torch
        from dataclasses import dataclass

        @dataclass(frozen=True, kw_only=True)
        class OneCellConfig(convlstm.ForecasterConfig):
            hidden_channels: int = 16

        @convlstm.register_model
        class OneCell(convlstm.Forecaster):
            config_type = OneCellConfig

            def __init__(self, config=None, **fields):
                super().__init__(config, **fields)
                channels, hidden = self.config.channels, self.config.hidden_channels
                self.cell = convlstm.ConvLSTMCell(channels, hidden, kernel_size=3)
                self.head = torch.nn.Conv2d(hidden, channels, kernel_size=1)

            def encode(self, context):
                state = None
                for frame in context[:, :-1].unbind(1):
                    state = self.cell(frame, state)
                return convlstm.ForecasterState((state,), context[:, -1])

            def step(self, frame, state):
                h, c = self.cell(state.frame if frame is None else frame, state.cells[0])
                prediction = self.head(h)
                if self.config.output == "sigmoid":
                    prediction = prediction.sigmoid()
                return prediction, convlstm.ForecasterState(((h, c),), prediction)

        network = OneCell(hidden_channels=8)
        frames = network(torch.rand(2, 5, 1, 16, 16), horizon=3)  # (2, 3, 1, 16, 16)

    Args:
        config: an instance of the class's `config_type`.
        fields: the fields of the config, in place of it.

    Raises:
        TypeError: config is of another type, or comes with fields.
        ValueError: a field that the config does not have, or a value that does not fit.
    """

    config_type: ClassVar[type[ForecasterConfig]]
    config: Config
    _task: ClassVar[str | None] = "video-to-video"
    feedback: ClassVar[bool] = True
    """Whether the network reads its own predictions, and so can be given targets in their place."""

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
            context: `(B, T, C, H, W)`, T of 1 or more.
            horizon: number of frames to predict, 1 or more.
            targets: `(B, horizon, C, H, W)`, the true frames, for scheduled sampling; with use_target.
            use_target: bool `(B, horizon - 1)`: where True, the network reads the true frame in place of its
                own prediction of it (Bengio et al. 2015, "Scheduled Sampling").
            return_context: put the predictions of context frames 2..T before the others (default: False).

        Returns:
            `(B, horizon, C, H, W)`, or `(B, T - 1 + horizon, C, H, W)` with return_context, in the type of
            the context.

        Raises:
            TypeError: context, targets or use_target is not a tensor.
            ValueError: an argument does not fit, or a network that never reads its own predictions is given
                targets or return_context.
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
            self._check_targets(targets, use_target, context, horizon)
        return self._predict(context, horizon, targets, use_target, return_context)

    def encode(self, context: Tensor) -> ForecasterState:
        """Read the context `(B, T, C, H, W)` and return the state from which `step` goes on."""
        raise NotImplementedError

    def step(self, frame: Tensor | None, state: ForecasterState) -> tuple[Tensor, ForecasterState]:
        """Predict one frame `(B, C, H, W)` and return it with the state that follows.

        Args:
            frame: `(B, C, H, W)`, the frame to read; None for the network's own last prediction, or after
                `encode` for the last frame of the context.
            state: from `encode` or from the step before.
        """
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
        """Do what `forward` says, step by step; a subclass may have a faster way."""
        in_context, state = self._read(context) if return_context else ((), self.encode(context))
        predictions = list(in_context)
        for t in range(horizon):
            frame = None
            if t and targets is not None and use_target is not None:
                own = predictions[-1]
                true = targets[:, t - 1].to(own.dtype)
                frame = torch.where(use_target[:, t - 1, None, None, None], true, own)
            prediction, state = self.step(frame, state)
            predictions.append(prediction)
        return torch.stack(predictions, dim=1).to(context.dtype)

    def _read(self, context: Tensor) -> tuple[Sequence[Tensor], ForecasterState]:
        """Read the context; return the predictions of its frames 2..T, (B, C, H, W) each, and the state."""
        predictions, state = [], self.encode(context[:, :1])
        for frame in context[:, :-1].unbind(1):
            prediction, state = self.step(frame, state)
            predictions.append(prediction)
        return predictions, self.encode(context)

    def _check_context(self, context: Tensor) -> None:
        check_tensor("context", context)
        C = self.config.channels
        if context.dim() != 5 or context.shape[2] != C or 0 in context.shape:
            raise ValueError(
                f"context has shape {tuple(context.shape)}; it needs (B, T, C, H, W), none of them 0, "
                f"with the channels that the network was built for: {C}"
            )
        ops.check_type("context", context, self._weight)
        H, W = context.shape[3:]
        if error := self.config.frame_size_error(H, W):
            raise ValueError(f"context has frames of {H} x {W} pixels, {error}")

    def _check_targets(self, targets: Tensor, use_target: Tensor, context: Tensor, horizon: int) -> None:
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
        ops.check_type("targets", targets, self._weight)

    @property
    def _weight(self) -> Tensor:
        """The first parameter, for its type and device."""
        return next(self.parameters())


def network_of(config: ForecasterConfig) -> type[Forecaster]:
    """Return the registered forecaster that is built from configs of this type; else raise ValueError."""
    networks = [network for network in NETWORKS.values() if issubclass(network, Forecaster)]
    for network in networks:
        if type(config) is network.config_type:
            return network
    known = ", ".join(network.config_type.__name__ for network in networks)
    raise ValueError(f"config is a {type(config).__name__}; it needs one of {known}")


def build(config: ForecasterConfig) -> Forecaster:
    """Build the forecaster of a config; raises ValueError for the config of no forecaster."""
    return network_of(config)(config)


def config_from_dict(fields: Mapping[str, Any]) -> ForecasterConfig:
    """Return the config with these fields, of the forecaster named under "network".

    Raises:
        ValueError: an unknown forecaster or field, or a value that does not fit.
    """
    network = network_named(fields.get("network"))
    if not issubclass(network, Forecaster):
        raise ValueError(f"network is {network.__name__!r}; it needs a forecaster, such as StackedForecaster")
    return network.make_config({name: value for name, value in fields.items() if name != "network"})


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
