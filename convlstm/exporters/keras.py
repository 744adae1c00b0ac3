"""Stacks of ConvLSTM cells as files of Keras 3, written without Keras.

A .keras file is a zip: config.json and metadata.json describe the layers, and model.weights.h5 holds their
variables. Their paths have the layer's class and a counter, not its name: layers/conv_lstm2d_1/cell/vars/0, 1
and 2 are the kernel, the recurrent kernel and the bias of the second layer. Keras's gate order is ours.
"""

import io
import json
import zipfile
from collections import Counter
from typing import Any

import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from convlstm.core.checks import import_extra, positive
from convlstm.models.imported import ImportedNetwork
from convlstm.models.imported.modules import RecurrentModule
from convlstm.models.imported.stages import Recurrent
from convlstm.nn.base import ConvCell
from convlstm.nn.layers import ConvLSTM

KERAS_VERSION = "3.6.0"  # the oldest that these files are for
TO_KERAS = "o i ... -> ... i o"  # a Keras kernel is (*K, I, 4C)

Layers = list[tuple[Recurrent, list[ConvCell]]]


def keras_file(model: nn.Module, size: tuple[int, ...] | None) -> bytes:
    """Return the bytes of a .keras file for frames of this size, one number of pixels per spatial axis."""
    layers = _layers(model)
    first, dims = layers[0][0], len(layers[0][0].kernel_size)
    if not isinstance(size, tuple | list) or len(size) != dims:
        axes = ", ".join("DHW"[3 - dims :]) + ("," if dims == 1 else "")
        raise ValueError(f"size is {size!r}; a .keras file needs that of the frames, ({axes})")
    frame = [positive("size", pixels) for pixels in size]
    files = {
        "metadata.json": json.dumps({"keras_version": KERAS_VERSION}).encode(),
        "config.json": json.dumps(_model(layers, [None, None, *frame, first.input_channels])).encode(),
        "model.weights.h5": _hdf5(layers),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # without a date: equal models, equal files
    return buffer.getvalue()


def weights_file(model: nn.Module) -> bytes:
    """Return the bytes of a .weights.h5 file."""
    return _hdf5(_layers(model))


def _layers(model: nn.Module) -> Layers:
    """Return each layer's sizes and choices, and its one cell or two; raise where Keras has no such layer."""
    if isinstance(model, ConvLSTM):
        directions = 2 if model.bidirectional else 1
        cells = [cell for cell in model.cells if isinstance(cell, ConvCell)]
        layers = [
            (_stage(cells[n], model.bidirectional), cells[n : n + directions])
            for n in range(0, len(cells), directions)
        ]
    elif isinstance(model, ImportedNetwork):
        others = [str(stage) for stage in model.config.stages if not isinstance(stage, Recurrent)]
        others += ["a forecaster"] if model.config.forecaster else []
        if others:
            raise ValueError(f"model has {others[0]}; Keras files are for stacks of ConvLSTM layers alone")
        layers = []
        for module in model.stages:
            assert isinstance(module, RecurrentModule)
            layers.append((module.stage, [cell for cell in module.cells if isinstance(cell, ConvCell)]))
    else:
        raise ValueError(
            f"model is a {type(model).__name__}; Keras has layers for a ConvLSTM, or an ImportedNetwork of "
            "recurrent stages alone"
        )
    for stage, cells in layers:
        _check(stage)
        if any(parameter.is_meta for cell in cells for parameter in cell.parameters()):
            raise ValueError("model is on the meta device and has no values; load weights first")
    return layers


def _stage(cell: ConvCell, bidirectional: bool) -> Recurrent:
    return Recurrent(
        input_channels=cell.input_channels,
        hidden_channels=cell.hidden_channels,
        kernel_size=cell.kernel_size,
        bias=cell.bias is not None,
        peephole=getattr(cell, "peephole", None),
        merge="concat" if bidirectional else None,
    )


def _check(stage: Recurrent) -> None:
    """Raise ValueError for a stage that Keras's layers cannot compute."""
    reasons = {
        "peepholes": stage.peephole is not None,
        f"a {stage.norm} norm in its cells": stage.norm is not None,
        "cells with h = o * g": stage.output == "candidate",
        "a stride and a dilation in one layer": max(stage.stride) > 1 and max(stage.dilation) > 1,
        "Keras 2's hard_sigmoid, which Keras 3 computes differently": "hard_sigmoid_keras2"
        in (stage.activation, stage.recurrent_activation),
    }
    if found := [reason for reason, there in reasons.items() if there]:
        raise ValueError(f"model has {found[0]}; Keras 3's ConvLSTM layers have no such thing")


def _names(layers: Layers) -> list[str]:
    """Return the names under which Keras looks for the layers' variables."""
    counter: Counter[str] = Counter()
    names = []
    for stage, cells in layers:
        kind = f"conv_lstm{len(stage.kernel_size)}d" if len(cells) == 1 else "bidirectional"
        names.append(f"{kind}_{counter[kind]}" if counter[kind] else kind)
        counter[kind] += 1
    return names


def _model(layers: Layers, shape: list[int | None]) -> dict[str, Any]:
    """Return the config of a Sequential model; a shape is (B, T, *S, I), None where it is open."""
    dtype = str(_dtype(layers)).removeprefix("torch.")
    stack = [_object("InputLayer", {"name": "input_layer", "batch_shape": shape, "dtype": dtype})]
    for (stage, _), name in zip(layers, _names(layers), strict=True):
        if stage.merge is None:
            stack.append(_layer(stage, name, dtype, stage.reverse))
            continue
        both = {
            "layer": _layer(stage, f"forward_{name}", dtype, stage.reverse),
            "backward_layer": _layer(stage, f"backward_{name}", dtype, not stage.reverse),
        }
        fields = {"name": name, "dtype": dtype, "merge_mode": stage.merge, **both}
        stack.append(_object("Bidirectional", fields))
    config = {"name": "sequential", "layers": stack, "build_input_shape": shape}
    return _object("Sequential", config, "keras")


def _layer(stage: Recurrent, name: str, dtype: str, backwards: bool) -> dict[str, Any]:
    config = {
        "name": name,
        "dtype": dtype,
        "filters": stage.hidden_channels,
        "kernel_size": stage.kernel_size,
        "strides": stage.stride,
        "padding": stage.padding,
        "data_format": "channels_last",
        "dilation_rate": stage.dilation,
        "activation": stage.activation,
        "recurrent_activation": stage.recurrent_activation,
        "use_bias": stage.bias,
        "return_sequences": stage.sequences,
        "go_backwards": backwards,
    }
    return _object(f"ConvLSTM{len(stage.kernel_size)}D", config)


def _object(kind: str, config: dict[str, Any], module: str = "keras.layers") -> dict[str, Any]:
    return {"module": module, "class_name": kind, "config": config, "registered_name": None}


def _hdf5(layers: Layers) -> bytes:
    """Return the bytes of a Keras 3 weights file."""
    h5py = import_extra("h5py", "import", "writing files of Keras")
    dtype, buffer = _dtype(layers), io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, (_, cells) in zip(_names(layers), layers, strict=True):
            paths = [""] if len(cells) == 1 else ["forward_layer/", "backward_layer/"]
            for path, cell in zip(paths, cells, strict=True):
                for number, array in enumerate(_arrays(cell, dtype)):
                    file[f"layers/{name}/{path}cell/vars/{number}"] = array
    return buffer.getvalue()


def _arrays(cell: ConvCell, dtype: torch.dtype) -> list[NDArray[Any]]:
    """Return the kernel (*K, I, 4C), the recurrent kernel (*K, C, 4C), and the bias (4C,) if there is one."""
    assert isinstance(cell.weight_ih, Tensor)
    tensors = [rearrange(weight, TO_KERAS) for weight in (cell.weight_ih, cell.weight_hh)]
    tensors += [] if cell.bias is None else [cell.bias]
    return [tensor.detach().to("cpu", dtype).numpy() for tensor in tensors]


def _dtype(layers: Layers) -> torch.dtype:
    """Return the type of Keras's weights: numpy has no bfloat16, and half types fit into float32 exactly."""
    return torch.float64 if layers[0][1][0].weight_hh.dtype == torch.float64 else torch.float32
