"""Convert the layers of Keras to stages with weights; raise where a layer cannot be expressed.

Letters: I input channels, F filters, K kernel taps per axis.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from convlstm.importers.building import Part, Weights
from convlstm.importers.keras_config import Layer, shown
from convlstm.importers.keras_weights import KerasWeights
from convlstm.models.imported.stages import ACTIVATIONS, Activation, BatchNorm, Convolution, Recurrent

CELLS = ("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
_CONVOLUTIONS = ("Conv1D", "Conv2D", "Conv3D")
_FUNCTIONS = ("Activation", "ReLU", "LeakyReLU", "ELU")
_TRAINING = (
    "Dropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "GaussianDropout",
    "GaussianNoise",
    "AlphaDropout",
    "ActivityRegularization",
)
_ALIASES = {"swish": "silu"}
ACTIVATION_NAMES = tuple(name for name in ACTIVATIONS if name != "hard_sigmoid_keras2")
"""Names of activations in files and options; the version decides which hard_sigmoid is meant."""


class Converter:
    """Converts the layers of one chain, one after the other.

    Args:
        weights: of the file.
        spatial_dims: of the ConvLSTMs.
        channels_first: whether the model's frames are (C, *S); else (*S, C).
        version: gives 2 or 3, or raises ValueError where nobody said.
    """

    def __init__(
        self, weights: KerasWeights, spatial_dims: int, channels_first: bool, version: Callable[[], int]
    ):
        self.spatial_dims = spatial_dims
        self.dropped: dict[str, str] = {}
        self.inputs: int | None = None
        """Channels that the model reads; None before the first layer with weights."""
        self.sequences = True
        """Whether the last layer gave a sequence, or a frame."""
        self._weights, self._version = weights, version
        self._channels_first = channels_first
        self._channels: int | None = None

    def convert(self, layer: Layer) -> list[Part]:
        """Return the parts of a layer."""
        if layer.kind in CELLS or layer.kind == "Bidirectional":
            part = self._cell(layer, "cell/") if layer.kind in CELLS else self._bidirectional(layer)
            assert isinstance(part.stage, Recurrent)
            self._set_channels(part.stage.input_channels, part.stage.channels_out)
            self.sequences = part.stage.sequences
            return [part]
        if layer.kind == "TimeDistributed":
            if not self.sequences:
                raise layer.error("reads a frame; it needs a sequence")
            return self._each_frame(layer.inner("layer"), layer)
        if layer.kind in _CONVOLUTIONS:
            return self._convolution(layer, layer, "", self.sequences)
        return self._each_frame(layer, layer)

    def _each_frame(self, layer: Layer, outer: Layer) -> list[Part]:
        """Return the parts of a layer, maybe of one inside of TimeDistributed, that does not mix frames."""
        inside = "" if layer is outer else "layer/"
        if layer.kind in _CONVOLUTIONS:
            return self._convolution(layer, outer, inside, sequences=False)
        if layer.kind == "BatchNormalization":
            return [self._batch_norm(layer, outer, inside, self.sequences and not inside)]
        if layer.kind in _FUNCTIONS:
            return self._function(layer)
        if layer.kind == "InputLayer":
            return []
        if layer.kind in _TRAINING:
            self.dropped[outer.name] = f"{layer.kind} does nothing at inference"
            return []
        if layer.kind == "Lambda":
            raise layer.error("holds code, and code in a file is never run")
        raise layer.error("is of a class that cannot be expressed")

    def _cell(
        self, layer: Layer, inside: str, outer: Layer | None = None, backward: Layer | None = None
    ) -> Part:
        """Return the part of a ConvLSTM, whose weights may be in a Bidirectional layer's group."""
        dims, outer = self.spatial_dims, outer or layer
        if layer.kind != CELLS[dims - 1]:
            raise layer.error(f"is not alike to the model's {CELLS[dims - 1]}")
        if not self.sequences:
            raise layer.error("reads a frame, of the last step; it needs a sequence")
        for name in ("return_state", "time_major"):
            if layer.flag(name):
                raise layer.error(f"has {name}, which cannot be expressed")
        self._check_layout(layer)
        filters, kernel = layer.whole("filters"), layer.sizes("kernel_size", dims)
        shapes = {
            "kernel": (*kernel, self._channels, 4 * filters),
            "recurrent_kernel": (*kernel, filters, 4 * filters),
        }
        if layer.flag("use_bias", True):
            shapes["bias"] = (4 * filters,)
        weights = self._weights.take(outer, shapes, inside, backward)
        padding = layer.one_of("padding", ("valid", "same"), "valid")
        gates = (
            "hard_sigmoid"
            if "recurrent_activation" not in layer.settings and self._version() == 2
            else "sigmoid"
        )
        stage = Recurrent(
            input_channels=weights["kernel"].shape[-2],
            hidden_channels=filters,
            kernel_size=kernel,
            bias="bias" in weights,
            activation=self._activation(layer, layer.settings.get("activation", "tanh")),
            recurrent_activation=self._activation(layer, layer.settings.get("recurrent_activation", gates)),
            padding="same"
            if set(kernel) == {1} or padding == "same"
            else "valid",  # one tap needs no padding
            stride=layer.sizes("strides", dims, 1),
            dilation=layer.sizes("dilation_rate", dims, 1),
            reverse=layer.flag("go_backwards"),
            sequences=layer.flag("return_sequences"),
        )
        for name in ("dropout", "recurrent_dropout"):
            if layer.number(name, 0):
                self.dropped[f"{outer.name}.{name}"] = "dropout does nothing at inference"
        if layer.flag("stateful"):
            self.dropped[f"{outer.name}.stateful"] = "states start at zero at each call; pass them on instead"
        # Keras's gates i, f, c, o are our i, f, g, o.
        ours = {"weight_ih": _ours(weights["kernel"]), "weight_hh": _ours(weights["recurrent_kernel"])}
        return Part(stage, (ours | ({"bias": weights["bias"]} if "bias" in weights else {}),))

    def _bidirectional(self, layer: Layer) -> Part:
        merge = layer.settings.get("merge_mode", "concat")
        if merge is None:
            raise layer.error("has merge_mode None: it gives two outputs, which cannot be expressed")
        merge = layer.one_of("merge_mode", ("concat", "sum", "mul", "ave"), "concat")
        if merge == "concat" and self._channels_first:
            raise layer.error("joins its directions along the width, as Keras does with channels_first")
        inner = layer.inner("layer")
        given = layer.settings.get("backward_layer") is not None
        second = layer.inner("backward_layer") if given else inner
        forward = self._cell(inner, "forward_layer/cell/", layer, second)
        backward = self._cell(second, "backward_layer/cell/", layer, second)
        assert isinstance(forward.stage, Recurrent)
        reverse = not forward.stage.reverse if given else forward.stage.reverse
        if backward.stage != dataclasses.replace(forward.stage, reverse=reverse):
            raise layer.error("has two directions that differ in more than their weights")
        return Part(dataclasses.replace(forward.stage, merge=merge), forward.weights + backward.weights)

    def _convolution(self, layer: Layer, outer: Layer, inside: str, sequences: bool) -> list[Part]:
        """Return a convolution and its activation; `sequences`: whether it sees a whole sequence."""
        rank = _CONVOLUTIONS.index(layer.kind) + 1
        over_time = sequences and rank == self.spatial_dims + 1
        if rank != self.spatial_dims and not over_time:
            raise layer.error(f"has {rank} axes, and its frames have {self.spatial_dims}")
        self._check_layout(layer)
        if over_time and self._channels_first:
            raise layer.error("takes time for channels, as channels_first makes it do after a ConvLSTM")
        if layer.whole("groups", 1) != 1:
            raise layer.error("has groups, which cannot be expressed")
        filters, kernel = layer.whole("filters"), layer.sizes("kernel_size", rank)
        shapes: dict[str, tuple[int | None, ...]] = {"kernel": (*kernel, self._channels, filters)}
        if layer.flag("use_bias", True):
            shapes["bias"] = (filters,)
        weights = self._weights.take(outer, shapes, inside)
        stage = Convolution(
            input_channels=weights["kernel"].shape[-2],
            output_channels=filters,
            kernel_size=kernel,
            stride=layer.sizes("strides", rank, 1),
            dilation=layer.sizes("dilation_rate", rank, 1),
            padding="same" if layer.one_of("padding", ("valid", "same"), "valid") == "same" else "valid",
            over_time=over_time,
            bias="bias" in weights,
        )
        self._set_channels(stage.input_channels, filters)
        ours = {"weight": _ours(weights["kernel"])} | ({"bias": weights["bias"]} if stage.bias else {})
        return [Part(stage, (ours,)), *self._function(layer)]

    def _batch_norm(self, layer: Layer, outer: Layer, inside: str, sequences: bool) -> Part:
        axis, dims = layer.settings.get("axis", -1), self.spatial_dims
        axes = axis if isinstance(axis, list | tuple) else [axis]
        last = dims + 1 + sequences  # number of the last axis
        channel_axis = last - dims if self._channels_first else last
        if len(axes) != 1 or axes[0] not in (channel_axis, channel_axis - last - 1):
            raise layer.error(f"has axis {shown(axis)}; it needs {channel_axis}, that of the channels")
        names = {
            "gamma": ("weight", layer.flag("scale", True), 1.0),
            "beta": ("bias", layer.flag("center", True), 0.0),
            "moving_mean": ("running_mean", True, 0.0),
            "moving_variance": ("running_var", True, 0.0),
        }
        shapes = {name: (self._channels,) for name, (_, there, _) in names.items() if there}
        weights = self._weights.take(outer, shapes, inside)
        mean = weights["moving_mean"]
        ours: Weights = {}
        for name, (own, _, otherwise) in names.items():
            ours[own] = weights[name] if name in weights else torch.full_like(mean, otherwise)
        self._set_channels(len(mean), len(mean))
        return Part(BatchNorm(channels=len(mean), eps=layer.number("epsilon", 1e-3)), (ours,))

    def _function(self, layer: Layer) -> list[Part]:
        """Return the activation that a layer is, or that it ends with; nothing where it is linear."""
        value = layer.settings.get("activation")
        if layer.kind == "ELU":
            if layer.number("alpha", 1.0) != 1:
                raise layer.error("has another alpha than 1, which cannot be expressed")
            return [Part(Activation(name="elu"))]
        if layer.kind == "LeakyReLU":
            slope = layer.number("negative_slope" if "negative_slope" in layer.settings else "alpha", 0.3)
            return [Part(Activation(name="leaky_relu", slope=slope))]
        if layer.kind == "ReLU":
            return [Part(self._relu(layer))]
        if isinstance(value, Mapping) and (inner := layer.inner("activation")).kind in _FUNCTIONS[1:]:
            return self._function(inner)
        name = self._activation(layer, value)
        return [] if name == "linear" else [Part(Activation(name=name))]

    def _relu(self, layer: Layer) -> Activation:
        highest, slope = layer.settings.get("max_value"), layer.number("negative_slope", 0.0)
        if layer.number("threshold", 0.0) or (highest is not None and (highest != 6 or slope)):
            raise layer.error("has a threshold or a highest value, which cannot be expressed (6 alone can)")
        if highest is not None:
            return Activation(name="relu6")
        return Activation(name="leaky_relu", slope=slope) if slope else Activation(name="relu")

    def _activation(self, layer: Layer, value: Any) -> str:
        """Return our name of an activation of Keras."""
        name = "linear" if value is None else value
        name = _ALIASES.get(name, name) if isinstance(name, str) else name
        if name not in ACTIVATION_NAMES:
            raise layer.error(f"has the activation {shown(value)}; known are {', '.join(ACTIVATION_NAMES)}")
        return "hard_sigmoid_keras2" if name == "hard_sigmoid" and self._version() == 2 else name

    def _check_layout(self, layer: Layer) -> None:
        if is_channels_first(layer) != self._channels_first:
            raise layer.error("has another data_format than the first ConvLSTM, which cannot be expressed")

    def _set_channels(self, before: int, after: int) -> None:
        """Keep how many channels a layer reads and returns."""
        self.inputs = before if self.inputs is None else self.inputs
        self._channels = after


def is_channels_first(layer: Layer) -> bool:
    """Return whether a layer's data_format is channels_first."""
    if layer.settings.get("data_format") is None:
        return False
    return layer.one_of("data_format", ("channels_first", "channels_last"), "") == "channels_first"


def _ours(kernel: Tensor) -> Tensor:
    """Turn a kernel (*K, I, F) into (F, I, *K)."""
    return kernel.movedim((-1, -2), (0, 1)).contiguous()
