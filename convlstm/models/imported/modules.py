"""The modules of the stages: what an `ImportedNetwork` runs.

Letters: T time, B batch, C channels, S the one to three spatial axes. A sequence is (B, T, C, *S), a frame
(B, C, *S).
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from convlstm.models.imported import stages
from convlstm.models.imported.cells import ForeignLSTMCell, convolve
from convlstm.nn.base import ConvCell
from convlstm.nn.cells import ConvLSTMCell

States = tuple[Tensor, ...]
"""The last states of a recurrent stage: h and c, then those of the second direction, if there is one."""

_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


class RecurrentModule(nn.Module):
    """Runs one cell over time, or two cells in opposite directions."""

    def __init__(self, stage: stages.Recurrent):
        super().__init__()
        self.stage = stage
        self.cells = nn.ModuleList(_make_cell(stage) for _ in range(2 if stage.merge else 1))

    def forward(self, x: Tensor, states: States | None) -> tuple[Tensor, States]:
        """Run over a sequence; return the outputs and the last states.

        Args:
            x: (B, T, C, *S).
            states: the states to start from; None for zeros.
        """
        stage, frames = self.stage, x.transpose(0, 1)  # (T, B, C, *S)
        if states is not None and stage.padding == "same" and set(stage.stride) == {1}:
            found, needed = x.shape[3:], states[0].shape[2:]
            if found != needed:
                raise ValueError(
                    f"frames are {tuple(found)} at a cell whose states are {tuple(needed)}; context needs "
                    "frames whose sides are multiples of the network's total stride"
                )
        outputs, last = [], []
        for number, cell in enumerate(self.cells):
            assert isinstance(cell, ConvCell)
            backward = bool(number) != stage.reverse
            first = (None, None) if states is None else states[2 * number : 2 * number + 2]
            output, h, c = cell.sequence(frames.flip(0) if backward else frames, *first)
            if number and stage.sequences:
                output = output.flip(0)  # in the first direction's order
            outputs.append(output if stage.sequences else h)
            last += [h, c]
        merged = _MERGES[stage.merge](outputs, dim=-len(stage.kernel_size) - 1)
        return (merged.transpose(0, 1) if stage.sequences else merged), tuple(last)


class ConvolutionModule(nn.Module):
    """Convolves each frame, or the sequence over time too; the convolution may be transposed."""

    bias: nn.Parameter | None

    def __init__(self, stage: stages.Convolution):
        super().__init__()
        self.stage = stage
        ends = (stage.output_channels, stage.input_channels)
        self.weight = nn.Parameter(
            torch.empty(*(ends[::-1] if stage.transposed else ends), *stage.kernel_size)
        )
        self.register_parameter("bias", nn.Parameter(torch.empty(ends[0])) if stage.bias else None)
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # torch.nn.Conv2d's own
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of a sequence or a frame."""
        if self.stage.over_time:
            return self._convolve(x.transpose(1, 2)).transpose(1, 2)  # (B, C, T, *S) and back
        return _each_frame(self._convolve, x, len(self.stage.kernel_size))

    def _convolve(self, x: Tensor) -> Tensor:
        stage = self.stage
        if not stage.transposed:
            return convolve(x, self.weight, self.bias, stage)
        settings = stage.stride, stage.padding, stage.output_padding, 1, stage.dilation
        return _TRANSPOSED[len(stage.kernel_size)](x, self.weight, self.bias, *settings)


class BatchNormModule(nn.Module):
    """Normalizes each channel of a sequence or a frame, as `torch.nn.BatchNorm2d` does."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, stage: stages.BatchNorm, spatial_dims: int):
        super().__init__()
        self.eps, self.spatial_dims = stage.eps, spatial_dims
        self.weight, self.bias = (nn.Parameter(torch.empty(stage.channels)) for _ in range(2))
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        self.register_buffer("running_mean", torch.zeros(stage.channels))
        self.register_buffer("running_var", torch.ones(stage.channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return a sequence or a frame, normalized."""
        parameters = self.running_mean, self.running_var, self.weight, self.bias
        normalize = partial(F.batch_norm, training=self.training, eps=self.eps)
        return _each_frame(lambda frames: normalize(frames, *parameters), x, self.spatial_dims)


class Function(nn.Module):
    """Runs a stage without parameters."""

    def __init__(self, stage: stages.Activation | stages.Patches | stages.Repeat | stages.Pick, dims: int):
        super().__init__()
        self.stage, self.dims = stage, dims

    def forward(self, x: Tensor) -> Tensor:
        """Return the stage's output for a sequence or a frame."""
        stage = self.stage
        if isinstance(stage, stages.Activation):
            if stage.slope is not None:
                return F.leaky_relu(x, stage.slope)
            return stages.ACTIVATIONS[stage.name](x)
        if isinstance(stage, stages.Patches):
            cut, whole = "... (p q c) h w", "... c (h p) (w q)"
            if not stage.inverse and any(pixels % stage.size for pixels in x.shape[-2:]):
                raise ValueError(
                    f"frames are {tuple(x.shape[-2:])} at a stage that cuts them into patches of "
                    f"{stage.size}x{stage.size}; both sides need to be multiples of {stage.size}"
                )
            pattern = f"{cut} -> {whole}" if stage.inverse else f"{whole} -> {cut}"
            return rearrange(x, pattern, p=stage.size, q=stage.size)
        if isinstance(stage, stages.Repeat):
            frame = x if x.dim() == self.dims + 3 else x.unsqueeze(1)  # (B, 1, C, *S)
            if frame.shape[1] != 1:
                raise ValueError(
                    f"context has {frame.shape[1]} frames; this network repeats one frame: give one"
                )
            return frame.expand(-1, stage.times, *(-1 for _ in frame.shape[2:]))
        if not stage.steps:
            return x[:, -1]
        if max(stage.steps) >= x.shape[1]:
            raise ValueError(
                f"context has {x.shape[1]} frames; this network returns step {max(stage.steps)}: give more"
            )
        return x[:, list(stage.steps)]

    def extra_repr(self) -> str:
        """Show the stage."""
        return repr(self.stage)


def make_module(stage: stages.Stage, spatial_dims: int) -> nn.Module:
    """Return the module of a stage."""
    if isinstance(stage, stages.Recurrent):
        return RecurrentModule(stage)
    if isinstance(stage, stages.Convolution):
        return ConvolutionModule(stage)
    if isinstance(stage, stages.BatchNorm):
        return BatchNormModule(stage, spatial_dims)
    return Function(stage, spatial_dims)


def _make_cell(stage: stages.Recurrent) -> ConvCell:
    if not stage.plain:
        return ForeignLSTMCell(stage)
    return ConvLSTMCell(
        stage.input_channels,
        stage.hidden_channels,
        stage.kernel_size,
        stage.bias,
        spatial_dims=len(stage.kernel_size),
        peephole=stage.peephole,
    )


def _each_frame(function: Callable[[Tensor], Tensor], x: Tensor, spatial_dims: int) -> Tensor:
    if x.dim() == spatial_dims + 2:
        return function(x)
    return function(x.flatten(0, 1)).unflatten(0, x.shape[:2])


_MERGES = {
    None: lambda outputs, dim: outputs[0],
    "concat": torch.cat,
    "sum": lambda outputs, dim: outputs[0] + outputs[1],
    "mul": lambda outputs, dim: outputs[0] * outputs[1],
    "ave": lambda outputs, dim: (outputs[0] + outputs[1]) / 2,
}
