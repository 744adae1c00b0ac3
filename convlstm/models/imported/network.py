"""ImportedNetwork: networks of other projects that are more than a stack of our cells, as one class.

Letters: T time, B batch, C channels, S the one to three spatial axes. Frames are (B, T, C, *S).
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from convlstm import ops
from convlstm.core.checks import check_tensor, positive
from convlstm.core.saving import Configured, register_model
from convlstm.models.imported.modules import RecurrentModule, States, make_module
from convlstm.models.imported.stages import (
    BatchNorm,
    Convolution,
    Patches,
    Pick,
    Recurrent,
    Repeat,
    Stage,
    stage_of,
)

MOST_STAGES = 2000


@dataclass(frozen=True, kw_only=True)
class ImportedConfig:
    """Everything that a `ImportedNetwork` is built from."""

    channels: int
    """C, channels of a frame."""
    stages: tuple[Stage, ...]
    """What reads the frames, one after the other."""
    spatial_dims: int = 2
    """1, 2 or 3."""
    forecaster: tuple[Stage, ...] = ()
    """What makes the frames of the horizon from the last states of `stages`; none: `stages` do it all."""
    forecaster_reads: Literal["zeros", "own"] = "zeros"
    """What the forecaster's first stage reads: zeros, or the last output of `stages`, then its own."""
    head: tuple[Stage, ...] = ()
    """What the forecaster's outputs go through, outside of its loop."""

    def __post_init__(self) -> None:
        positive("channels", self.channels)
        if positive("spatial_dims", self.spatial_dims) > 3:
            raise ValueError(f"spatial_dims is {self.spatial_dims}; it needs 1, 2 or 3")
        if self.forecaster_reads not in ("zeros", "own"):
            raise ValueError(f"forecaster_reads is {self.forecaster_reads!r}; it needs 'zeros' or 'own'")
        for name in ("stages", "forecaster", "head"):
            if len(getattr(self, name)) > MOST_STAGES:  # said before it takes as long as it is large
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} stages; at most {MOST_STAGES} can be"
                )
            object.__setattr__(self, name, tuple(stage_of(stage) for stage in getattr(self, name)))
            _check_axes(name, getattr(self, name), self.spatial_dims)
        if not self.stages:
            raise ValueError("stages is empty; it needs one stage or more")
        if not any(isinstance(stage, Recurrent | Convolution | BatchNorm) for stage in self.stages):
            raise ValueError("stages has none with weights; it needs one")
        _check_sequences("stages", self.stages)
        if not _check_sequences("forecaster", self.forecaster):
            raise ValueError("forecaster gives its last step alone; it needs to give all")
        _check_sequences("head", self.head)
        encoders = sum(isinstance(stage, Recurrent) for stage in self.stages)
        for name, most in (("stages", 0), ("forecaster", encoders), ("head", 0)):
            for stage in getattr(self, name):
                first = stage.starts_from if isinstance(stage, Recurrent) else None
                if first is not None and not 0 <= first < most:
                    raise ValueError(
                        f"starts_from is {first} in {name}; it needs None, or in a forecaster the number "
                        f"of a recurrent stage of the encoder, which has {encoders}"
                    )
        read = _channels("stages", self.stages, self.channels)
        if self.forecaster:
            first = self.forecaster[0]
            if self.forecaster_reads == "zeros":
                if not isinstance(first, Recurrent):
                    raise ValueError("forecaster reads zeros; it needs a recurrent stage first")
                read = first.input_channels
            made = _channels("forecaster", self.forecaster, read)
            if self.forecaster_reads == "own" and made != read:
                raise ValueError(f"forecaster makes {made} channels of {read}; it reads its own outputs")
            _channels("head", self.head, made)
        elif self.head:
            raise ValueError("head is given without a forecaster; put its stages into stages")


def _check_axes(name: str, stages: tuple[Stage, ...], spatial_dims: int) -> None:
    """Raise ValueError for a stage of other axes than the frames have."""
    for number, stage in enumerate(stages):
        axes = spatial_dims
        if isinstance(stage, Recurrent | Convolution):
            axes = len(stage.kernel_size) - (isinstance(stage, Convolution) and stage.over_time)
        elif isinstance(stage, Patches):
            axes = 2
        if axes != spatial_dims:
            raise ValueError(
                f"stage {number} of {name} is for frames of {axes} axes; spatial_dims is {spatial_dims}"
            )


