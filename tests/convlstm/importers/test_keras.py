"""Keras models, saved in each format that Keras 3 writes, imported, and run beside the originals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
from torch import Tensor

from convlstm import ConvLSTM
from convlstm.importers.foreign import Foreign
from convlstm.importers.keras import convert, recognizes
from convlstm.models.imported import ImportedNetwork
from tests.convlstm.importers.keras_models import ALL, SAME, K, build, compare, opened, save

pytestmark = pytest.mark.usefixtures("hdf5_in_this_process")

BOTH = ("forward", "backward")
FORMATS = ("model.keras", "model.weights.h5", "model.h5")


def bidirectional(merge: str, **options: Any) -> Any:
    return K.Bidirectional(K.ConvLSTM2D(2, 3, padding="same", **options), merge_mode=merge)


def given_backwards() -> Any:
    forward, backward = (K.ConvLSTM2D(3, 3, go_backwards=back, **ALL) for back in (True, False))
    return K.Bidirectional(forward, backward_layer=backward, merge_mode="sum")


def timed(*layers: Any) -> list[Any]:
    return [K.TimeDistributed(layer) for layer in layers]


FIRST: dict[str, Any] = {"data_format": "channels_first"}
CASES: dict[str, Callable[[], list[Any]]] = {
    "widths differ, the last step": lambda: [
        K.ConvLSTM2D(3, 3, **SAME),
        K.ConvLSTM2D(2, (1, 4), padding="same"),
    ],
    "valid, strides": lambda: [K.ConvLSTM2D(3, (2, 3), strides=(1, 2), **ALL)],
    "same, strides, no bias": lambda: [K.ConvLSTM2D(3, (4, 3), strides=2, use_bias=False, **SAME)],
    "dilation": lambda: [K.ConvLSTM2D(3, (2, 3), dilation_rate=2, **SAME)],
    "other activations": lambda: [
        K.ConvLSTM2D(3, 2, activation="relu", recurrent_activation="hard_sigmoid", **SAME),
        K.ConvLSTM2D(2, 1, activation=None, recurrent_activation="hard_sigmoid"),
    ],
    "backwards": lambda: [K.ConvLSTM2D(3, 3, go_backwards=True, **ALL)],
    "both directions, sum": lambda: [bidirectional("sum", **ALL), bidirectional("mul")],
    "both directions, mean of the last": lambda: [bidirectional("ave")],
    "both directions, a layer each": lambda: [given_backwards()],
    "of the examples of Keras": lambda: [
        K.ConvLSTM2D(4, 5, activation="relu", dropout=0.1, recurrent_dropout=0.2, **SAME),
        K.BatchNormalization(),
        K.Dropout(0.3),
        K.ConvLSTM2D(3, 1, activation="relu", **SAME),
        K.Conv3D(3, 3, activation="sigmoid", padding="same"),
    ],
    "of each frame": lambda: [
        *timed(K.Conv2D(2, 3, strides=2, padding="same", activation="relu"), K.BatchNormalization()),
        K.ConvLSTM2D(3, 3, **SAME),
        *timed(K.Dropout(0.2), K.Activation("swish"), K.Conv2D(2, 2, activation=K.LeakyReLU(0.1))),
    ],
    "batch norms": lambda: [
        K.BatchNormalization(center=False, epsilon=0.1),
        K.ConvLSTM2D(3, 3),
        K.BatchNormalization(scale=False, axis=3),
        K.Conv2D(1, 3, use_bias=False),
    ],
    "functions": lambda: [
        K.LeakyReLU(),
        K.ConvLSTM2D(3, 3, **ALL),
        *(K.Activation("hard_sigmoid"), K.ELU(), K.ReLU(6), K.ReLU(negative_slope=0.1)),
        K.GaussianNoise(0.1),
    ],
    "1D": lambda: [
        K.ConvLSTM1D(3, 4, **SAME),
        K.ConvLSTM1D(2, 3, **ALL),
        K.Conv2D(2, (2, 3), dilation_rate=2, padding="same"),
    ],
    "3D": lambda: [
        K.ConvLSTM3D(2, 2, **SAME),
        K.ConvLSTM3D(3, (1, 2, 3)),
        K.Conv3D(2, 1, activation="tanh"),
    ],
    "channels first": lambda: [
        K.ConvLSTM2D(3, 3, **SAME, **FIRST),
        K.BatchNormalization(axis=2),
        *timed(K.Conv2D(2, 3, **FIRST), K.BatchNormalization(axis=1)),
        K.ConvLSTM2D(2, (2, 3), **FIRST),
    ],
}
INPUTS: dict[str, dict[str, Any]] = {"1D": {"dims": 1}, "3D": {"dims": 3}, "channels first": {"first": True}}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("turn", [0, *(pytest.param(turn, marks=pytest.mark.slow) for turn in (1, 2))])
def test_a_network(name: str, turn: int, tmp_path: Path) -> None:
    """Each in one format, which are taken in turn; the slow tests take the others."""
    number = list(CASES).index(name) + turn
    model = build(CASES[name](), functional=bool(number % 2), **INPUTS.get(name, {}))
    path, said = save(model, tmp_path, FORMATS[number % len(FORMATS)])
    foreign = opened(path, **said)
    assert recognizes(foreign)
    imported = convert(foreign)
    assert isinstance(imported.model, ImportedNetwork)
    assert imported.gates == "i, f, c, o"
    compare(model, imported)


STACKS: list[tuple[Callable[[], Any], int]] = [
    (lambda: K.ConvLSTM1D(3, 2, **SAME), 1),
    (lambda: K.ConvLSTM2D(3, 2, **SAME), 2),
    (lambda: K.ConvLSTM3D(3, 2, **SAME), 3),
    (lambda: bidirectional("concat", **ALL), 2),
]


@pytest.mark.parametrize("file", FORMATS)
def test_a_plain_stack_is_a_layer(file: str, tmp_path: Path) -> None:
    for make, dims in STACKS:
        model = build([make(), make()], dims, functional=True)
        path, said = save(model, tmp_path, file)
        imported = convert(opened(path, **said))
        assert isinstance(imported.model, ConvLSTM)
        assert imported.source == (f"Keras {3 if said else keras.version()}")
        compare(model, imported)


@keras.saving.register_keras_serializable()
def slope_of_keras_2(x: Tensor) -> Tensor:
    return (0.2 * x + 0.5).clamp(0, 1)


@pytest.mark.parametrize("old", [False, True])
def test_a_file_of_keras_2(old: bool) -> None:
    """As Keras 2 writes it: kernel:0 under the layers' names, nodes as lists, hard_sigmoid by default."""
    inner = K.ConvLSTM2D(2, 3, recurrent_activation=slope_of_keras_2, name="deep", **SAME)
    layers = [
        K.ConvLSTM2D(3, 3, recurrent_activation=slope_of_keras_2, name="first", **SAME),
        K.BatchNormalization(name="norm"),
        K.Bidirectional(inner, name="both"),
        K.LeakyReLU(0.3, name="leaky"),
        K.TimeDistributed(K.Conv2D(1, 1, name="conv"), name="each"),
    ]
    model = build(layers)
    tensors = {}
    for layer in layers:
        for weight in layer.weights:
            middle = f"{part}_deep/" if (part := weight.path.split("/")[-3].split("_")[0]) in BOTH else ""
            tensors[f"{layer.name}/{layer.name}/{middle}{weight.name}:0"] = weight.value.detach()
    cell = {"kernel_size": [3, 3], "padding": "same", "return_sequences": True}
    settings: list[tuple[str, dict[str, Any]]] = [
        ("ConvLSTM2D", {"filters": 3, **cell}),
        ("BatchNormalization", {"axis": [4], "epsilon": 0.001}),
        (
            "Bidirectional",
            {"layer": {"class_name": "ConvLSTM2D", "config": {"filters": 2, "name": "deep", **cell}}},
        ),
        ("LeakyReLU", {"alpha": 0.3}),
        ("TimeDistributed", {"layer": {"class_name": "Conv2D", "config": {"filters": 1, "kernel_size": 1}}}),
    ]
    names = ["input_1", *(layer.name for layer in layers)]
    entries: list[dict[str, Any]] = [
        {"class_name": "InputLayer", "config": {"name": "input_1"}, "inbound_nodes": []}
    ]
    for before, name, (kind, config) in zip(names, names[1:], settings, strict=False):
        nodes = [[[before, 0, 0, {}]]]
        entries.append({"class_name": kind, "config": {"name": name, **config}, "inbound_nodes": nodes})
    config: dict[str, Any] = {"class_name": "Sequential", "config": entries[1:]}
    if old:  # as before 2.2.3: a list; and a convolution may read a sequence
        entries[-1].update(class_name="Conv2D", config={"name": "each", "filters": 1, "kernel_size": 1})
    else:
        config = {
            "layers": entries[::-1],
            "input_layers": [["input_1", 0, 0]],
            "output_layers": [["each", 0, 0]],
        }
        config = {"class_name": "Model", "config": config}
    imported = convert(Foreign(tensors, config=config, keras_version="2.2.4-tf"))
    compare(model, imported)
