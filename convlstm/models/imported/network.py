"""ImportedNetwork: the networks of other projects that no layer or forecaster of this library expresses.

Letters: T time, B batch, C channels, S the one to three spatial axes. Frames are (B, T, C, *S).
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from convlstm import ops
from convlstm.core.checks import check_choices, check_tensor, positive, set_fields
from convlstm.core.registry import register_model
from convlstm.core.saving import Configured
from convlstm.models.imported.modules import RecurrentModule, States, make_module
from convlstm.models.imported.stages import (
    Convolution,
    Patches,
    Pick,
    Recurrent,
    Repeat,
    Stage,
    stage_of,
)


@dataclass(frozen=True, kw_only=True)
class ImportedConfig:
    """The configuration of an `ImportedNetwork`."""

    channels: int
    """Channels C of a frame."""
    stages: tuple[Stage, ...]
    """The stages that read the frames, in order."""
    spatial_dims: int = 2
    """Number of spatial axes of a frame: 1, 2 or 3."""
    forecaster: tuple[Stage, ...] = ()
    """The stages that predict the frames of the horizon from the last states of `stages`. Empty: `stages`
    predict them."""
    forecaster_reads: Literal["zeros", "own"] = "zeros"
    """The input of the forecaster: zeros, or first the last output of `stages` and then its own outputs."""
    head: tuple[Stage, ...] = ()
    """The stages that turn the outputs of the forecaster into frames. The forecaster does not read them."""

    def __post_init__(self) -> None:
        positive("channels", self.channels)
        positive("spatial_dims", self.spatial_dims, most=3)
        check_choices(self, forecaster_reads=("zeros", "own"))
        for name in ("stages", "forecaster", "head"):
            set_fields(self, **{name: tuple(stage_of(stage) for stage in getattr(self, name))})
        if not self.stages:
            raise ValueError("stages is empty; it needs one stage or more")
        read = _channels("stages", self.stages, self.channels, self.spatial_dims)
        if self.forecaster:
            first = self.forecaster[0]
            if self.forecaster_reads == "zeros":
                if not isinstance(first, Recurrent):
                    raise ValueError("forecaster reads zeros; its first stage needs to be recurrent")
                read = first.input_channels
            made = _channels("forecaster", self.forecaster, read, self.spatial_dims)
            if self.forecaster_reads == "own" and made != read:
                raise ValueError(f"forecaster reads its own outputs, but turns {read} channels into {made}")
            _channels("head", self.head, made, self.spatial_dims)
        elif self.head:
            raise ValueError("head is given without a forecaster; put its stages into stages")


def _channels(name: str, stages: tuple[Stage, ...], channels: int, spatial_dims: int) -> int:
    """Return the channels of the last stage's output; raise ValueError if the stages do not fit together."""
    for number, stage in enumerate(stages):
        if isinstance(stage, Recurrent | Convolution):
            axes = len(stage.kernel_size) - (isinstance(stage, Convolution) and stage.over_time)
            if axes != spatial_dims:
                raise ValueError(f"stage {number} of {name} reads frames of {axes} axes, not {spatial_dims}")
        reads = getattr(stage, "input_channels", getattr(stage, "channels", channels))
        if reads != channels:
            raise ValueError(f"stage {number} of {name} reads {reads} channels; its input has {channels}")
        if isinstance(stage, Recurrent):
            channels = stage.channels_out
        elif isinstance(stage, Convolution):
            channels = stage.output_channels
        elif isinstance(stage, Patches):
            if stage.inverse and channels % stage.size**2:
                raise ValueError(
                    f"stage {number} of {name} turns patches into frames; {channels} channels are "
                    f"not a multiple of {stage.size**2}"
                )
            channels = channels // stage.size**2 if stage.inverse else channels * stage.size**2
    return channels


