"""What can be saved: descriptions through JSON and back, registered classes, and what is refused."""

import inspect
import json
import math
import os
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.testing import assert_close

import convlstm
from convlstm import (
    ConvGRU,
    ConvLSTM,
    ConvRNN,
    EncoderForecaster,
    EncoderForecasterConfig,
    Forecaster,
    FullyConnectedForecaster,
    ImportedNetwork,
    StackedForecaster,
    StackedForecasterConfig,
    create_model,
    from_pretrained,
    list_models,
    register_model,
    rollout,
    stream,
)
from convlstm.core.saving import NETWORKS, Savable, unwrap
from convlstm.hub.checkpoint import read_config
from convlstm.models.imported.stages import Convolution, Recurrent

SIZES = {"input_channels": 2, "hidden_channels": 3, "kernel_size": (2, 3), "num_layers": 2, "bias": False}
SHARED = {**SIZES, "batch_first": True, "dropout": 0.25, "bidirectional": True, "spatial_dims": 2}
SMALL: dict[str, Any] = {"hidden_channels": (3, 2), "kernel_size": 2, "patch_size": 2, "cell": "gru"}
STAGES = (
    Recurrent(input_channels=2, hidden_channels=3, kernel_size=(2, 3), peephole=(4, 6), norm="group"),
    Convolution(input_channels=3, output_channels=2, kernel_size=(1, 1)),
)
# Of layers every argument, none at its default but spatial_dims, which decides what the others may be.
ARGUMENTS: dict[type[Savable], dict[str, Any]] = {
    ConvRNN: {**SHARED, "nonlinearity": "relu"},
    ConvLSTM: {**SHARED, "peephole": (5, 4), "forget_bias": 0.5, "recompute": True},
    ConvGRU: {**SHARED, "reset_after": False, "recompute": True},
    ImportedNetwork: {"channels": 2, "stages": STAGES},
    StackedForecaster: SMALL,
    EncoderForecaster: {**SMALL, "peephole": None, "strides": (1, 2)},
    FullyConnectedForecaster: {"cell": "gru", "frame_size": (4, 6), "hidden_size": 3},
}


def stacked() -> StackedForecaster:
    return StackedForecaster(hidden_channels=(4, 3), kernel_size=3)


def test_every_network_of_the_library_is_registered_by_its_name() -> None:
    ours = {name: kind for name, kind in NETWORKS.items() if kind.__module__.startswith("convlstm.")}
    assert set(ours.values()) == set(ARGUMENTS)
    assert all(kind.__name__ == name for name, kind in ours.items())
    assert list_models()[-1].startswith("moving_mnist")  # a class is no name of an architecture


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_a_network_is_saved_and_loaded_whole(kind: Any, tmp_path: Path) -> None:
    kind(**ARGUMENTS[kind]).save_pretrained(tmp_path)
    network = kind(**ARGUMENTS[kind])
    network.save_pretrained(tmp_path, {"step": 7, "naïve": "é"})  # over the one that stood there
    assert sorted(os.listdir(tmp_path)) == ["README.md", "config.json", "model.safetensors"]
    described = network.description()
    assert described["network"] == kind.__name__
    assert read_config(tmp_path) == {"network": json.loads(json.dumps(described)), "step": 7, "naïve": "é"}
    for loaded in (from_pretrained(tmp_path), kind.from_pretrained(tmp_path)):
        assert type(loaded) is kind
        assert loaded.description() == described
        assert repr(loaded) == repr(network.eval())
        assert not loaded.training
        assert getattr(loaded, "config", None) == getattr(network, "config", None)
        assert_close(loaded.state_dict(), network.state_dict(), rtol=0, atol=0)
    parameters = inspect.signature(kind).parameters
    if "config" not in parameters:
        assert network.arguments() == ARGUMENTS[kind]
        assert set(ARGUMENTS[kind]) == parameters.keys() - {"device", "dtype"}


def test_numbers_of_numpy_are_described_as_those_of_json() -> None:
    options: dict[str, Any] = {"bidirectional": np.True_, "peephole": (np.int64(4), 4)}
    described = json.loads(json.dumps(ConvLSTM(1, 2, 3, **options).description()))
    assert (described["bidirectional"], described["peephole"]) == (True, [4, 4])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_another_type_are_loaded_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    model = stacked().to(dtype)
    model.save_pretrained(tmp_path)
    loaded = from_pretrained(tmp_path)
    assert_close(loaded.state_dict(), model.float().state_dict(), rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in loaded.parameters())


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> type[Forecaster]:
    """The network that the docstring of Forecaster shows, registered for the length of a test."""
    code = inspect.cleandoc(str(Forecaster.__doc__)).split("cell::\n\n")[1].split("\n\nArgs:")[0]
    names: dict[str, Any] = {"convlstm": convlstm, "torch": torch, "nn": nn, "dataclass": dataclass}
    names["__name__"] = "mine"
    exec(textwrap.dedent(code), names)
    monkeypatch.setitem(NETWORKS, "OneCell", NETWORKS.pop("OneCell"))  # gone after the test
    assert names["frames"].shape == (2, 3, 1, 16, 16)
    return names["OneCell"]


