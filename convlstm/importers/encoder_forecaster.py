"""The encoder-forecaster of the nowcasting codes: convolutions down, cells, and back up from their states.

What jhhuang96, Hzzone and vp-suite share. The encoder runs stage1, rnn1, stage2, rnn2, ...; the forecaster
rnn3, stage3, rnn2, ..., each cell from the state of the encoder's of its number, the first fed zeros. Stages
are convolutions, "deconv" transposed, with a LeakyReLU of slope 0.2 after those named "leaky".
"""

import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from convlstm.importers.building import Part, network, stack, unused
from convlstm.importers.foreign import Foreign, Imported
from convlstm.models.imported.stages import Activation, Convolution

STRIDES = "strides of the encoder's stages, as 1,2,2 (default: what undoes the forecaster's transposed ones)"


def import_nowcaster(
    foreign: Foreign,
    second: str,
    make_cell: Callable[..., Part],
    in_cell: Sequence[str],
    own: tuple[str, ...],
    layout: str,
    **facts: Any,
) -> Imported:
    """Return the network, or a ConvLSTM where the file holds a lone cell.

    Args:
        foreign: the file.
        second: name of the second half, "decoder" or "forecaster".
        make_cell: makes a cell's part of the file, the beginning of its names and fields of its stage.
        in_cell: names of the tensors that a cell may have.
        own: what the names of a lone cell's tensors begin with.
        layout: axes of the input and the output.
        facts: other fields of the result.
    """
    if in_cell[0] in foreign.tensors:
        cell = make_cell(foreign, "")
        return Imported(
            stack([cell]),
            layers=(str(cell.stage),),
            input_layout=layout,
            output_layout=layout,
            dropped=unused(foreign, in_cell, own=own),
            gates="i, f, g, o",
            **facts,
        )
    levels = _levels(foreign, second)
    up = {n: _transposed_strides(foreign, f"{second}.stage{n}.") for n in levels}
    if "strides" in foreign.options:
        strides = foreign.whole_numbers("strides", least=1)
        if len(strides) != len(levels):
            raise ValueError(f"strides is {strides}; it needs {len(levels)}, one per stage of the encoder")
        down = dict(zip(levels, strides, strict=True))
    else:
        down = up
    parts, forecaster, guesses = [], [], []
    for n in levels:
        parts += _stage(foreign, f"encoder.stage{n}.", down[n])
        parts.append(make_cell(foreign, f"encoder.rnn{n}."))
    for n in reversed(levels):
        forecaster.append(make_cell(foreign, f"{second}.rnn{n}.", starts_from=n - 1))
        forecaster += _stage(foreign, f"{second}.stage{n}.", down[n])
    if "strides" not in foreign.options and not foreign.modules:
        words = ", ".join(str(down[n]) for n in levels)
        guesses.append(f"strides of the stages {words}, from the kernels of the forecaster (option strides)")
    halves = [f"{half}." for half in ("encoder", second)]
    used = [f"{half}rnn{n}.{name}" for half in halves for n in levels for name in in_cell]
    for half in halves:
        for n in levels:
            layers = _layers(foreign, f"{half}stage{n}.")
            used += [f"{layer}.{end}" for layer in layers for end in ("weight", "bias")]
    return Imported(
        network(parts, forecaster),
        layers=tuple(str(part.stage) for part in (*parts, *forecaster)),
        input_layout=layout,
        output_layout=layout,
        forecasts=True,
        guesses=tuple(guesses),
        dropped=unused(foreign, used, own=tuple(halves)),
        gates="i, f, g, o",
        **facts,
    )


def _levels(foreign: Foreign, second: str) -> list[int]:
    """Return the numbers of the cells, 1, 2, ..., which both halves must have."""
    cells = [re.match(rf"(encoder|{second})\.rnn([0-9]{{1,2}})\.", name) for name in foreign.tensors]
    levels, others = (
        sorted({int(cell[2]) for cell in cells if cell and cell[1] == half}) for half in ("encoder", second)
    )
    if not levels or levels != list(range(1, len(levels) + 1)) or others != levels:
        raise ValueError(f"the encoder has cells {levels}, the {second} {others}; both need 1, 2, ...")
    return levels