@register_model
class ImportedNetwork(Configured):
    """A network of stages: what `convlstm.import_checkpoint` returns where no layer or forecaster fits.

    Without a forecaster, `model(frames)` computes what the foreign model computes: frames `(B, T, C, *S)` go
    through all stages. With a horizon it forecasts: its last output is the frame after the context, which it
    then reads in its turn. With a forecaster, the stages read the context, and the forecaster makes the
    frames of the horizon.

    Args:
        config: an `ImportedConfig`.
        fields: its fields, in place of it: channels, stages, spatial_dims, forecaster, forecaster_reads and
            head.

    Raises:
        TypeError: config is of another type, or comes with fields, or a field is missing.
        ValueError: an unknown field, a value that does not fit, or a stage that reads other channels than
            come to it.

    Example:
        >>> weights = {"cell_list.0.conv.weight": torch.rand(32, 9, 3, 3)}  # ndrplz's names
        >>> weights |= {"cell_list.1.conv.weight": torch.rand(16, 12, 3, 3)}
        >>> torch.save(weights, "two_widths.pt")
        >>> network = convlstm.import_checkpoint("two_widths.pt")
        >>> network(torch.rand(2, 5, 1, 16, 16)).shape
        torch.Size([2, 5, 4, 16, 16])
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
            context: `(B, T, C, *S)`, T of 1 or more.
            horizon: number of frames to forecast, 1 or more; None (default) for the stages' output on the
                context, in a network without a forecaster.

        Returns:
            `(B, horizon, C', *S)` with a horizon, else the output of the last stage, `(B, T, C', *S)` or,
            if it keeps only the last step, `(B, C', *S)`.

        Raises:
            TypeError: context is not a tensor.
            ValueError: the context or the horizon does not fit, or a horizon is given to a network whose
                outputs are not frames like its inputs.
        """
        if horizon is None:
            if self.config.forecaster:
                raise ValueError("horizon is None; this network needs a number of frames to forecast")
            return self.run(context)[0]
        horizon = positive("horizon", horizon)
        if self.config.forecaster:
            return self._forecast(context, horizon)
        return self._read_own(context, horizon)

    def example(self) -> str:
        """Return a line of code that calls the network, for the model card."""
        axes = ", ".join(("B", "T", str(self.config.channels), *"DHW"[3 - self.config.spatial_dims :]))
        horizon = ", horizon=10" if self.config.forecaster else ""
        return f"output = model(frames{horizon})  # frames: ({axes})"

    def run(self, context: Tensor, states: list[States] | None = None) -> tuple[Tensor, list[States]]:
        """Run the stages, without the forecaster and the head.

        Args:
            context: `(B, T, C, *S)`.
            states: the states that an earlier call returned. Default: None, zeros.

        Returns:
            The output of the last stage, and the last states of each recurrent stage: h and c,
            `(B, hidden, *S)`, then those of the second direction, if it has one.
        """
        self._check(context)
        return _run(self.stages, context, states)

    def _forecast(self, context: Tensor, horizon: int) -> Tensor:
        """Run the stages on the context, then the forecaster from their states."""
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
        """Predict one frame at a time, each from the context and the frames predicted before."""
        frames, states = context, None
        for number in range(horizon):
            if self._causal:
                output, states = self.run(frames if number == 0 else frames[:, -1:], states)
            else:
                output, _ = self.run(frames)
            frame = output if output.dim() == context.dim() - 1 else output[:, -1]
            if frame.shape[1:] != context.shape[2:]:
                raise ValueError(
                    f"horizon is {horizon}, but this network turns frames {tuple(context.shape[2:])} into "
                    f"{tuple(frame.shape[1:])} and cannot read its own output: call it without a horizon"
                )
            frames = torch.cat([frames, frame.unsqueeze(1).to(frames.dtype)], dim=1)
        return frames[:, context.shape[1] :]

    def unit(self) -> tuple[int, ...]:
        """Return the number of pixels per axis of which the sides of a frame must be multiples."""
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
        """True if a step needs only its frame and the states of the step before."""
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
    """Run stages from the states of the recurrent ones (None: zeros); return output and last states."""
    last: list[States] = []
    for module in modules:
        if isinstance(module, RecurrentModule):
            x, state = module(x, None if states is None else states[len(last)])
            last.append(state)
        else:
            x = module(x)
    return x, last
