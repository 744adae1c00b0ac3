"""EncoderForecaster: one stack of cells reads the context, a second one forecasts from its states.

Letters: T time, B batch, C image channels, H W pixels, p patch size, h w rows and columns of a grid.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from convlstm.core.checks import set_fields
from convlstm.core.registry import register_model
from convlstm.models.convolutional import (
    ConvForecaster,
    ConvForecasterConfig,
    on_each_frame,
    run_cells,
    whole_numbers,
)
from convlstm.models.forecaster import ForecasterState

__all__ = ["EncoderForecaster", "EncoderForecasterConfig"]

SLOPE = 0.2  # of the leaky ReLUs, below zero, as in Shi et al. 2017


@dataclass(frozen=True, kw_only=True)
class EncoderForecasterConfig(ConvForecasterConfig):
    """The config of an `EncoderForecaster`: the fields of `ConvForecasterConfig` and those below.

    The defaults are the paper's best network.

    Attributes:
        hidden_channels: Hidden channels of each encoder layer; the forecaster has the same, reversed.
        peephole: Peepholes of LSTM cells: one weight per channel, as in the paper, or none.
        strides: Stride of each layer, the one nearest the frames first, as (1, 2, 2). Where it is above 1, a
            convolution of this stride stands before the encoder's cell, and a transposed one after the
            forecaster's. Empty: 1 everywhere.

    Example:
        >>> config = convlstm.EncoderForecasterConfig(hidden_channels=(64, 64), strides=(1, 2))
        >>> network = convlstm.EncoderForecaster(config)
    """

    hidden_channels: tuple[int, ...] = (128, 64, 64)
    peephole: Literal["channel"] | None = "channel"
    strides: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        strides = whole_numbers("strides", self.strides, "(1, 2)")
        if strides and len(strides) != len(self.hidden_channels):
            raise ValueError(
                f"strides is {strides}; it needs {len(self.hidden_channels)} numbers, as hidden_channels has"
            )
        set_fields(self, strides=strides if math.prod(strides) > 1 else ())

    @property
    def layers_on_grid(self) -> int:
        """Number of layers, from the first, on the same grid: those whose states the head reads."""
        coarser = (n for n, stride in enumerate(self.strides) if n and stride > 1)
        return next(coarser, len(self.hidden_channels))

    def _unit(self) -> tuple[int, str]:
        unit, divisors = super()._unit()
        return unit * math.prod(self.strides), divisors + (
            f" and strides of {self.strides}" if self.strides else ""
        )


@register_model
class EncoderForecaster(ConvForecaster[EncoderForecasterConfig]):
    """The encoder-forecaster of Shi et al. 2015, "Convolutional LSTM Network", figure 3.

    The encoder's cells read the context. The forecaster is the encoder reversed: each of its cells starts
    from the state of the corresponding encoder cell. Its first cell has no input convolution, the others
    read the cell before. A 1x1 convolution over the states of all forecaster cells, concatenated, gives the
    patches of each predicted frame. No frame is read after the context: for `step`, `frame` must be None.

    With peepholes per channel, 5x5 kernels and 128, 64, 64 channels on 4x4 patches (the default config) it
    has 7,585,296 parameters; 128, 128 gives 10,042,896 and 256 gives 13,524,496, as printed in the paper.

    With `strides` it is the later form, of Shi et al. 2017, "Deep Learning for Precipitation Nowcasting",
    figure 1: upper layers see more of a frame on a coarser grid. In a layer with stride s, a convolution of
    stride s with the layer's channels stands before the encoder's cell, and a transposed one with the
    channels of the layer below after the forecaster's. Each ends with a leaky ReLU of slope 0.2. The head
    then reads the forecaster's cells on the finest grid alone; where the first stride is above 1, through the
    transposed convolution that leads to the patches.

    Args:
        config: an `EncoderForecasterConfig`.
        fields: its fields, in place of it, as in `EncoderForecaster(hidden_channels=(64, 64))`.

    Example:
        >>> network = convlstm.EncoderForecaster(hidden_channels=(16, 8), strides=(1, 2))
        >>> network(torch.rand(2, 5, 1, 32, 32), horizon=3).shape
        torch.Size([2, 3, 1, 32, 32])
    """

    feedback = False
    config_type = EncoderForecasterConfig

    def __init__(self, config: EncoderForecasterConfig | None = None, **fields: Any):
        super().__init__(config, **fields)
        config = self.config
        hidden = config.hidden_channels
        strides = config.strides or (1,) * len(hidden)
        below = (config.patch_channels, *hidden)
        # What a cell reads of the layer below or above it has, after a convolution, the cell's own channels.
        upward = [c if s > 1 else b for (b, c), s in zip(pairwise(below), strides, strict=True)]
        downward = [b if s > 1 else c for (b, c), s in zip(pairwise(hidden), strides[1:], strict=True)]
        self.encoder = nn.ModuleList(map(config.make_cell, upward, hidden))
        self.forecaster = nn.ModuleList(map(config.make_cell, (0, *downward[::-1]), hidden[::-1]))
        finest = sum(hidden[: config.layers_on_grid])
        self.head = nn.Conv2d(hidden[0] if strides[0] > 1 else finest, config.patch_channels, kernel_size=1)
        # By the number of the layer that they lie below.
        self.down, self.up = nn.ModuleDict(), nn.ModuleDict()
        for n, ((b, c), s) in enumerate(zip(pairwise(below), strides, strict=True)):
            if s > 1:
                self.down[str(n)] = convolution_down(b, c, s)
                self.up[str(n)] = convolution_up(c, b, s) if n else convolution_up(finest, c, s)

    def encode(self, context: Tensor) -> ForecasterState:
        """Read the context `(B, T, C, H, W)`; return the states for the forecaster's cells."""
        self._check_context(context)
        first = _through(self.down, 0, self._to_patches(context))
        nothing = (None,) * len(self.encoder)
        _, states = run_cells(
            self.encoder, first, nothing, lambda number, outputs: _through(self.down, number, outputs[-1])
        )
        return ForecasterState(states[::-1], None)

    def step(self, frame: Tensor | None, state: ForecasterState) -> tuple[Tensor, ForecasterState]:
        """Predict the next frame `(B, C, H, W)`, in the type of the weights; `frame` must be None."""
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
        if state.cells[0] is None or state.frame is not None:
            raise ValueError("state has no cells, or a frame: it is not from this network's encode or step")
        B, _, h, w = state.cells[0][0].shape
        nothing = self.head.weight.new_empty(horizon, B, 0, h, w)  # only its sizes count
        L = len(self.forecaster)
        outputs, cells = run_cells(
            self.forecaster,
            nothing,
            state.cells,
            lambda number, outputs: _through(self.up, L - number, outputs[-1]),
        )
        finest = torch.cat(outputs[-self.config.layers_on_grid :], dim=2)  # (T, B, hidden, h, w)
        # Autocast shortens the type that the head computes in, not that of the frames.
        frames = self._to_frames(self._apply_head(_through(self.up, 0, finest)))
        return frames.to(self.head.weight.dtype), ForecasterState(cells, None)