def _check_sequences(name: str, stages: tuple[Stage, ...]) -> bool:
    """Return whether stages give a sequence; raise ValueError where one needs it that is given a frame."""
    sequence = True
    for number, stage in enumerate(stages):
        over_time = isinstance(stage, Recurrent | Pick) or (
            isinstance(stage, Convolution) and stage.over_time
        )
        if over_time and not sequence:
            raise ValueError(f"stage {number} of {name} reads a sequence, but a frame comes to it")
        if isinstance(stage, Repeat):
            sequence = True
        elif isinstance(stage, Pick):
            sequence = bool(stage.steps)
        elif isinstance(stage, Recurrent):
            sequence = stage.sequences
    return sequence


def _channels(name: str, stages: tuple[Stage, ...], channels: int) -> int:
    """Return the channels that leave some stages; raise ValueError where one does not read what comes."""
    for number, stage in enumerate(stages):
        reads = getattr(stage, "input_channels", getattr(stage, "channels", channels))
        if reads != channels:
            raise ValueError(f"stage {number} of {name} reads {reads} channels, but {channels} come to it")
        if isinstance(stage, Recurrent):
            channels = stage.channels_out
        elif isinstance(stage, Convolution):
            channels = stage.output_channels
        elif isinstance(stage, Patches):
            if stage.inverse and channels % stage.size**2:
                raise ValueError(f"stage {number} of {name} makes patches of {channels} channels into frames")
            channels = channels // stage.size**2 if stage.inverse else channels * stage.size**2
    return channels


