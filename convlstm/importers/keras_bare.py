"""Import Keras weights without a config: a stack of ConvLSTMs, with options for what the file does not say.

Kernel sizes, widths, biases and the order of layers of one class show in a file; activations and padding do
not, nor how layers of several classes stand: those need the model's config.
"""

import re
from typing import Any

from torch import Tensor

from convlstm.importers.foreign import Foreign
from convlstm.importers.keras_config import Layer
from convlstm.importers.keras_layers import ACTIVATION_NAMES
from convlstm.importers.keras_weights import KerasWeights

GUESSES = (
    "strides and dilations of 1, time read forwards",
    "the input has its channels last",
    "no layers without weights but dropout",
)
_NOTHING = re.compile(r"(input|input_layer|dropout|spatial_dropout[123]d|gaussian_(noise|dropout))(_[0-9]+)?")
_WHY = "weights alone do not say it"


def bare_layers(foreign: Foreign, weights: KerasWeights) -> list[Layer]:
    """Return the layers of a stack of ConvLSTMs, from their weights and the user's options.

    Raises:
        ValueError: options that are missing, or a file with other layers.
    """
    names = _numbered(weights) if weights.numbered else _named(foreign, weights)
    cells = {name: _cells(weights, name) for name in names}
    others = [name for name, found in cells.items() if not found]
    if others or not cells:
        raise ValueError(
            f"{', '.join(others[:3]) or 'no layer'} is in these weights; without a config only stacks of "
            "ConvLSTM can be imported: say config=PATH, the file that holds what model.to_json() gave"
        )
    return [_layer(foreign, name, found, last=name == names[-1]) for name, found in cells.items()]


def _numbered(weights: KerasWeights) -> list[str]:
    """Return the names of the groups of Keras 3, which has them by class and number: here of one class."""
    found = [name for name in weights.groups() if not _NOTHING.fullmatch(name)]
    kinds = {re.sub("_[0-9]+$", "", name) for name in found}
    if len(kinds) > 1:
        raise ValueError(
            f"these weights are of {', '.join(sorted(kinds))}, and do not say how they follow each other: "
            "say config=PATH, the file that holds what model.to_json() gave"
        )
    names = [f"{kind}_{n}" if n else kind for kind in kinds for n in range(len(found))]
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"{missing[0]} is not in these weights, but {found[-1]} is")
    return names


def _named(foreign: Foreign, weights: KerasWeights) -> list[str]:
    """Return the layers of an older file in their order, without those that do nothing at inference."""
    names = foreign.notes.get("layer_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("layer_names is missing: without it the file does not say how its layers follow")
    return [name for name in names if weights.paths(name) or not _NOTHING.fullmatch(name)]


def _cells(weights: KerasWeights, name: str) -> list[tuple[Tensor, bool]]:
    """Return the recurrent kernel of each cell of a layer, and whether the cell has a bias."""
    paths = weights.paths(name)
    kernel, bias = ("cell/vars/1", "cell/vars/2") if weights.numbered else ("recurrent_kernel:0", "bias:0")
    ends = [path.removesuffix(kernel) for path in paths if path.endswith(kernel)]
    return [(paths[end + kernel], end + bias in paths) for end in ends]


def _layer(foreign: Foreign, name: str, cells: list[tuple[Tensor, bool]], last: bool) -> Layer:
    """Return a ConvLSTM layer, or a Bidirectional one where there are two cells."""
    kernel, bias = cells[0]  # (*K, F, 4F)
    sizes = tuple(kernel.shape[:-2])
    if len(sizes) not in (1, 2, 3) or len(cells) > 2:
        raise ValueError(
            f"layer {name!r:.60} has a recurrent kernel {tuple(kernel.shape)}: it is no ConvLSTM"
        )
    settings: dict[str, Any] = {
        "filters": kernel.shape[-2],
        "kernel_size": sizes,
        "use_bias": bias,
        "activation": foreign.option("activation", ACTIVATION_NAMES, _WHY),
        "recurrent_activation": foreign.option("recurrent_activation", ACTIVATION_NAMES, _WHY),
        "return_sequences": not last
        or foreign.option("return_sequences", (True, False), f"{_WHY} of the last layer"),
    }
    if set(sizes) != {1}:
        settings["padding"] = foreign.option("padding", ("same", "valid"), _WHY)
    kind = f"ConvLSTM{len(sizes)}D"
    if len(cells) == 1:
        return Layer(kind, name, settings, name)
    merge = foreign.option("merge_mode", ("concat", "sum", "mul", "ave"), _WHY)
    inner = {"class_name": kind, "config": settings}
    return Layer("Bidirectional", name, {"merge_mode": merge, "layer": inner}, name)
