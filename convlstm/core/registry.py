"""The names of networks: classes that are registered, found by name, and built from descriptions."""

from collections.abc import Mapping
from typing import Any, TypeVar

from convlstm.core.saving import NETWORKS, Savable

__all__ = ["construct", "network_named", "register_model"]

_FORMER_NAMES = {"StagedNetwork": "ImportedNetwork"}  # in checkpoints that were written before
Network = TypeVar("Network", bound=type[Savable])


def register_model(network: Network) -> Network:
    """Register a class of networks, so that they can be saved, and loaded and built by the class's name.

    Use it as a decorator. The class is a `convlstm.Forecaster`, which has an example, or a subclass of one of
    the library's layers and networks. Whoever loads such a network must import the module that registers it,
    your copy of train.py, too: nothing is imported or executed from the saved files. The command line knows
    the library's networks only; roll yours out and evaluate it in Python.

    Args:
        network: the class. A class that was defined again, as in a notebook, replaces the one before.

    Returns:
        The same class.

    Raises:
        TypeError: network is not a class that can be saved.
        ValueError: another class of this name is registered.

    Example:
        >>> @convlstm.register_model
        ... class Clipped(convlstm.StackedForecaster):
        ...     def forward(self, context, horizon, **options):
        ...         return super().forward(context, horizon, **options).clamp(0, 1)
        ...
        >>> Clipped(hidden_channels=(8,)).save_pretrained("clipped")
        >>> type(convlstm.from_pretrained("clipped")).__name__
        'Clipped'
    """
    if not (isinstance(network, type) and issubclass(network, Savable)):
        raise TypeError(
            f"network is {network!r}; it needs a class, such as a subclass of convlstm.Forecaster"
        )
    before = NETWORKS.get(network.__name__, network)
    if (before.__module__, before.__qualname__) != (network.__module__, network.__qualname__):
        raise ValueError(
            f"network is {network.__module__}.{network.__name__}, but {before.__module__} has registered a "
            f"{network.__name__}; give it another name"
        )
    NETWORKS[network.__name__] = network
    return network


def network_named(name: object) -> type[Savable]:
    """Return the registered class of this name; else raise ValueError."""
    name = _FORMER_NAMES.get(str(name), name)
    if not isinstance(name, str) or name not in NETWORKS:
        raise ValueError(
            f"network is {name!r}; it needs one of {', '.join(NETWORKS)}, or a class of yours that was "
            "registered with convlstm.register_model before"
        )
    return NETWORKS[name]


def construct(description: Mapping[str, Any]) -> Savable:
    """Build, with fresh weights, the layer or network whose `description()` this is.

    Raises:
        ValueError: an unknown network or argument, or a value that does not fit.
        TypeError: a missing argument.
    """
    arguments = {name: value for name, value in description.items() if name != "network"}
    return network_named(description.get("network")).from_arguments(arguments)
