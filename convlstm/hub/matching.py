"""Which tensors of two networks have the same place in them, and how one is made from the other.

Letters: C image channels, p patch size, L layers. The rules are said in `convlstm.hub.transfer.load_weights`.
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
OF_PIXELS = ("head.weight", "head.bias")
DOWN, UP = "down.0.0.weight", "up.0.0.weight"  # between the frames and cells on a coarser grid


def match(
    model: nn.Module, source: nn.Module | Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, str], dict[str, str]]:
    """Find what a model can take from a module, or by names and shapes alone from a state dict.

    Returns:
        values: by the model's names, in the type and on the device of the model's tensors.
        adapted: how those of them were made that are not as they were, by the model's names.
        skipped: why the others were not used, by the source's names.
    """
    by_place = isinstance(source, nn.Module)
    theirs: Mapping[str, Any] = source.state_dict() if isinstance(source, nn.Module) else source
    places = _places(model) if by_place else {name: name for name in model.state_dict()}
    left = {place: name for name, place in _places(source).items()} if by_place else {n: n for n in theirs}
    values: dict[str, Tensor] = {}
    adapted: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for name, tensor in model.state_dict().items():
        there = left.pop(places[name], None)
        if there is not None:
            value, text = theirs[there], ""
            if isinstance(source, nn.Module):
                value, text = _fitted(model, source, name, there, places[name])
            why_not = text if value is None else _problem(value, tensor)
            if value is None or why_not:
                skipped[there] = why_not
                continue
        elif _reads_new_layer(model, source, places[name]):
            value, text = torch.zeros_like(tensor), "zeros, so that nothing is read of the new layer"
        else:
            continue
        values[name] = value.detach().to(tensor.device, tensor.dtype)
        if text:
            adapted[name] = text
    return values, adapted, skipped | dict.fromkeys(left.values(), "nothing in the network has its place")


def _places(module: nn.Module) -> dict[str, str]:
    """The place of each tensor in the network, by its name."""
    moved: dict[str, str] = {}
    if isinstance(module, EncoderForecaster):
        L = len(module.encoder)
        moved = {f"encoder.{n}.": f"cells.{n}." for n in range(L)}
        moved |= {f"forecaster.{n}.": f"forecaster.{n - L}." for n in range(L)}  # -1 is next to the frames
    elif isinstance(module, ConvRecurrent) and module.bidirectional:
        ways = ("", "backward.")
        moved = {f"cells.{n}.": f"cells.{n // 2}.{ways[n % 2]}" for n in range(len(module.cells))}
    places = {}
    for name in module.state_dict():
        start = next((start for start in moved if name.startswith(start)), "")
        places[name] = moved.get(start, "") + name.removeprefix(start)
    return places


def _fitted(
    model: nn.Module, source: nn.Module, name: str, there: str, place: str
) -> tuple[Tensor | None, str]:
    """Return a tensor of the source as the model needs it, and how it was made; or None, and why not."""
    value, hows = source.state_dict()[there], []
    ours, theirs = model.get_submodule(_owner(name)), source.get_submodule(_owner(there))
    if isinstance(ours, ConvCell) and isinstance(theirs, ConvCell) and (why := _other_cell(ours, theirs)):
        return None, why
    if why := _other_input(model, source, place) or _other_pixels(model, source, place):
        return None, why
    of_head = isinstance(model, Network) and place.startswith("head.")
    if of_head and (why := _other_head(model, source)):
        return None, why
    frames, their_frames = _frames(model), _frames(source)
    reads_frames = place == DOWN if _coarse(model) else place in READS_FRAMES
    if (of_head or reads_frames) and frames and their_frames:
        (C, p), (their_C, their_p) = frames, their_frames
        if p != their_p:
            return None, _differs("patch_size", their_p, p)
        if their_C != C:
            value, how = _recoloured(value, their_C, C, of_head)
            hows.append(how)
    if place == (UP if _coarse(model) else "head.weight") and (new := _new_channels(model, source)):
        # The head reads a stack's cells from the frames upward, a forecaster's downward.
        before, after = (0, new) if isinstance(model, StackedForecaster) else (new, 0)
        axis = [0, 0] if place == UP else []  # a transposed convolution has its inputs in front
        value = F.pad(value, [0, 0, 0, 0, *axis, before, after])
        hows.append(f"zeros for the {new} channels of new layers")
    return value, "; ".join(hows)


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _problem(value: Any, tensor: Tensor) -> str:
    """Why a value cannot be copied to a tensor; empty if it can."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}, no tensor"
    if value.is_meta or tensor.is_meta:
        return "on the device meta, without memory"
    if value.is_floating_point() != tensor.is_floating_point() or value.is_complex() != tensor.is_complex():
        return _differs("type", value.dtype, tensor.dtype)
    return "" if value.shape == tensor.shape else _differs("shape", tuple(value.shape), tuple(tensor.shape))


