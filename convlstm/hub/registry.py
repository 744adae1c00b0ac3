"""What is saved and built by name: layers and networks, as dicts that go to JSON and back."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from convlstm.core.saving import Savable
from convlstm.models.forecaster import Forecaster, ForecasterConfig
from convlstm.models.fully_connected import FullyConnectedForecaster
from convlstm.models.imported import ImportedNetwork
from convlstm.models.networks import EncoderForecaster, StackedForecaster
from convlstm.nn.layers import ConvGRU, ConvLSTM, ConvRNN

__all__ = ["NETWORKS", "build", "config_from_dict", "config_to_dict", "construct"]

T = TypeVar("T")

_FORECASTERS: dict[str, type[Forecaster]] = {
    network.__name__: network for network in (StackedForecaster, EncoderForecaster, FullyConnectedForecaster)
}
NETWORKS: dict[str, type[Savable]] = {
    **_FORECASTERS,
    **{network.__name__: network for network in (ImportedNetwork, ConvRNN, ConvLSTM, ConvGRU)},
}
"""Every class that a checkpoint may name."""
_FORMER_NAMES = {"StagedNetwork": "ImportedNetwork"}  # in checkpoints that were written before


def construct(description: Mapping[str, Any]) -> Savable:
    """Build, with fresh weights, the layer or network whose `description()` this is.

    Raises:
        ValueError: an unknown network or argument, or a value that does not fit.
        TypeError: a missing argument.
    """
    return _named(description, NETWORKS).from_arguments(_without_name(description))


def config_to_dict(config: ForecasterConfig) -> dict[str, Any]:
    """Return a forecaster's config as a dict for JSON, the network's name under "network".

    Raises:
        ValueError: the config is of no forecaster.
    """
    return {"network": _forecaster_of(config).__name__, **dataclasses.asdict(config)}


def config_from_dict(fields: Mapping[str, Any]) -> ForecasterConfig:
    """Return the config that `config_to_dict` made a dict of.

    Raises:
        ValueError: an unknown forecaster or field, or a value that does not fit.
    """
    return _named(fields, _FORECASTERS).make_config(_without_name(fields))


def build(config: ForecasterConfig) -> Forecaster:
    """Build the forecaster that a config is of.

    Raises:
        ValueError: the config is of no forecaster.
    """
    return _forecaster_of(config)(config)


def _named(fields: Mapping[str, Any], networks: Mapping[str, T]) -> T:
    name = fields.get("network")
    name = _FORMER_NAMES.get(str(name), name)
    if not isinstance(name, str) or name not in networks:
        raise ValueError(f"network is {name!r}; it needs one of {', '.join(networks)}")
    return networks[name]


def _without_name(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != "network"}


def _forecaster_of(config: ForecasterConfig) -> type[Forecaster]:
    for network in _FORECASTERS.values():
        if type(config) is network.config_type:
            return network
    known = ", ".join(network.config_type.__name__ for network in _FORECASTERS.values())
    raise ValueError(f"config is a {type(config).__name__}; it needs one of {known}")