def _through(convolutions: nn.ModuleDict, layer: int, sequence: Tensor) -> Tensor:
    """Apply the convolution that lies below a layer, if there is one, to a sequence (T, B, C, h, w)."""
    name = str(layer)
    return on_each_frame(convolutions[name], sequence) if name in convolutions else sequence


def convolution_down(input_channels: int, output_channels: int, stride: int) -> nn.Module:
    """Make a strided convolution and a leaky ReLU: (B, I, h * stride, w * stride) -> (B, O, h, w).

    It has 2 * stride - 1 taps per axis, so that each pixel is read: at stride 2 the usual 3 x 3.
    """
    taps, padding = 2 * stride - 1, stride - 1
    convolution = nn.Conv2d(input_channels, output_channels, taps, stride, padding)
    return _activated(convolution, terms=input_channels * taps**2)


def convolution_up(input_channels: int, output_channels: int, stride: int) -> nn.Module:
    """Make a transposed convolution and a leaky ReLU: (B, I, h, w) -> (B, O, h * stride, w * stride).

    It has 2 * stride taps per axis: at stride 2 the usual 4 x 4. As the stride divides them, every pixel is
    made of as many taps as any other, two per axis, which avoids checkerboards (Odena et al. 2016,
    "Deconvolution and Checkerboard Artifacts").
    """
    taps, padding, output_padding = 2 * stride, (stride + 1) // 2, stride % 2
    convolution = nn.ConvTranspose2d(input_channels, output_channels, taps, stride, padding, output_padding)
    return _activated(convolution, terms=input_channels * 2**2)


def _activated(convolution: nn.Conv2d | nn.ConvTranspose2d, terms: int) -> nn.Module:
    """Return a convolution and a leaky ReLU that, before training, keep the mean square of their input.

    The initialization is that of He et al. 2015, "Delving Deep into Rectifiers", as in Shi et al. 2017. That
    of torch counts a transposed convolution's taps the other way round, and the signal would fade.

    Args:
        convolution: its weights are drawn anew.
        terms: how many products each of its values is a sum of.
    """
    nn.init.normal_(convolution.weight, std=math.sqrt(2 / (1 + SLOPE**2) / terms))
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, nn.LeakyReLU(SLOPE))