def _layers(foreign: Foreign, stage: str) -> list[str]:
    """Return the names of the layers of a stage, in their order.

    That is the order of the file; or where this has been lost, as safetensors sorts all names, that of the
    numbers in the layers' names, which the projects count up: deconv3_leaky_1, conv3_leaky_2, conv3_3.
    """
    layers = [
        name.removesuffix(".weight")
        for name in foreign.tensors
        if name.startswith(stage) and name.endswith(".weight")
    ]
    if list(foreign.tensors) != sorted(foreign.tensors):
        return layers
    numbers = {layer: [int(n) for n in re.findall("[0-9]+", layer)] for layer in layers}
    layers.sort(key=numbers.__getitem__)
    if same := next((pair for pair in pairwise(layers) if numbers[pair[0]] == numbers[pair[1]]), None):
        raise ValueError(
            f"{same[0]} and {same[1]} may stand in either order: the file's names are sorted, as those of "
            "safetensors are; give what torch.save wrote"
        )
    return layers


def _transposed_strides(foreign: Foreign, stage: str) -> int:
    """Return how much a stage of the forecaster enlarges its frames.

    The projects pad transposed convolutions by one, so that with k taps and stride k - 2 frames grow by the
    stride exactly.
    """
    total = 1
    for layer in _layers(foreign, stage):
        if "deconv" in layer:
            kernel = foreign.tensor(f"{layer}.weight").shape[-1]
            stated = layer in foreign.modules
            total *= _stated(foreign, layer, "stride")[0] if stated else max(kernel - 2, 1)
    return total


def _stage(foreign: Foreign, stage: str, stride: int) -> list[Part]:
    """Return the layers of a stage; its first convolution has the stride, or its transposed one."""
    parts = []
    for number, layer in enumerate(_layers(foreign, stage)):
        weight = foreign.tensors[f"{layer}.weight"]
        transposed = "deconv" in layer
        if weight.dim() != 4:
            raise ValueError(f"{layer}.weight has shape {tuple(weight.shape)}; a stage's layer has four axes")
        kernel = tuple(weight.shape[2:])
        down = stride if number == 0 and (transposed or stage.startswith("encoder")) else 1
        if layer in foreign.modules:
            _check_module(layer, foreign.modules[layer])
            strides, padding = (_stated(foreign, layer, name) for name in ("stride", "padding"))
        else:
            strides, padding = (down, down), tuple(_padding(layer, k, down, transposed) for k in kernel)
        ends = weight.shape[:2] if transposed else (weight.shape[1], weight.shape[0])
        convolution = Convolution(
            input_channels=ends[0],
            output_channels=ends[1],
            kernel_size=kernel,
            stride=strides,
            padding=padding,
            transposed=transposed,
        )
        parts.append(Part(convolution, ({"weight": weight, "bias": foreign.tensor(f"{layer}.bias")},)))
        if "leaky" in layer:
            parts.append(Part(Activation(name="leaky_relu", slope=0.2)))
        elif "relu" in layer:
            parts.append(Part(Activation(name="relu")))
    return parts


def _check_module(layer: str, module: Mapping[str, Any]) -> None:
    """Raise ValueError for a convolution with settings that the projects' never have."""
    usual = {"dilation": {1}, "output_padding": {0}, "groups": {1}, "padding_mode": {"zeros"}}
    for name, value in usual.items():
        found = module.get(name, ())
        if not set(found if isinstance(found, list | tuple) else [found]) <= value:
            raise ValueError(
                f"{layer} has {name} {reprlib.repr(found)}, which the project's layers never have"
            )


def _stated(foreign: Foreign, layer: str, name: str) -> tuple[int, int]:
    """Return the stride or padding of a pickled convolution."""
    match value := foreign.modules[layer].get(name):
        case [int(rows), int(columns)]:
            return rows, columns
    raise ValueError(f"{layer} has {name} {reprlib.repr(value)}; it needs two whole numbers")


def _padding(layer: str, kernel: int, stride: int, transposed: bool) -> int:
    """Return the zeros at each end of an axis, as the projects choose them."""
    if transposed:
        if kernel < stride or (kernel - stride) % 2:
            raise ValueError(
                f"{layer} has {kernel} taps; frames do not grow by a stride of {stride} with them"
            )
        return (kernel - stride) // 2
    return 1 if stride > 1 and kernel - stride in (1, 2) else (kernel - 1) // 2
