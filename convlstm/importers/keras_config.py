"""Read a Keras model's config: its layers in the order in which they run, and their settings.

The file is not trusted: each value is checked before it is used, and nothing that it names is run.
"""

import json
import re
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convlstm.core.checks import finite, positive

MAX_LAYERS = 1000
OWN = ("keras", "tensorflow", "tf_keras")
"""Packages whose classes are Keras's own."""


@dataclass(frozen=True)
class Layer:
    """A layer as a config describes it."""

    kind: str
    """Its class."""
    name: str
    settings: Mapping[str, Any]
    group: str = ""
    """The name of its weights in a file of Keras 3: its class, and a number from the second one on."""

    def error(self, reason: str) -> ValueError:
        """Return the error that says what is wrong with this layer."""
        return ValueError(f"layer {self.name!r:.60} ({self.kind:.40}) {reason}")

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a setting that is true or false."""
        value = self.settings.get(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def one_of(self, name: str, choices: Sequence[str], default: str) -> str:
        """Return a setting that is one of a few words."""
        value = self.settings.get(name, default)
        if value not in choices:
            raise self._wrong(name, f"one of {', '.join(choices)}")
        return value

    def number(self, name: str, default: float) -> float:
        """Return a setting that is a finite number."""
        try:
            return finite(name, self.settings.get(name, default))
        except (ValueError, OverflowError):
            raise self._wrong(name, "a finite number") from None

    def whole(self, name: str, default: int = 0) -> int:
        """Return a setting that is a whole number of one or more (0 stands for no default)."""
        try:
            return positive(name, self.settings.get(name, default))
        except ValueError:
            raise self._wrong(name, "a whole number of 1 or more") from None

    def sizes(self, name: str, axes: int, default: int = 0) -> tuple[int, ...]:
        """Return a setting that is a whole number of one or more per axis, or one for all."""
        value = self.settings.get(name, default)
        try:
            if not isinstance(value, list | tuple):
                return (positive(name, value),) * axes
            if len(value) == axes:
                return tuple(positive(name, size) for size in value)
        except ValueError:
            pass
        raise self._wrong(name, f"{axes} whole numbers of 1 or more")

    def inner(self, name: str) -> "Layer":
        """Return the layer that this one wraps."""
        return _layer(self.settings.get(name), f"{name} of layer {self.name!r:.60}")

    def _wrong(self, name: str, needs: str) -> ValueError:
        value = shown(self.settings[name]) if name in self.settings else "missing"
        return self.error(f"has {name} {value}; it needs {needs}")


def read_config(value: Any) -> Mapping[str, Any]:
    """Return the config of a model that a user gives: an object, or the path of the JSON file that holds it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no JSON object.
    """
    if isinstance(value, Mapping):
        return value
    if not Path(str(value)).is_file():
        raise FileNotFoundError(f"config {value} is no file; it needs what model.to_json() gave")
    try:
        config = json.loads(Path(value).read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"config {value} is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"config {value} holds a {type(config).__name__}; it needs a JSON object")
    return config


def shown(value: Any) -> str:
    """Return a short, one-line text of a value, for an error."""
    return reprlib.repr(value)[:100]


def layers_of(config: Mapping[str, Any]) -> list[Layer]:
    """Return the layers of a model, from its input to its output.

    Raises:
        ValueError: a config that does not say what the model computes, or a graph that is not one chain.
    """
    kind, settings = config.get("class_name"), config.get("config")
    if kind not in ("Sequential", "Functional", "Model"):
        raise ValueError(
            f"the model is a {shown(kind)}; only Sequential and Functional ones say what they compute"
        )
    # Old Sequential models are lists.
    entries = settings.get("layers") if isinstance(settings, Mapping) else settings
    if not isinstance(entries, list) or not 0 < len(entries) <= MAX_LAYERS:
        got = f"{len(entries)} layers" if isinstance(entries, list) else f"layers {shown(entries)}"
        raise ValueError(f"the model's config has {got}; it needs a list of 1 to {MAX_LAYERS}")
    counts: Counter[str] = Counter()
    layers = []
    for number, entry in enumerate(entries):
        layer = _layer(entry, f"layer number {number}")
        group = re.sub("([a-z])([A-Z])", r"\1_\2", layer.kind).lower()  # conv_lstm2d of ConvLSTM2D
        again = counts[group]
        counts[group] += 1
        layers.append(Layer(layer.kind, layer.name, layer.settings, f"{group}_{again}" if again else group))
    if len({layer.name for layer in layers}) < len(layers):
        raise ValueError("the model's config has two layers of one name")
    if kind == "Sequential":
        return layers
    assert isinstance(settings, Mapping | list)
    return _chain(settings, entries, layers)


def _layer(entry: Any, what: str) -> Layer:
    match entry:
        case {"class_name": str(kind), "config": dict(settings)}:
            name = entry.get("name", settings.get("name", kind))
        case _:
            raise ValueError(f"{what} is {shown(entry)}; it needs a class_name and a config")
    for text in (kind, name):
        if not isinstance(text, str) or not text.isprintable():
            raise ValueError(f"{what} has the name {shown(text)}; it needs a printable text")
    layer = Layer(kind, name, settings)
    module = entry.get("module")
    own = module is None or (isinstance(module, str) and module.split(".")[0] in OWN)
    if not own or entry.get("registered_name") not in (None, kind):
        raise layer.error("is a class of its author's, whose code is not in the file")
    return layer


def _chain(settings: Any, entries: list[Any], layers: list[Layer]) -> list[Layer]:
    """Return the layers of a Functional model in the order of its graph, from the output back."""
    match settings:
        case {"output_layers": [str(name), int(), 0] | [[str(name), int(), 0]]}:
            pass
        case _:
            raise ValueError("the model has no output layer, or several; it needs one")
    before = {layer.name: _read_by(layer, entry) for layer, entry in zip(layers, entries, strict=True)}
    waiting = {layer.name: layer for layer in layers}
    chain = []
    while name is not None:
        if name not in waiting:
            raise ValueError(f"layer {name!r:.60} is read in the model's graph, where no chain comes to it")
        chain.append(waiting.pop(name))
        name = before[name]
    for layer in waiting.values():
        raise layer.error("is beside the chain from one input to one output, which is all that is imported")
    return chain[::-1]


def _read_by(layer: Layer, entry: Mapping[str, Any]) -> str | None:
    """Return the name of the layer whose output a layer reads; None for an input."""
    nodes = entry.get("inbound_nodes")
    if layer.kind == "InputLayer" and not nodes:
        return None
    match nodes:
        case [{"args": [{"config": {"keras_history": [str(name), 0, 0]}}], **rest}]:  # Keras 3
            arguments = rest.get("kwargs")
        case [[[str(name), 0, 0]]]:  # Keras 2
            arguments = None
        case [[[str(name), 0, 0, arguments]]]:
            pass
        case _:
            raise layer.error(
                "reads several layers or is used several times; only a chain of layers is imported"
            )
    given = arguments.items() if isinstance(arguments, Mapping) else ()
    for argument, value in given:
        if value is not None and value is not False:
            raise layer.error(f"is called with {argument!r:.40} {shown(value)}, which cannot be expressed")
    return name
