"""What is saved and built by name: every class, every argument, through JSON and back."""

import dataclasses
import inspect
import json
from typing import Any

import numpy as np
import pytest
import torch

from convlstm import (
    ConvGRU,
    ConvLSTM,
    ConvRNN,
    EncoderForecaster,
    EncoderForecasterConfig,
    FullyConnectedForecaster,
    FullyConnectedForecasterConfig,
    ImportedNetwork,
    StackedForecaster,
    StackedForecasterConfig,
)
from convlstm.core.saving import Configured, Savable
from convlstm.hub.registry import NETWORKS, construct
from convlstm.models.imported import ImportedConfig
from convlstm.models.imported.stages import Convolution, Recurrent

SIZES = {"input_channels": 2, "hidden_channels": 3, "kernel_size": (2, 3), "num_layers": 2, "bias": False}
SHARED = {**SIZES, "batch_first": True, "dropout": 0.25, "bidirectional": True}
# Every argument, none of them at its default but spatial_dims, which decides what the others may be.
ARGUMENTS: dict[type[Savable], dict[str, Any]] = {
    ConvRNN: {**SHARED, "spatial_dims": 2, "nonlinearity": "relu"},
    ConvLSTM: {**SHARED, "spatial_dims": 2, "peephole": (5, 4), "forget_bias": 0.5, "recompute": True},
    ConvGRU: {**SHARED, "spatial_dims": 2, "reset_after": False, "recompute": True},
}


def networks() -> list[Savable]:
    small = {"hidden_channels": (3, 2), "kernel_size": 2, "patch_size": 2, "cell": "gru", "peephole": None}
    layers = [kind(**arguments) for kind, arguments in ARGUMENTS.items()]
    stages = (
        Recurrent(input_channels=2, hidden_channels=3, kernel_size=(2, 3), peephole=(4, 6), norm="group"),
        Convolution(input_channels=3, output_channels=2, kernel_size=(1, 1)),
    )
    return [
        *layers,
        ImportedNetwork(ImportedConfig(channels=2, stages=stages)),
        StackedForecaster(StackedForecasterConfig(**small)),
        EncoderForecaster(EncoderForecasterConfig(**small, strides=(1, 2))),
        FullyConnectedForecaster(
            FullyConnectedForecasterConfig(cell="gru", frame_size=(4, 6), hidden_size=3)
        ),
    ]


def leaves(kind: type) -> set[type]:
    """The library's own classes below one, without those that have others below them."""
    below = [each for each in kind.__subclasses__() if each.__module__.startswith("convlstm.")]
    return set().union(*map(leaves, below)) if below else {kind}


def test_every_network_of_the_library_is_known_by_its_name() -> None:
    assert set(NETWORKS.values()) == leaves(Savable) == {type(network) for network in networks()}
    assert all(kind.__name__ == name for name, kind in NETWORKS.items())


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_every_argument_of_a_layer_is_described(kind: type[Savable]) -> None:
    parameters = inspect.signature(kind).parameters
    assert set(ARGUMENTS[kind]) == parameters.keys() - {"device", "dtype"}
    assert all(
        ARGUMENTS[kind][name] != parameter.default
        for name, parameter in parameters.items()
        if name not in ("device", "dtype", "spatial_dims")
    )
    assert kind(**ARGUMENTS[kind]).arguments() == ARGUMENTS[kind]
    assert kind(2, 3, 3, spatial_dims=3).arguments()["spatial_dims"] == 3  # pyright: ignore[reportCallIssue]


def test_a_description_goes_to_json_and_back() -> None:
    for network in networks():
        description = network.description()
        assert description["network"] == type(network).__name__
        anew = construct(json.loads(json.dumps(description)))
        assert type(anew) is type(network)
        assert anew.description() == description
        assert repr(anew) == repr(network)
        if isinstance(anew, Configured):
            assert anew.config == network.config
            assert set(description) == {"network", *(f.name for f in dataclasses.fields(anew.config))}
        anew.load_state_dict(network.state_dict())


def test_numbers_of_numpy_are_described_as_those_of_json() -> None:
    options: dict[str, Any] = {
        "bidirectional": np.True_,
        "peephole": (np.int64(4), 4),
        "forget_bias": np.float32(0),
    }
    layer = ConvLSTM(1, 2, 3, **options)
    described = layer.description()
    assert json.loads(json.dumps(described)) == described
    assert described["bidirectional"] is True
    assert described["peephole"] == [4, 4]


def test_what_has_no_name_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"network is 'Linear'; it needs one of StackedForecaster, .*ConvGRU"
    ):
        construct({"network": "Linear"})
    with pytest.raises(ValueError, match="network is None; it needs one of"):
        construct({})


def test_describing_costs_no_memory() -> None:
    with torch.device("meta"):
        layer = ConvLSTM(10_000, 10_000, 9)
    assert layer.description()["hidden_channels"] == 10_000