@register_model
class ImportedNetwork(Configured):
    """A network of stages: what `convlstm.import_checkpoint` makes of a foreign model that ours cannot be.

    Without a forecaster, `model(frames)` is what the foreign model computes: frames (B, T, C, *S) through
    all stages. With a horizon it forecasts: the last frame it gives is the frame after the context, which is
    then read in its turn. With a forecaster, the stages read the context, and the forecaster makes the
    frames of the horizon.

    Args:
        config: the stages.
    """

    config_type = ImportedConfig
    config: ImportedConfig

    def __init__(self, config: ImportedConfig | None = None, **fields: Any):
        super().__init__(config, **fields)
        config = self.config

        def modules(stages: tuple[Stage, ...]) -> nn.ModuleList:
            return nn.ModuleList(make_module(stage, config.spatial_dims) for stage in stages)

        self.stages = modules(config.stages)
        self.forecaster = modules(config.forecaster)
        self.head = modules(config.head)

    def forward(self, context: Tensor, horizon: int | None = None) -> Tensor:
        """Compute what the foreign model computes, or forecast.

        Args:
            context: (B, T, C, *S), T of 1 or more.
            horizon: number of frames to forecast, 1 or more; None (default) for what the stages give of the
                context, in a network without a forecaster.

        Returns:
            (B, horizon, C', *S) with a horizon; else what the last stage gives: (B, T, C', *S), or
            (B, C', *S) where it keeps the last step alone.

        Raises:
            TypeError: a context that is no tensor.
            ValueError: a context or horizon that does not fit; a horizon for a network whose outputs are not
                frames like its inputs.
        """
        if horizon is None:
            if self.config.forecaster:
                raise ValueError("horizon is None; this network forecasts, and needs a number of frames")
            return self.run(context)[0]
        horizon = positive("horizon", horizon)
        if self.config.forecaster:
            return self._forecast(context, horizon)
        return self._read_own(context, horizon)

    def example(self) -> str:
        """Return how the network is called, for the card."""
        axes = ", ".join(("B", "T", str(self.config.channels), *"DHW"[3 - self.config.spatial_dims :]))
        horizon = ", horizon=10" if self.config.forecaster else ""
        return f"output = model(frames{horizon})  # frames: ({axes})"

    def run(self, context: Tensor, states: list[States] | None = None) -> tuple[Tensor, list[States]]:
        """Run the stages alone.

        Args:
            context: (B, T, C, *S).
            states: of a former call, to go on from (default zeros).

        Returns:
            What the last stage gives, and the last states of each recurrent stage: h and c, (B, hidden, *S),
            then those of the second direction where it has one.
        """
        self._check(context)
        return _run(self.stages, context, states)

    def _forecast(self, context: Tensor, horizon: int) -> Tensor:
        """An encoder, then a forecaster that starts from its states."""
        output, encoded = self.run(context)
        recurrent = [module for module in self.forecaster if isinstance(module, RecurrentModule)]
        first = [None if (n := r.stage.starts_from) is None else encoded[n] for r in recurrent]
        if self.config.forecaster_reads == "own":
            frame = output if output.dim() == self.config.spatial_dims + 2 else output[:, -1]
            states, frames = first, []
            for _ in range(horizon):
                outputs, states = _run(self.forecaster, frame.unsqueeze(1), states)
                frame = outputs[:, -1]
                frames.append(frame)
            result = torch.stack(frames, dim=1)  # (B, horizon, C', *S)
        else:
            stage = recurrent[0].stage
            like = first[0][0] if first[0] is not None else output[:, -1]  # (B, hidden, *S)
            zeros = like.new_zeros(like.shape[0], horizon, stage.input_channels, *like.shape[2:])
            result, _ = _run(self.forecaster, zeros, first)
        return _run(self.head, result, None)[0]

    def _read_own(self, context: Tensor, horizon: int) -> Tensor:
        """A network that predicts the next frame, and reads it in its turn."""
        frames, states = context, None
        for number in range(horizon):
            if self._causal:
                output, states = self.run(frames if number == 0 else frames[:, -1:], states)
            else:
                output, _ = self.run(frames)
            frame = output if output.dim() == context.dim() - 1 else output[:, -1]
            if frame.shape[1:] != context.shape[2:]:
                raise ValueError(
                    f"horizon is given, but this network makes {tuple(frame.shape[1:])} of frames of "
                    f"{tuple(context.shape[2:])}: it cannot read its own output; call it without a horizon"
                )
            frames = torch.cat([frames, frame.unsqueeze(1).to(frames.dtype)], dim=1)
        return frames[:, context.shape[1] :]

    def unit(self) -> tuple[int, ...]:
        """Return the pixels per axis whose multiples frames must be: patches and strides, multiplied."""
        unit = [1] * self.config.spatial_dims
        for stage in self.config.stages:
            factors = (1,) * len(unit)
            if isinstance(stage, Patches) and not stage.inverse:
                factors = (stage.size,) * len(unit)
            elif isinstance(stage, Convolution) and not stage.transposed:
                factors = stage.stride[-len(unit) :]
            elif isinstance(stage, Recurrent):
                factors = stage.stride
            unit = [a * b for a, b in zip(unit, factors, strict=True)]
        return tuple(unit)

    @property
    def _causal(self) -> bool:
        """Whether one step needs no more than the frame and the states of the one before."""
        return not any(
            (isinstance(stage, Recurrent) and (stage.merge is not None or stage.reverse))
            or (isinstance(stage, Convolution) and stage.over_time)
            or isinstance(stage, Repeat)
            or (isinstance(stage, Pick) and stage.steps)
            for stage in self.config.stages
        )

    def _check(self, context: Tensor) -> None:
        check_tensor("context", context)
        C, dims = self.config.channels, self.config.spatial_dims
        axes = ("B", "T", str(C), *"DHW"[3 - dims :])
        if context.dim() != 3 + dims or context.shape[2] != C or 0 in context.shape:
            raise ValueError(f"context has shape {tuple(context.shape)}; it needs ({', '.join(axes)})")
        ops.check_type("context", context, next(self.parameters()))


def _run(modules: nn.ModuleList, x: Tensor, states: list[Any] | None) -> tuple[Tensor, list[States]]:
    """Run stages from the states of the recurrent ones (None: zeros); return the output and the last."""
    last: list[States] = []
    for module in modules:
        if isinstance(module, RecurrentModule):
            x, state = module(x, None if states is None else states[len(last)])
            last.append(state)
        else:
            x = module(x)
    return x, last
