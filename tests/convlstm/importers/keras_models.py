"""Keras models with random weights: built, saved, opened as an importer is given them, and compared."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import keras
import torch

from convlstm.importers.checking import check
from convlstm.importers.foreign import Foreign, Imported
from convlstm.importers.reading.files import read_foreign

B, T = 2, 4
FRAMES = {1: (7,), 2: (7, 6), 3: (3, 4, 5)}
K: Any = keras.layers  # whose arguments may be more than their annotations say
ALL: dict[str, Any] = {"return_sequences": True}
SAME: dict[str, Any] = {"padding": "same", **ALL}


def opened(path: Path, **options: Any) -> Foreign:
    return dataclasses.replace(read_foreign(path), options=options)


def build(
    layers: list[Any], dims: int = 2, functional: bool = False, channels: int = 3, first: bool = False
) -> Any:
    """Build a model with random weights, its biases and statistics too."""
    keras.utils.set_random_seed(0)
    shape = (T, channels, *FRAMES[dims]) if first else (T, *FRAMES[dims], channels)
    if functional:
        x = start = keras.Input(shape)
        for layer in layers:
            x = layer(x)
        model = keras.Model(start, x)
    else:
        model = keras.Sequential([keras.Input(shape), *layers])
    for weight in model.weights:
        if not weight.dtype.startswith("float"):
            continue
        value = 0.4 * torch.randn(weight.shape)
        weight.assign(value.abs() + 0.5 if "variance" in weight.name else value)
    return model


def save(model: Any, folder: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """Save a model; return the file, and what is to be said of it."""
    path = folder / name
    with warnings.catch_warnings():
        # Keras's own variables, as numpy reads them.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        if not name.endswith("weights.h5"):
            model.save(path)
            return path, {}
        model.save_weights(path)
    (folder / "config.json").write_text(model.to_json())
    return path, {"config": folder / "config.json", "keras_version": 3}


def compare(model: Any, imported: Imported) -> None:
    x = torch.randn((B, *model.input_shape[1:]))
    with torch.no_grad():
        expected = model(x, training=False)
    assert expected.abs().max() > 1e-3
    assert check(imported, x.numpy(), expected.numpy()) < 1e-5
