"""Keras: models of ConvLSTM1D, 2D and 3D and Bidirectional, of Keras 2 and 3, with what stands around them.

Gates i, f, c, o on a kernel's last axis, (*K, I, 4F); inputs (B, T, *S, C), or channels first. What a model
computes is read from its config; weights alone are imported where they are a stack of ConvLSTMs.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from convlstm.importers.building import network, stack
from convlstm.importers.foreign import Foreign, Imported, Source
from convlstm.importers.keras_bare import GUESSES, bare_layers
from convlstm.importers.keras_config import Layer, layers_of, read_config
from convlstm.importers.keras_layers import CELLS, Converter, is_channels_first
from convlstm.importers.keras_weights import KerasWeights
from convlstm.models.imported.stages import Recurrent

AXES = {1: "w", 2: "h w", 3: "d h w"}
_STATED = ("activation", "recurrent_activation", "padding", "return_sequences", "merge_mode")
_PATH = re.compile(r"layers/.*\bvars/\d+$|.*/(recurrent_)?kernel:0$")


def recognizes(foreign: Foreign) -> bool:
    """Return whether a file has a Keras model's config, or names its tensors as Keras does."""
    return foreign.config is not None or any(_PATH.match(name) for name in foreign.tensors)


def convert(foreign: Foreign) -> Imported:
    """Return a ConvLSTM for a stack that ours can compute, else an ImportedNetwork."""
    config = _config(foreign)
    weights = KerasWeights(foreign)
    layers = bare_layers(foreign, weights) if config is None else layers_of(config)
    stated = _stated_version(foreign, config)

    def version() -> int:
        if stated is not None:
            return stated
        return foreign.option("keras_version", (2, 3), "hard_sigmoid and defaults differ between the two")

    dims, channels_first = _cells_of(layers)
    converter = Converter(weights, dims, channels_first, version)
    named = [(layer.name, part) for layer in layers for part in converter.convert(layer)]
    stateful = [layer for layer in layers if (cell := _cell_of(layer)) and cell.flag("stateful")]
    rest = weights.unused(stateful)
    rest |= dict.fromkeys(foreign.notes.get("dropped", ()), "only training needs it")
    parts = [part for _, part in named]
    only_cells = all(isinstance(part.stage, Recurrent) for part in parts)
    layouts = [("b t c {}" if channels_first else "b t {} c").format(AXES[dims])] * 2
    if not converter.sequences:
        layouts[1] = layouts[1].replace(" t", "")
    known = foreign.keras_version or stated or foreign.options.get("keras_version", "")
    return Imported(
        stack(parts) if only_cells else network(parts, channels=converter.inputs, spatial_dims=dims),
        source=f"Keras {known}".strip(),
        layers=tuple(f"{name:.60}: {part.stage}" for name, part in named),
        gates="i, f, c, o",
        input_layout=layouts[0],
        output_layout=layouts[1],
        dropped=converter.dropped | rest,
        guesses=GUESSES if config is None else (),
    )


def _config(foreign: Foreign) -> Mapping[str, Any] | None:
    """Return the model's config: the file's, or the user's for weights alone."""
    config = foreign.config
    if "config" in foreign.options:
        if config is not None:
            raise ValueError("config is given, but the file has its own")
        config = read_config(foreign.options["config"])
    if config is not None and (needless := [name for name in _STATED if name in foreign.options]):
        raise ValueError(f"{needless[0]} is given, but the model's config says it")
    return config


def _stated_version(foreign: Foreign, config: Mapping[str, Any] | None) -> int | None:
    """Return 2 or 3 where the file or the config says it.

    Raises:
        ValueError: of Keras 1, or not what the user says.
    """
    text = foreign.keras_version or (config or {}).get("keras_version")
    match = re.match(r"(\d{1,3})\b", text) if isinstance(text, str) else None
    if match is None:
        return None
    version = int(match[1])
    if version not in (2, 3):
        raise ValueError(f"the file is of Keras {version}; only those of Keras 2 and 3 can be imported")
    if (said := foreign.options.get("keras_version", version)) != version:
        raise ValueError(f"keras_version is {said!r}, but the file is of Keras {text:.20}")
    return version


def _cells_of(layers: Sequence[Layer]) -> tuple[int, bool]:
    """Return the spatial dims of the model's first ConvLSTM, and whether it has its channels first."""
    for layer in layers:
        if cell := _cell_of(layer):
            return CELLS.index(cell.kind) + 1, is_channels_first(cell)
    kinds = ", ".join(sorted({f"{layer.kind:.30}" for layer in layers})[:5])
    raise ValueError(f"the model has no ConvLSTM layer, but {kinds}; only models with one can be imported")


def _cell_of(layer: Layer) -> Layer | None:
    """Return a ConvLSTM, or the one in a Bidirectional layer; None for other layers."""
    cell = layer.inner("layer") if layer.kind == "Bidirectional" else layer
    return cell if cell.kind in CELLS else None


SOURCE = Source(
    "keras",
    recognizes,
    convert,
    {
        "config": "of weights alone: the path of what model.to_json() gave; then nothing else is asked",
        "keras_version": "2 or 3, where the file does not say it: their hard_sigmoid differs",
        "activation": "of all ConvLSTMs, in weights alone (Keras's default: tanh)",
        "recurrent_activation": "the same of their gates (default: hard_sigmoid in Keras 2, sigmoid in 3)",
        "padding": "same or valid, of all ConvLSTMs, in weights alone (default: valid)",
        "return_sequences": "whether the last layer gives all steps, in weights alone (default: False)",
        "merge_mode": "of Bidirectional, in weights alone: concat (default), sum, mul or ave",
    },
)
