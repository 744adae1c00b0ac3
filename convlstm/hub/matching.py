"""Which tensors of two networks have the same place in them, and how one is made from the other.

Letters: C image channels, p patch size, L layers. `convlstm.load_weights` documents the rules.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convlstm.models.encoder_forecaster import EncoderForecaster
from convlstm.models.fully_connected import FullyConnectedForecaster
from convlstm.models.stacked import StackedForecaster
from convlstm.nn.base import ConvCell, ConvRecurrent

Network = StackedForecaster | EncoderForecaster

READS_FRAMES = ("cells.0.weight_ih", "cells.0.backward.weight_ih", "weight_ih")  # places
HEAD = ("head.weight", "head.bias")
DOWN, UP = "down.0.0.weight", "up.0.0.weight"  # between the frames and cells on a coarser grid
# Attributes of a cell, and of the stage of an imported one, that decide what it computes.
CELL = ("hidden_channels", "kernel_size", "nonlinearity", "reset_after")
STAGE = ("activation", "recurrent_activation", "output", "norm", "groups", "padding", "stride", "dilation")


def match(
    model: nn.Module, source: nn.Module | Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, str], dict[str, str]]:
    """Find what a model can take from a module, or by names and shapes alone from a state dict.

    Returns:
        values: by the model's names, in the type and on the device of the model's tensors.
        adapted: how those values were made that are not as they were, by the model's names.
        skipped: why the others were not used, by the source's names.
    """
    module = source if isinstance(source, nn.Module) else None
    theirs: Mapping[str, Any] = source.state_dict() if isinstance(source, nn.Module) else source
    places = _places(model) if module else {name: name for name in model.state_dict()}
    left = (
        {place: name for name, place in _places(module).items()}
        if module
        else {name: name for name in theirs}
    )
    values: dict[str, Tensor] = {}
    adapted: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for name, tensor in model.state_dict().items():
        there, reason, how = left.pop(places[name], None), "", ""
        if there is not None:
            value = theirs[there]
            if module:
                reason = _difference(model, module, name, there, places[name])
                value, how = (value, "") if reason else _adapted(value, model, module, places[name])
            if reason := reason or _shape_difference(value, tensor):
                skipped[there] = reason
                continue
        elif (
            isinstance(module, EncoderForecaster)
            and places[name] == f"forecaster.{-len(module.forecaster)}.weight_ih"
            and _first_new_layer(model, module)
        ):
            value, how = torch.zeros_like(tensor), "zeros, so that nothing is read of the new layer"
        else:
            continue
        values[name] = value.detach().to(tensor.device, tensor.dtype)
        if how:
            adapted[name] = how
    return values, adapted, skipped | dict.fromkeys(left.values(), "nothing in the network has its place")


def _places(module: nn.Module) -> dict[str, str]:
    """Return the place of each tensor in the network, by its name."""
    moved: dict[str, str] = {}
    if isinstance(module, EncoderForecaster):
        L = len(module.encoder)
        moved = {f"encoder.{n}.": f"cells.{n}." for n in range(L)}
        moved |= {f"forecaster.{n}.": f"forecaster.{n - L}." for n in range(L)}  # -1 is next to the frames
    elif isinstance(module, ConvRecurrent) and module.bidirectional:
        directions = ("", "backward.")
        moved = {f"cells.{n}.": f"cells.{n // 2}.{directions[n % 2]}" for n in range(len(module.cells))}
    places = {}
    for name in module.state_dict():
        start = next((start for start in moved if name.startswith(start)), "")
        places[name] = moved.get(start, "") + name.removeprefix(start)
    return places


def _difference(model: nn.Module, source: nn.Module, name: str, there: str, place: str) -> str:
    """Return why the numbers of two tensors of one place mean different things; "" if they mean the same."""
    depth = len(source.config.hidden_channels) if isinstance(source, Network) else 0
    ours, theirs = _meaning(model, name, place, depth), _meaning(source, there, place, depth)
    for what, value in ours.items():
        if value != theirs.get(what):
            return _differs(what, theirs.get(what), value)
    frames, their_frames = _frames(model, place), _frames(source, place)
    if frames and their_frames and frames[1] != their_frames[1]:
        return _differs("patch_size", their_frames[1], frames[1])
    return ""


def _meaning(module: nn.Module, name: str, place: str, depth: int) -> dict[str, Any]:
    """Return what decides the meaning of a tensor's numbers, beside its shape.

    Args:
        module: the network.
        name: of the tensor.
        place: of the tensor.
        depth: how many layers count of those that a head reads.
    """
    owner, found = module.get_submodule(name.rpartition(".")[0]), {}
    if isinstance(owner, ConvCell):
        stage = getattr(owner, "stage", None)
        found = {"the cell": type(owner).__name__, **{key: getattr(owner, key, None) for key in CELL}}
        found |= {key: getattr(stage, key, None) for key in STAGE}
        half, _, rest = place.partition(".")
        if half in ("cells", "forecaster") and place.endswith("weight_ih"):
            number = int(rest.partition(".")[0])  # cell -1 of a forecaster reads layer 1
            between = module.config if isinstance(module, StackedForecaster) and number else None
            found["stride"] = _strides(module)[abs(number)] if isinstance(module, EncoderForecaster) else 1
            found |= {"residual": bool(between and between.residual), "norm": between and between.norm}
    elif isinstance(module, Network) and place.startswith("head."):
        config, head = module.config, getattr(module.config, "head", None)
        found = {"kind": type(module).__name__, "hidden_channels": config.hidden_channels[:depth]}
        found |= {"strides": _strides(module)[:depth], "head": head, "cell": config.cell}
        found |= {"kernel_size": config.kernel_size, "output": config.output}
        found |= {"number of layers": len(config.hidden_channels)} if head == "last" else {}
    elif isinstance(module, FullyConnectedForecaster) and place in ("rnn.weight_ih_l0", *HEAD):
        config = module.config
        found = {"channels": config.channels, "frame_size": config.frame_size}
        found |= {"output": config.output} if place in HEAD else {}
    return found


def _shape_difference(value: Any, tensor: Tensor) -> str:
    """Return why a value cannot be copied to a tensor; "" if it can."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}, no tensor"
    if value.is_meta or tensor.is_meta:
        return "on the device meta, without memory"
    if value.is_floating_point() != tensor.is_floating_point() or value.is_complex() != tensor.is_complex():
        return _differs("type", value.dtype, tensor.dtype)
    return "" if value.shape == tensor.shape else _differs("shape", tuple(value.shape), tuple(tensor.shape))


