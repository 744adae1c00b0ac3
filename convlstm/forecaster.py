"""What the forecasters share: the config, the call and its checks, the state, frames to patches and back.

Letters: T time, B batch, C image channels, H W pixels, p patch size. Frames are (B, T, C, H, W) with pixels
in [0, 1].
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from convlstm import ops
from convlstm.arguments import check_tensor, positive
from convlstm.base import ConvCell, ConvRecurrent
from convlstm.cells import ConvGRUCell, ConvLSTMCell, ConvRNNCell
from convlstm.saving import Configured


@dataclass(frozen=True, kw_only=True)
class ForecasterConfig:
    """The fields that the networks' configs share."""

    cell: Literal["rnn", "lstm", "gru"] = "lstm"
    """Kind of recurrent cell."""
    channels: int = 1
    """C, channels of a frame: 1 for gray, 3 for colour."""
    hidden_channels: tuple[int, ...] = (64, 64, 64)
    """Hidden channels of each layer, the one nearest the frames first."""
    kernel_size: int = 5
    """Taps of every convolution, per axis."""
    patch_size: int = 4
    """Side p of the square patches that become channels, in pixels; frames must be whole patches."""
    peephole: Literal["channel"] | None = None
    """Peepholes of LSTM cells: none, or one weight per channel."""
    output: Literal["linear", "sigmoid"] = "linear"
    """What the head ends with: nothing (unclipped values), or a sigmoid (values in (0, 1))."""

    def __post_init__(self) -> None:
        if not isinstance(self.hidden_channels, tuple | list):
            raise ValueError(
                f"hidden_channels is {self.hidden_channels!r}; it needs one number per layer, as in (64, 64)"
            )
        if not self.hidden_channels:
            raise ValueError("hidden_channels is empty; it needs one number per layer")
        whole: dict[str, Any] = {
            name: positive(name, getattr(self, name)) for name in ("channels", "kernel_size", "patch_size")
        }
        whole["hidden_channels"] = tuple(positive("hidden_channels", c) for c in self.hidden_channels)
        for name, value in whole.items():  # JSON knows no tuples, nor numpy's numbers
            object.__setattr__(self, name, value)
        for name, options in (
            ("cell", ("rnn", "lstm", "gru")),
            ("peephole", (None, "channel")),
            ("output", ("linear", "sigmoid")),
        ):
            if getattr(self, name) not in options:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it needs one of {options}")
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
        """The channels of a frame cut into patches, p * p * C."""
        return self.channels * self.patch_size**2


class ForecasterState(NamedTuple):
    """What a forecaster carries from frame to frame.

    Attributes:
        cells: per cell its states, (B, hidden, H / p, W / p) each; None for a cell that has not run yet.
        frame: (B, C, H, W), the frame that the next step reads, for networks that read frames.
    """

    cells: tuple[tuple[Tensor, ...] | None, ...]
    frame: Tensor | None


class Forecaster(Configured):
    """What the forecasters share: the call, its checks, and frames to patches and back.

    Subclasses give `encode(context) -> state` and `step(frame, state) -> (frame, state)`.

    Raises:
        TypeError: a config of another kind than the network's own.
    """

    config_type: ClassVar[type[ForecasterConfig]]
    config: ForecasterConfig
    head: nn.Conv2d
    feedback: ClassVar[bool]
    """Whether the network reads its own predictions, and so can be given targets in their place."""

    def __init__(self, config: ForecasterConfig):
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
        C, p = self.config.channels, self.config.patch_size
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
        if H % p or W % p:
            down = f"{max(H // p, 1) * p} x {max(W // p, 1) * p}"
            up = f"{-(-H // p) * p} x {-(-W // p) * p}"
            sizes = up if up == down else f"{down} or {up}"
            raise ValueError(
                f"context has frames of {H} x {W} pixels, which patches of {p} x {p} do not divide; "
                f"sizes that would do: {sizes}, or any multiples of {p}"
            )

    @property
    def _weight(self) -> Tensor:
        """A parameter, for its type and device."""
        return next(self.parameters())

    def _to_patches(self, frames: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (T, B, p * p * C, H / p, W / p)."""
        p = self.config.patch_size
        return rearrange(frames, "b t c (h p) (w q) -> t b (p q c) h w", p=p, q=p)

    def _to_frames(self, patches: Tensor) -> Tensor:
        """(T, B, p * p * C, h, w) -> (B, T, C, h * p, w * p)."""
        p = self.config.patch_size
        return rearrange(patches, "t b (p q c) h w -> b t c (h p) (w q)", p=p, q=p)

    def _apply_head(self, outputs: list[Tensor]) -> Tensor:
        """The patches (T, B, p * p * C, h, w) from the outputs (T, B, hidden, h, w) of all cells."""
        states = torch.cat(outputs, dim=2)
        patches = self.head(states.flatten(0, 1)).unflatten(0, states.shape[:2])
        return torch.sigmoid(patches) if self.config.output == "sigmoid" else patches


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


def run_cells(
    cells: nn.ModuleList, x: Tensor, states: tuple[tuple[Tensor, ...] | None, ...]
) -> tuple[list[Tensor], tuple[tuple[Tensor, ...], ...]]:
    """Run a stack over (T, B, I, h, w); return every cell's outputs and last states."""
    foreign = "this state is not from this network's encode or step"
    if len(states) != len(cells):
        raise ValueError(f"state.cells has {len(states)} cells, the network has {len(cells)}: {foreign}")
    outputs, last_states = [], []
    for cell, state in zip(cells, states, strict=True):
        assert isinstance(cell, ConvCell)
        if state is not None and len(state) != len(cell.states):
            raise ValueError(
                f"state.cells has {len(state)} tensors for a {type(cell).__name__}, which needs "
                f"{len(cell.states)}: {foreign}"
            )
        x, *last = cell.sequence(x, *(state or [None] * len(cell.states)))  # (T, B, hidden, h, w)
        outputs.append(x)
        last_states.append(tuple(last))
    return outputs, tuple(last_states)
