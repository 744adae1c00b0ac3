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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convlstm import ConvLSTM
from convlstm.importers.foreign import Foreign
from convlstm.importers.keras import convert
from tests.convlstm.importers.keras_models import ALL, SAME, K, build, compare, opened, save

pytestmark = pytest.mark.usefixtures("hdf5_in_this_process")

STACK = {"activation": "tanh", "recurrent_activation": "sigmoid", "padding": "same", "return_sequences": True}


def stack(**options: Any) -> Any:
    return build([K.ConvLSTM2D(3, 2, **SAME, **options), K.ConvLSTM2D(3, 2, **SAME, **options)])


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


def test_weights_alone_of_a_stack(tmp_path: Path) -> None:
    model = stack()
    path, _ = save(model, tmp_path, "model.weights.h5")
    imported = convert(opened(path, **STACK))
    assert isinstance(imported.model, ConvLSTM)
    assert imported.guesses
    compare(model, imported)


def test_weights_alone_of_both_directions(tmp_path: Path) -> None:
    options = {"activation": "relu", "recurrent_activation": "hard_sigmoid"}
    model = build([K.Bidirectional(K.ConvLSTM2D(3, 2, **options), merge_mode="sum"), K.Dropout(0.1)])
    path, _ = save(model, tmp_path, "model.weights.h5")
    said = {**options, "padding": "valid", "merge_mode": "sum", "return_sequences": False, "keras_version": 3}
    imported = convert(opened(path, **said))
    compare(model, imported)
    for name in said:
        without = {key: value for key, value in said.items() if key != name}
        refused(opened(path, **without), rf"{name} is not in the file.*{name}=")


