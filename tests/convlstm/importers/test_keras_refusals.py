"""What is asked and refused of Keras files: weights alone, other layers, other graphs, absurd configs."""

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convlstm import ConvLSTM
from convlstm.importers.foreign import Foreign
from convlstm.importers.keras import convert
from tests.convlstm.importers.keras_models import ALL, SAME, K, build, compare, opened, save

pytestmark = pytest.mark.usefixtures("hdf5_in_this_process")

STACK = {"activation": "tanh", "recurrent_activation": "sigmoid", "padding": "same", "return_sequences": True}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Foreign:
    """A stack of two, as a Functional model in a .keras file."""
    layers = [K.ConvLSTM2D(3, 2, **SAME), K.ConvLSTM2D(3, 2, **SAME), K.BatchNormalization()]
    return opened(save(build(layers, functional=True), tmp_path_factory.mktemp("keras"), "model.keras")[0])


def with_config(foreign: Foreign, change: Callable[[list[Any]], None]) -> Foreign:
    """Return a file with a config whose layers were changed."""
    config = copy.deepcopy(foreign.config)
    assert config is not None
    change(config["config"]["layers"])
    return dataclasses.replace(foreign, config=config)


def refused(foreign: Foreign, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as error:
        convert(foreign)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def bare(folder: Path, *layers: Any, **said: Any) -> tuple[Any, Foreign]:
    """Save the weights of a model alone; return the model, and the file with what is said of it."""
    model = build(list(layers))
    return model, opened(save(model, folder, "model.weights.h5")[0], **said)


def test_weights_alone_of_a_stack(tmp_path: Path) -> None:
    model, foreign = bare(tmp_path, *(K.ConvLSTM2D(3, 2, **SAME) for _ in range(2)), **STACK)
    imported = convert(foreign)
    assert isinstance(imported.model, ConvLSTM)
    assert imported.guesses
    compare(model, imported)
    x, outputs = torch.randn(1, 2, 3, 4, 4), []
    for version in (2, 3):  # whose hard_sigmoids differ
        options = {**STACK, "recurrent_activation": "hard_sigmoid", "keras_version": version}
        outputs.append(convert(dataclasses.replace(foreign, options=options)).model(x))
    assert (outputs[0] - outputs[1]).abs().max() > 1e-4


def test_weights_alone_of_both_directions(tmp_path: Path) -> None:
    options = {"activation": "relu", "recurrent_activation": "hard_sigmoid"}
    said = {**options, "padding": "valid", "merge_mode": "sum", "return_sequences": False, "keras_version": 3}
    both = K.Bidirectional(K.ConvLSTM2D(3, 2, **options), merge_mode="sum")
    model, foreign = bare(tmp_path, both, K.Dropout(0.1), **said)
    compare(model, convert(foreign))
    for name in said:
        without = {key: value for key, value in said.items() if key != name}
        refused(dataclasses.replace(foreign, options=without), rf"{name} is not in the file.*{name}=")


def test_weights_alone_as_keras_2_names_them(tmp_path: Path) -> None:
    said, names = {**STACK, "merge_mode": "concat"}, ("kernel", "recurrent_kernel", "bias")
    layers = (K.Bidirectional(K.ConvLSTM2D(3, 2, **SAME)) for _ in range(2))
    model, foreign = bare(tmp_path, *layers, **said)
    tensors = {}
    for path, tensor in foreign.tensors.items():
        _, layer, direction, *_, number = path.split("/")
        layer = {"bidirectional": "zeta", "bidirectional_1": "alpha"}[layer]
        tensors[f"{layer}/{layer}/{direction.split('_')[0]}_x/{names[int(number)]}:0"] = tensor
    layer_names = ["input_1", "zeta", "dropout", "alpha"]
    compare(model, convert(Foreign(tensors, said, notes={"layer_names": layer_names})))
    refused(Foreign(tensors, said), "layer_names is missing")
    notes = {"layer_names": [*layer_names, "activation"]}
    refused(Foreign(tensors, said, notes=notes), "activation is in these weights.*config=PATH")


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        (lambda: (K.ConvLSTM2D(3, 2), K.BatchNormalization()), "batch_normalization.*config=PATH"),
        (lambda: (K.TimeDistributed(K.Conv2D(3, 2)),), "time_distributed.*config=PATH"),
    ],
)
def test_weights_alone_of_other_layers(layers: Callable[[], Any], reason: str, tmp_path: Path) -> None:
    refused(bare(tmp_path, *layers(), **STACK)[1], reason)