def test_the_network_in_the_docs_is_one_like_ours(own: Any, tmp_path: Path) -> None:
    model, context = own(hidden_channels=4).eval(), torch.rand(2, 4, 1, 6, 5)
    whole = rollout(model, context, 3)
    assert_close(torch.stack(list(stream(model, context, 3)), dim=1), whole)
    returned = model(context, 3, return_context=True)
    assert_close(returned[:, 3:], whole)
    for t in range(1, 4):
        assert_close(returned[:, t - 1], model(context[:, :t], 1)[:, 0])
    targets, use_target = torch.rand(2, 3, 1, 6, 5), torch.tensor([[True, False], [False, True]])
    forced = model(context, 3, targets=targets, use_target=use_target)
    assert_close(forced[0, 1], model(torch.cat([context, targets[:, :1]], dim=1), 1)[0, 0])
    assert_close(forced[1, 1], whole[1, 1])
    probabilities = rollout(own(output="sigmoid"), context, 3)
    assert 0 < probabilities.min() < probabilities.max() < 1
    model.save_pretrained(tmp_path)
    for loaded in (from_pretrained(tmp_path), own.from_pretrained(tmp_path)):
        assert_close(rollout(loaded, context, 3), whole, rtol=0, atol=0)
    sizes: Any = {"hidden_channels": 3, "channels": 2}
    assert create_model("OneCell", **sizes).config == own(**sizes).config
    assert list_models()[-1] == "OneCell"
    with pytest.raises(ValueError, match="OneCell has no config field depth; it has channels, output, h"):
        create_model("OneCell", depth=3)
    with pytest.raises(ValueError, match="name is 'OneCell', whose weights are not shipped"):
        create_model("OneCell", pretrained=True)
    del NETWORKS["OneCell"]  # as in a process that did not register it
    with pytest.raises(ValueError, match=r"network is 'OneCell'; it needs .* a class of yours that was re"):
        from_pretrained(tmp_path)
    with pytest.raises(TypeError, match=r"OneCell, a class .*; decorate it with @convlstm.register_model"):
        model.save_pretrained(tmp_path)
    NETWORKS["OneCell"] = own


def test_what_cannot_be_registered(own: Any) -> None:
    assert register_model(own) is own
    again = type("OneCell", (own,), {"__module__": own.__module__})  # a cell of a notebook, run twice
    assert register_model(again) is again
    with pytest.raises(TypeError, match="it needs a class, such as a subclass of"):
        register_model(nn.Linear)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"nn.layers has registered a ConvLSTM; give it another"):
        register_model(type("ConvLSTM", (ConvLSTM,), {}))


def test_a_network_takes_a_config_or_its_fields() -> None:
    config = StackedForecasterConfig(hidden_channels=(4, 3), kernel_size=3)
    assert StackedForecaster(config).config == stacked().config == config
    assert StackedForecaster().config == StackedForecasterConfig()
    with pytest.raises(TypeError, match="got a config and kernel_size; give a config or its fields"):
        StackedForecaster(config, kernel_size=3)
    with pytest.raises(TypeError, match=r"config is a \w+; StackedForecaster needs a StackedForecasterCon"):
        StackedForecaster(EncoderForecasterConfig())  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="Forecaster has no config field depth, width; it has channels, o"):
        StackedForecaster(width=3, depth=2)
    with pytest.raises(ValueError, match="kernel_size is 0; it needs a whole number of 1 or more"):
        StackedForecaster(kernel_size=0)


def test_a_class_loads_networks_of_its_own(tmp_path: Path) -> None:
    ConvLSTM(1, 2, 3).save_pretrained(tmp_path)
    assert Forecaster.from_pretrained("moving_mnist_mini").config.hidden_channels == (32, 32, 32)
    with pytest.raises(ValueError, match=r"has a ConvLSTM; ConvGRU.from_pretrained needs a ConvGRU: use "):
        ConvGRU.from_pretrained(tmp_path)


def tied() -> StackedForecaster:
    model = StackedForecaster(hidden_channels=(3, 3, 3), kernel_size=3)
    model.cells[2].weight_ih = model.cells[1].get_parameter("weight_ih")
    return model


def parametrized() -> StackedForecaster:
    model = stacked()
    torch.nn.utils.parametrizations.weight_norm(model.cells[0], "weight_hh")
    return model


def diverged() -> StackedForecaster:
    model = stacked()
    nn.init.constant_(next(model.cells.parameters()), math.nan)
    return model


def test_wrapped_and_tied_networks_are_saved(tmp_path: Path) -> None:
    model = tied()
    wrapped: Any = torch.compile(model)
    wrapped.save_pretrained(tmp_path)
    assert_close(from_pretrained(tmp_path).state_dict(), model.state_dict(), rtol=0, atol=0)
    for wrapper in (wrapped, nn.DataParallel(model), AveragedModel(model)):
        assert isinstance(unwrap(wrapper), StackedForecaster)
    plain = nn.Linear(1, 1)
    assert unwrap(plain) is plain


@pytest.mark.parametrize(
    ("make", "notes", "error", "message"),
    [
        (lambda: type("Own", (ConvLSTM,), {})(1, 2, 3), {}, TypeError, "model is a Own, .* could not build"),
        (stacked, {"network": 1}, ValueError, "notes has a key 'network'"),
        (stacked, {"mse": math.nan}, ValueError, "notes has a value that JSON cannot hold"),
        (stacked, {"mse": torch.ones(1)}, ValueError, "notes has a value that JSON cannot hold"),
        (diverged, {}, ValueError, r"could not be loaded again: cells.0.* has values that are not finite"),
        (lambda: stacked().to("meta"), {}, NotImplementedError, "Cannot copy out of meta tensor; no data!"),
        (parametrized, {}, ValueError, "model has cells.0.parametrizations.* of another kind than a Stacked"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(
    tmp_path: Path, make: Any, notes: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make().save_pretrained(tmp_path / "new", notes)
    assert not (tmp_path / "new").exists()