def _other_cell(ours: ConvCell, theirs: ConvCell) -> str:
    """What makes the numbers of two cells mean different things; empty if nothing does."""
    if type(ours) is not type(theirs):
        return _differs("the cell", type(theirs).__name__, type(ours).__name__)
    # What a foreign cell computes is said by its stage.
    of_stage = "activation recurrent_activation output norm groups padding stride dilation"
    return _first_difference(
        ours, theirs, "hidden_channels kernel_size nonlinearity reset_after"
    ) or _first_difference(getattr(ours, "stage", None), getattr(theirs, "stage", None), of_stage)


def _other_input(model: nn.Module, source: nn.Module, place: str) -> str:
    """What makes the inputs of two cells mean different things; empty if nothing does."""
    ours, theirs = _input(model, place), _input(source, place)
    return next((_differs(name, theirs[name], ours[name]) for name in ours if ours[name] != theirs[name]), "")


def _input(module: nn.Module, place: str) -> dict[str, object]:
    """What is between a cell's input weights and the cell or the frames that they read."""
    between: dict[str, object] = {"stride": 1, "residual": False, "norm": None}
    half, _, rest = place.partition(".")
    if half not in ("cells", "forecaster") or not place.endswith("weight_ih"):
        return between
    number = int(rest.partition(".")[0])
    if isinstance(module, EncoderForecaster):  # of which the forecaster's cell -1 reads layer 1
        between["stride"] = _strides(module)[abs(number)]
    elif isinstance(module, StackedForecaster) and number:
        between |= {"residual": module.config.residual, "norm": module.config.norm}
    return between


def _strides(module: EncoderForecaster) -> tuple[int, ...]:
    return module.config.strides or (1,) * len(module.encoder)


def _coarse(module: nn.Module) -> bool:
    """Whether a convolution stands between the frames and all cells."""
    return isinstance(module, EncoderForecaster) and _strides(module)[0] > 1


def _other_pixels(model: nn.Module, source: nn.Module, place: str) -> str:
    """What makes the pixels of two fully connected networks different ones; empty if nothing does."""
    if not isinstance(model, FullyConnectedForecaster) or place not in ("rnn.weight_ih_l0", *OF_PIXELS):
        return ""
    names = "channels frame_size output" if place in OF_PIXELS else "channels frame_size"
    return _first_difference(model.config, getattr(source, "config", None), names)


def _other_head(model: nn.Module, source: nn.Module) -> str:
    """What makes the numbers of two heads mean different things; empty if nothing does but image channels."""
    if not isinstance(model, Network) or not isinstance(source, Network) or type(model) is not type(source):
        return f"in its {type(source).__name__} it reads other states"
    ours, theirs = model.config, source.config
    if ours.hidden_channels[: len(theirs.hidden_channels)] != theirs.hidden_channels:
        return _differs("hidden_channels", theirs.hidden_channels, ours.hidden_channels)
    if isinstance(model, EncoderForecaster) and isinstance(source, EncoderForecaster):
        here, there = _strides(model), _strides(source)
        if here[: len(there)] != there:
            return _differs("strides", there, here)
    elif isinstance(model, StackedForecaster) and isinstance(source, StackedForecaster):
        if model.config.head != source.config.head:
            return _differs("head", source.config.head, model.config.head)
        if model.config.head == "last" and ours.hidden_channels != theirs.hidden_channels:
            return "head is last, and the network's last layer is another"
    return _first_difference(ours, theirs, "cell kernel_size patch_size output")


def _frames(module: nn.Module) -> tuple[int, int] | None:
    """C and p of the frames that a module reads, where they are known."""
    if isinstance(module, Network):
        return module.config.channels, module.config.patch_size
    return (module.input_channels, 1) if isinstance(module, ConvRecurrent | ConvCell) else None


def _recoloured(weight: Tensor, there: int, here: int, of_head: bool) -> tuple[Tensor, str]:
    """Return a weight for another number of colours, and how it was made.

    Args:
        weight: the colour of a patch channel is c in (dy * p + dx) * C + c, along the head's axis 0, and
            along axis 1 of weights that read frames.
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


def _new_channels(model: nn.Module, source: object) -> int:
    """The hidden channels of the layers that a model has above those of the source; 0 for other networks."""
    if not isinstance(model, Network) or not isinstance(source, Network) or _other_head(model, source):
        return 0
    return sum(model.config.hidden_channels[len(source.config.hidden_channels) : model.config.layers_on_grid])


def _reads_new_layer(model: nn.Module, source: object, place: str) -> bool:
    """Whether a place has the weights by which the source's topmost forecaster cell reads a new one."""
    if not isinstance(model, EncoderForecaster) or not isinstance(source, EncoderForecaster):
        return False
    L = len(source.forecaster)
    new = len(model.forecaster) > L and not _other_head(model, source)
    return new and place == f"forecaster.{-L}.weight_ih"


def _first_difference(ours: object, theirs: object, names: str) -> str:
    """Say in which of the named attributes two things differ first; empty for none."""
    for name in names.split():
        here, there = getattr(ours, name, None), getattr(theirs, name, None)
        if here != there:
            return _differs(name, there, here)
    return ""


def _differs(what: str, there: object, here: object) -> str:
    return f"{what} is {there}, the network's is {here}"