def test_weights_alone_as_keras_2_names_them(tmp_path: Path) -> None:
    both = K.Bidirectional(K.ConvLSTM2D(3, 2, **SAME))
    path, _ = save(build([both, K.Bidirectional(K.ConvLSTM2D(3, 2, **SAME))]), tmp_path, "model.weights.h5")
    said = {**STACK, "merge_mode": "concat"}
    foreign, names, tensors = opened(path, **said), ("kernel", "recurrent_kernel", "bias"), {}
    for path_in_file, tensor in foreign.tensors.items():
        _, layer, direction, *_, number = path_in_file.split("/")
        layer = {"bidirectional": "zeta", "bidirectional_1": "alpha"}[layer]
        tensors[f"{layer}/{layer}/{direction.split('_')[0]}_x/{names[int(number)]}:0"] = tensor
    x = torch.randn(1, 3, 3, 4, 5)
    layer_names = ["input_1", "zeta", "dropout", "alpha"]
    with torch.no_grad():
        expected, _ = convert(foreign).model(x)
        found, _ = convert(Foreign(tensors, said, notes={"layer_names": layer_names})).model(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    refused(Foreign(tensors, said), "layer_names is missing")
    unknown = [*layer_names, "activation"]
    refused(
        Foreign(tensors, said, notes={"layer_names": unknown}), "activation is in these weights.*config=PATH"
    )


def test_weights_alone_in_layers_of_several_classes(tmp_path: Path) -> None:
    model = build([K.ConvLSTM2D(3, 2), K.BatchNormalization()])
    path, _ = save(model, tmp_path, "model.weights.h5")
    refused(opened(path, **STACK), "batch_normalization.*config=PATH")
    model = build([K.TimeDistributed(K.Conv2D(3, 2))])
    path, _ = save(model, tmp_path, "model.weights.h5")
    refused(opened(path, **STACK), "time_distributed.*config=PATH")


def test_hard_sigmoid_is_another_function_in_keras_2(tmp_path: Path) -> None:
    path, _ = save(stack(), tmp_path, "model.weights.h5")
    said = {**STACK, "recurrent_activation": "hard_sigmoid"}
    x = torch.randn(1, 2, 3, 4, 4)
    with torch.no_grad():
        two, three = (convert(opened(path, **said, keras_version=v)).model(x) for v in (2, 3))
    assert (two - three).abs().max() > 1e-4


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
    refused(dataclasses.replace(bare, options={"config": 3}), "config is a int")
    with pytest.raises(FileNotFoundError, match="is no file"):
        convert(dataclasses.replace(bare, options={"config": tmp_path / "nowhere.json"}))


@keras.saving.register_keras_serializable()
class ConvLSTM2D(K.ConvLSTM2D):
    """A class of an author's own, of the same name."""


def code(x: torch.Tensor) -> torch.Tensor:
    return x * 2


REFUSED: dict[str, tuple[Callable[[], list[Any]], str]] = {
    "Lambda": (
        lambda: [K.ConvLSTM2D(2, 3), K.Lambda(lambda x: x * 2, name="twice")],
        "'twice' .Lambda.*never run",
    ),
    "own class": (lambda: [ConvLSTM2D(2, 3, name="mine")], "'mine' .ConvLSTM2D.*author"),
    "own activation": (
        lambda: [K.ConvLSTM2D(2, 3, activation=code, name="mine")],
        "'mine' .ConvLSTM2D.*activation.*known are",
    ),
    "softmax": (lambda: [K.ConvLSTM2D(2, 3), K.Activation("softmax")], "softmax.*known are"),
    "Dense": (
        lambda: [K.ConvLSTM2D(2, 3), K.Flatten(), K.Dense(2)],
        "'flatten.*' .Flatten.*cannot be expressed",
    ),
    "pooling": (lambda: [K.ConvLSTM2D(2, 3, **ALL), K.MaxPooling3D()], "MaxPooling3D.*cannot be expressed"),
    "nested": (
        lambda: [build([K.ConvLSTM2D(3, 3, **SAME)]), K.ConvLSTM2D(2, 3)],
        "Sequential.*cannot be expressed",
    ),
    "no ConvLSTM": (lambda: [K.Conv3D(2, 3)], "no ConvLSTM layer, but Conv3D"),
    "groups": (lambda: [K.ConvLSTM2D(2, 3), K.Conv2D(2, 3, groups=2)], "Conv2D.*groups"),
    "Conv1D": (
        lambda: [K.ConvLSTM2D(2, 3), K.TimeDistributed(K.Conv1D(2, 3))],
        "TimeDistributed.*reads a frame",
    ),
    "relu": (lambda: [K.ConvLSTM2D(2, 3), K.ReLU(max_value=1)], "ReLU.*highest value"),
    "axis": (lambda: [K.ConvLSTM2D(2, 3, **ALL), K.BatchNormalization(axis=2)], "axis 2; it needs 4"),
    "two layouts": (
        lambda: [K.ConvLSTM2D(2, 3, **ALL), K.ConvLSTM2D(2, 2, data_format="channels_first")],
        "another data_format",
    ),
    "widths joined": (
        lambda: [K.Bidirectional(K.ConvLSTM2D(2, 2, data_format="channels_first"))],
        "joins its directions along the width",
    ),
    "times as channels": (
        lambda: [
            K.ConvLSTM2D(2, 2, data_format="channels_first", **ALL),
            K.Conv3D(2, 1, data_format="channels_first"),
        ],
        "takes time for channels",
    ),
    "directions that differ": (
        lambda: [
            K.Bidirectional(
                K.ConvLSTM2D(2, 3, padding="same"),
                backward_layer=K.ConvLSTM2D(2, 1, padding="same", go_backwards=True),
            )
        ],
        "differ in more than their weights",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_layers_that_cannot_be_expressed_are_named(name: str, tmp_path: Path) -> None:
    make, reason = REFUSED[name]
    refused(opened(save(build(make()), tmp_path, "model.keras")[0]), reason)


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
    model = build([K.ConvLSTM2D(3, 2, dropout=0.2, **SAME), K.Dropout(0.5, name="drop"), K.ConvLSTM2D(3, 2)])
    model.compile("adam", "mse", metrics=["mae"])
    x = torch.randn(1, 4, 7, 6, 3)
    model.fit(x, model(x).detach(), verbose=0)
    for name in ("model.keras", "model.h5"):
        dropped = convert(opened(save(model, tmp_path, name)[0])).dropped
        assert "drop" in dropped
        assert any(key.endswith(".dropout") for key in dropped)
        assert any("optimizer" in key for key in dropped)
    stateful = keras.Sequential([keras.Input(batch_shape=(1, 4, 7, 6, 3)), K.ConvLSTM2D(3, 2, stateful=True)])
    stateful(x)
    for name in ("model.keras", "model.h5"):
        imported = convert(opened(save(stateful, tmp_path, name)[0]))
        assert any(key.endswith(".stateful") for key in imported.dropped)
        stateful.layers[0].reset_states()
        with torch.no_grad():
            expected = stateful(x).movedim(-1, 1)
            torch.testing.assert_close(imported.model(x.movedim(-1, 2)), expected, rtol=0, atol=1e-5)


def set_to(number: int, name: str, value: Any) -> Callable[[list[Any]], None]:
    def change(layers: list[Any]) -> None:
        layers[number]["config"][name] = value

    return change


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("filters", 10**12, "needs .2, 2, any, 4000000000000"),
        ("filters", "many", "filters 'many'; it needs a whole number"),
        ("filters", True, "filters True"),
        ("kernel_size", [2], "kernel_size .2.; it needs 2 whole numbers"),
        ("kernel_size", [3, 3], "has a kernel of shape .2, 2, 3, 12.; by its config it needs .3, 3, any, 12"),
        ("kernel_size", {"a": 1}, "kernel_size"),
        ("strides", [0, 1], "strides"),
        ("padding", "causal", "padding 'causal'; it needs one of valid, same"),
        ("use_bias", False, "vars/2 is in the file, and no layer of its config needs it"),
        ("activation", ["tanh"], "activation"),
        ("recurrent_activation", "hard_sigmoid_keras2", "known are"),
        ("dropout", float("nan"), "dropout nan; it needs a finite number"),
        ("name", ["x"], "has the name .*; it needs a printable text"),
        ("name", "a\nb", "has the name 'a.*b'; it needs a printable text"),
        ("data_format", "channels_middle", "data_format"),
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

    def nest(layers: list[Any]) -> None:
        for _ in range(5000):
            layers[1] = {"class_name": "TimeDistributed", "config": {"layer": layers[1]}, "inbound_nodes": []}

    refused(with_config(plain, many), "12000 layers; it needs a list of 1 to 1000")
    refused(with_config(plain, cycle), "is beside the chain|no chain comes to it")
    for config in ({}, {"class_name": "Sequential", "config": 3}, {"class_name": "Mine", "config": {}}):
        refused(dataclasses.replace(plain, config=config), "the model")
    deep: Any = {"class_name": "ConvLSTM2D", "config": {}}
    for _ in range(500):
        deep = {"class_name": "TimeDistributed", "config": {"layer": deep}}
    assert plain.config is not None
    config = {"class_name": "Sequential", "config": [*plain.config["config"]["layers"][:2], deep]}
    refused(dataclasses.replace(plain, config=config), "TimeDistributed.*cannot be expressed")


def test_tensors_that_do_not_fit(plain: Foreign) -> None:
    name = "layers/conv_lstm2d_1/cell/vars/0"
    for tensor, reason in (
        (torch.zeros(2, 2, 4, 12), "by its config it needs .2, 2, 3, 12"),
        (torch.zeros(()), "by its config it needs"),
        (torch.zeros(2, 2, 3, 12, dtype=torch.int64), "needs a floating one"),
        (torch.full((2, 2, 3, 12), torch.nan), "not finite"),
    ):
        refused(dataclasses.replace(plain, tensors={**plain.tensors, name: tensor}), reason)
    without = {key: value for key, value in plain.tensors.items() if key != name}
    refused(dataclasses.replace(plain, tensors=without), "conv_lstm2d.*its kernel is missing")


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


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
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