def test_what_the_file_says_is_not_to_be_said(plain: Foreign, tmp_path: Path) -> None:
    for options, reason in (
        ({"config": plain.config}, "config is given, but the file has its own"),
        ({"padding": "same"}, "padding is given, but the model's config says it"),
        ({"keras_version": 2}, "keras_version is 2, but the file is of Keras 3"),
    ):
        refused(dataclasses.replace(plain, options=options), reason)
    bare = dataclasses.replace(plain, config=None)
    (tmp_path / "wrong.json").write_text("[" * 100_000)
    refused(dataclasses.replace(bare, options={"config": str(tmp_path / "wrong.json")}), "is no JSON")
    with pytest.raises(FileNotFoundError, match="is no file"):
        convert(dataclasses.replace(bare, options={"config": tmp_path / "nowhere.json"}))


@keras.saving.register_keras_serializable()
class ConvLSTM2D(K.ConvLSTM2D):
    """A class of an author's own, of the same name."""


def code(x: torch.Tensor) -> torch.Tensor:
    return x * 2


FIRST: dict[str, Any] = {"data_format": "channels_first"}
REFUSED: dict[str, Callable[[], list[Any]]] = {
    "'twice' .Lambda.*never run": lambda: [K.ConvLSTM2D(2, 3), K.Lambda(lambda x: x * 2, name="twice")],
    "'mine' .ConvLSTM2D.*author": lambda: [ConvLSTM2D(2, 3, name="mine")],
    "'mine' .ConvLSTM2D.*activation.*known are": lambda: [K.ConvLSTM2D(2, 3, activation=code, name="mine")],
    "softmax.*known are": lambda: [K.ConvLSTM2D(2, 3), K.Activation("softmax")],
    "'flatten.*' .Flatten.*cannot be expressed": lambda: [K.ConvLSTM2D(2, 3), K.Flatten(), K.Dense(2)],
    "Sequential.*cannot be expressed": lambda: [build([K.ConvLSTM2D(3, 3, **SAME)]), K.ConvLSTM2D(2, 3)],
    "no ConvLSTM layer, but Conv3D": lambda: [K.Conv3D(2, 3)],
    "Conv2D.*groups": lambda: [K.ConvLSTM2D(2, 3), K.Conv2D(2, 3, groups=2)],
    "TimeDistributed.*reads a frame": lambda: [K.ConvLSTM2D(2, 3), K.TimeDistributed(K.Conv1D(2, 3))],
    "ReLU.*highest value": lambda: [K.ConvLSTM2D(2, 3), K.ReLU(max_value=1)],
    "axis 2; it needs 4": lambda: [K.ConvLSTM2D(2, 3, **ALL), K.BatchNormalization(axis=2)],
    "another data_format": lambda: [K.ConvLSTM2D(2, 3, **ALL), K.ConvLSTM2D(2, 2, **FIRST)],
    "joins its directions along the width": lambda: [K.Bidirectional(K.ConvLSTM2D(2, 2, **FIRST))],
    "takes time for channels": lambda: [K.ConvLSTM2D(2, 2, **FIRST, **ALL), K.Conv3D(2, 1, **FIRST)],
    "differ in more than their weights": lambda: [
        K.Bidirectional(
            K.ConvLSTM2D(2, 3, padding="same"),
            backward_layer=K.ConvLSTM2D(2, 1, padding="same", go_backwards=True),
        )
    ],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_layers_that_cannot_be_expressed_are_named(reason: str, tmp_path: Path) -> None:
    refused(opened(save(build(REFUSED[reason]()), tmp_path, "model.keras")[0]), reason)


def test_graphs_that_are_no_chain_are_refused(tmp_path: Path) -> None:
    x = keras.Input((4, 7, 6, 3))
    a, b = (K.ConvLSTM2D(3, 3, name=name, **SAME) for name in "ab")
    state = K.ConvLSTM2D(3, 3, return_state=True, name="state", **SAME)(x)
    models = {
        "'sum' .*Add.* reads several layers": keras.Model(x, K.Add(name="sum")([a(x), b(x)])),
        "'a' .*is used several times": keras.Model(x, a(a(x))),
        "no output layer, or several": keras.Model(x, [a(x), b(x)]),
        "'b' .*is called with 'initial_state'": keras.Model(x, b(x, initial_state=state[1:])),
        "has return_state": keras.Model(x, b(state[0])),
        "is called with 'training' True": keras.Model(x, b(K.BatchNormalization()(x, training=True))),
        "merge_mode None": keras.Model(
            x, a(K.Bidirectional(K.ConvLSTM2D(3, 3, **SAME), merge_mode=None)(x)[0])
        ),
    }
    for reason, model in models.items():
        refused(opened(save(model, tmp_path, "model.keras")[0]), reason)


def test_what_is_dropped_is_told(tmp_path: Path) -> None:
    layers = [K.ConvLSTM2D(3, 2, dropout=0.2, **SAME), K.Dropout(0.5, name="drop")]
    model: Any = keras.Sequential(
        [keras.Input(batch_shape=(2, 4, 7, 6, 3)), *layers, K.ConvLSTM2D(3, 2, stateful=True)]
    )
    model.compile("adam", "mse")
    x = torch.randn(2, 4, 7, 6, 3)
    model.fit(x, model(x).detach(), verbose=0)
    for name in ("model.keras", "model.h5"):
        imported = convert(opened(save(model, tmp_path, name)[0]))
        assert "drop" in imported.dropped
        for word in (".dropout", ".stateful", "optimizer"):
            assert any(word in key for key in imported.dropped)
        model.layers[-1].reset_states()
        compare(model, imported)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("filters", 10**12, "needs .2, 2, any, 4000000000000"),
        ("filters", "many", "filters 'many'; it needs a whole number"),
        ("kernel_size", [2], "kernel_size .2.; it needs 2 whole numbers"),
        ("kernel_size", [3, 3], "has a kernel of shape .2, 2, 3, 12.; by its config it needs .3, 3, any, 12"),
        ("strides", [0, 1], "strides"),
        ("padding", "causal", "padding 'causal'; it needs one of valid, same"),
        ("use_bias", False, "vars/2 is in the file, and no layer of its config needs it"),
        ("recurrent_activation", "hard_sigmoid_keras2", "known are"),
        ("name", "a\nb", "has the name 'a.*b'; it needs a printable text"),
        ("return_sequences", False, "reads a frame, of the last step; it needs a sequence"),
    ],
)
def test_a_config_that_does_not_fit(plain: Foreign, name: str, value: Any, reason: str) -> None:
    def change(layers: list[Any]) -> None:
        layers[1]["config"][name] = value
        if name == "name":
            del layers[1]["name"]

    refused(with_config(plain, change), reason)