def _adapted(value: Tensor, model: nn.Module, source: nn.Module, place: str) -> tuple[Tensor, str]:
    """Return a tensor of the source as the model needs it, and how it was made; "" if it is as it was."""
    hows = []
    frames, their_frames = _frames(model, place), _frames(source, place)
    if frames and their_frames and frames[0] != their_frames[0]:
        value, how = _recolored(value, their_frames[0], frames[0], place in HEAD)
        hows.append(how)
    if isinstance(model, Network) and place == (UP if _is_coarse(model) else "head.weight"):
        first = _first_new_layer(model, source) or len(model.config.hidden_channels)
        read = getattr(model.config, "layers_on_grid", None)  # all layers of a stack
        if new := sum(model.config.hidden_channels[first:read]):
            # The head reads a stack's cells from the frames upward, a forecaster's downward.
            before, after = (0, new) if isinstance(model, StackedForecaster) else (new, 0)
            axis = [0, 0] if place == UP else []  # a transposed convolution has its inputs in front
            value = F.pad(value, [0, 0, 0, 0, *axis, before, after])
            hows.append(f"zeros for the {new} channels of new layers")
    return value, "; ".join(hows)


def _strides(module: EncoderForecaster | StackedForecaster) -> tuple[int, ...]:
    return getattr(module.config, "strides", ()) or (1,) * len(module.config.hidden_channels)


def _is_coarse(module: nn.Module) -> bool:
    """Return whether a convolution stands between the frames and all cells."""
    return isinstance(module, EncoderForecaster) and _strides(module)[0] > 1


def _frames(module: nn.Module, place: str) -> tuple[int, int] | None:
    """Return C and p of the frames that a tensor reads or predicts; None where they are not known."""
    if isinstance(module, Network):
        if place in HEAD or (place == DOWN if _is_coarse(module) else place in READS_FRAMES):
            return module.config.channels, module.config.patch_size
    elif isinstance(module, ConvRecurrent | ConvCell) and place in READS_FRAMES:
        return module.input_channels, 1
    return None


def _recolored(weight: Tensor, there: int, here: int, of_head: bool) -> tuple[Tensor, str]:
    """Return a weight for another number of image channels, and how it was made.

    Args:
        weight: channel c of a patch is in (dy * p + dx) * C + c, along the head's axis 0, and along axis 1 of
            weights that read frames.
        there: C of the weight.
        here: C of the result.
        of_head: whether it predicts frames, or reads them.
    """
    axis = 0 if of_head else 1
    total = weight.unflatten(axis, (-1, there)).sum(axis + 1, keepdim=True)  # (p * p * C) -> (p * p, 1)
    shared = total / (there if of_head else here)
    summed = "" if there == 1 else ("mean" if of_head else "sum") + f" of {there} channels"
    times = "" if here == 1 else f"repeated for {here} channels" + ("" if of_head else f", divided by {here}")
    how = ", ".join(filter(None, (summed, times)))
    return shared.repeat_interleave(here, axis + 1).flatten(axis, axis + 1), how


def _first_new_layer(model: nn.Module, source: nn.Module) -> int | None:
    """Return the number of the first layer that a model has on top of those of the source; None without."""
    if not isinstance(model, Network) or not isinstance(source, Network):
        return None
    shared = len(source.config.hidden_channels)
    deeper = len(model.config.hidden_channels) > shared
    return shared if deeper and not _difference(model, source, *["head.weight"] * 3) else None


def _differs(what: str, there: object, here: object) -> str:
    return f"{what} is {there}, the network's is {here}"