def test_absurd_configs(plain: Foreign) -> None:
    def many(layers: list[Any]) -> None:
        layers *= 3000

    def cycle(layers: list[Any]) -> None:
        layers[1]["inbound_nodes"] = layers[3]["inbound_nodes"]

    deep: Any = {"class_name": "ConvLSTM2D", "config": {}}
    for _ in range(500):
        deep = {"class_name": "TimeDistributed", "config": {"layer": deep}}
    refused(with_config(plain, many), "12000 layers; it needs a list of 1 to 1000")
    refused(with_config(plain, cycle), "is beside the chain|no chain comes to it")
    assert plain.config is not None
    config = {"class_name": "Sequential", "config": [plain.config["config"]["layers"][1], deep]}
    refused(dataclasses.replace(plain, config=config), "TimeDistributed.*cannot be expressed")
    for config in ({}, {"class_name": "Sequential", "config": 3}, {"class_name": "Mine", "config": {}}):
        refused(dataclasses.replace(plain, config=config), "the model")


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.zeros(2, 2, 4, 12), "by its config it needs .2, 2, 3, 12"),
        (torch.zeros(()), "by its config it needs"),
        (torch.zeros(2, 2, 3, 12, dtype=torch.int64), "needs a floating type"),
        (None, "conv_lstm2d.*its kernel is missing"),
    ],
)
def test_tensors_that_do_not_fit(plain: Foreign, tensor: torch.Tensor | None, reason: str) -> None:
    tensors = {
        key: value for key, value in plain.tensors.items() if key != "layers/conv_lstm2d_1/cell/vars/0"
    }
    changed = {} if tensor is None else {"layers/conv_lstm2d_1/cell/vars/0": tensor}
    refused(dataclasses.replace(plain, tensors=tensors | changed), reason)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.integers() | st.floats() | st.text(max_size=4)
    | st.sampled_from(["same", "relu", "channels_first", "ConvLSTM2D", "Bidirectional", "TimeDistributed"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Walk all the places of a JSON value: what holds them, and where."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


@given(data=st.data())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_config_is_imported_or_refused_in_a_line(plain: Foreign, data: st.DataObject) -> None:
    config = json.loads(json.dumps(plain.config))
    for _ in range(data.draw(st.integers(1, 2))):
        holder, key = data.draw(st.sampled_from(list(places(config))))
        holder[key] = data.draw(JSON)
    message = ""
    try:
        convert(dataclasses.replace(plain, config=config))
    except ValueError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 1000
