"""Networks by name: architectures, the weights shipped with them, and saved networks from anywhere."""

import difflib
import os
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from convlstm.core.checks import usable_device
from convlstm.core.saving import CONFIG, NETWORKS, WEIGHTS, Savable
from convlstm.hub.checkpoint import load_checkpoint
from convlstm.hub.download import PREFIX, download
from convlstm.models.encoder_forecaster import EncoderForecasterConfig
from convlstm.models.forecaster import Forecaster, ForecasterConfig, network_of
from convlstm.models.fully_connected import FullyConnectedForecasterConfig
from convlstm.models.stacked import StackedForecasterConfig

__all__ = ["ARCHITECTURES", "create_model", "from_pretrained", "list_models"]

# Those of train.py's presets.
ARCHITECTURES: dict[str, ForecasterConfig] = {
    "moving_mnist_tiny": StackedForecasterConfig(hidden_channels=(8, 8), kernel_size=3),
    "moving_mnist_mini": StackedForecasterConfig(hidden_channels=(32, 32, 32)),
    "moving_mnist_small": StackedForecasterConfig(hidden_channels=(64,) * 4, kernel_size=3),
    "moving_mnist_base": StackedForecasterConfig(hidden_channels=(128,) * 4, kernel_size=3),
    "moving_mnist_paper": EncoderForecasterConfig(),
    "moving_mnist_fully_connected": FullyConnectedForecasterConfig(),
}


def list_models(pretrained: bool = False) -> list[str]:
    """Return the names that `create_model` knows; those of forecasters that you registered come last.

    Args:
        pretrained: only those whose weights are shipped with the library (default: False).

    Example:
        >>> convlstm.list_models(pretrained=True)
        ['moving_mnist_mini', 'moving_mnist_small']
    """
    if pretrained:
        return [name for name in ARCHITECTURES if _is_shipped(name)]
    return [*ARCHITECTURES, *_registered()]


def create_model(
    name: str, *, pretrained: bool = False, device: torch.device | str = "cpu", **overrides: Any
) -> Forecaster:
    """Build a forecaster by name, with fresh weights or with those that are shipped.

    Args:
        name: one of `list_models()`, such as the name of a class that `register_model` decorates.
        pretrained: load the shipped weights, in evaluation mode; nothing is downloaded (default: False, fresh
            weights in training mode).
        device: where the network goes (default: the CPU); on "meta" it takes no memory and has no weights.
        overrides: fields of its config to change, such as channels=3; not with pretrained.

    Raises:
        ValueError: an unknown name, one whose weights are not shipped, an override that does not fit, or a
            device that is not there.

    Example:
        >>> model = convlstm.create_model("moving_mnist_tiny", channels=3)
        >>> model(torch.rand(1, 4, 3, 32, 32), horizon=2).shape
        torch.Size([1, 2, 3, 32, 32])
    """
    if not isinstance(name, str) or name not in list_models():
        raise ValueError(f"name is {name!r}, {_not_among(name, list_models())}")
    if pretrained:
        if overrides:
            raise ValueError(
                f"{', '.join(overrides)} given with pretrained=True, whose weights are those of {name} as it "
                "is; leave it out, or set pretrained=False"
            )
        if not _is_shipped(name):
            shipped = ", ".join(list_models(pretrained=True)) or "none"
            raise ValueError(f"name is {name!r}, whose weights are not shipped; shipped: {shipped}")
        return Forecaster.from_pretrained(_folder(name), device=device)
    network, fields = _registered().get(name), {}
    if network is None:
        network, fields = network_of(ARCHITECTURES[name]), asdict(ARCHITECTURES[name])
    with torch.device("meta" if str(device) == "meta" else usable_device(device)):
        return network(**fields | overrides)


def from_pretrained(
    name_or_directory: str | Path, *, device: torch.device | str = "cpu", revision: str | None = None
) -> Savable:
    """Load a saved layer or network, in evaluation mode, its weights as float32.

    `StackedForecaster.from_pretrained`, and that of every other class, loads networks of this class alone.

    Args:
        name_or_directory: a directory that `save_pretrained` or train.py wrote; a name of
            `list_models(pretrained=True)` (a local directory of that name comes first); or hf://owner/name,
            on the Hugging Face Hub, of which config.json and model.safetensors are downloaded into its
            client's cache (`pip install "convlstm[hub]"`).
        device: where the network goes (default: the CPU).
        revision: on the Hub, a branch, tag or commit (default: the main branch), as in
            hf://owner/name@revision.

    Returns:
        The layer, forecaster or ImportedNetwork that was saved, or a network of a class that you registered.

    Raises:
        FileNotFoundError: no such directory or name, or nothing there for this user on the Hub.
        ImportError: an address on the Hub without huggingface_hub.
        OSError: the Hub cannot be reached.
        TypeError: name_or_directory is neither a string nor a path.
        ValueError: a file for a directory, a name without shipped weights, a revision without the Hub, a
            damaged or unfitting file, a class that is not registered, or a device that is not there.

    Example:
        >>> model = convlstm.from_pretrained("moving_mnist_mini")
        >>> frames = convlstm.rollout(model, torch.rand(1, 10, 1, 64, 64), horizon=2)
    """
    if not isinstance(name_or_directory, str | os.PathLike):
        raise TypeError(
            f"name_or_directory is a {type(name_or_directory).__name__}; it needs a string or a path"
        )
    name = os.fspath(name_or_directory)
    if name.startswith(PREFIX):
        return load_checkpoint(download(name, revision), device)
    if revision is not None:
        raise ValueError(f"revision is {revision!r}, but only {PREFIX} addresses have one; {name!r} is none")
    if name and Path(name).is_dir():
        return load_checkpoint(name, device)
    if Path(name).is_file():
        raise ValueError(f"{name} is a file; it needs the directory that has {CONFIG} and {WEIGHTS}")
    if name in ARCHITECTURES:
        return create_model(name, pretrained=True, device=device)
    not_among = _not_among(name, list_models(pretrained=True))
    raise FileNotFoundError(f"no folder {name or repr(name)}, and {not_among}")


Savable._loader = from_pretrained


def _registered() -> dict[str, type[Forecaster]]:
    """The forecasters that the library's users registered, by name."""
    return {
        name: network
        for name, network in NETWORKS.items()
        if issubclass(network, Forecaster) and not network.__module__.startswith("convlstm.")
    }


def _not_among(name: object, names: list[str]) -> str:
    near = difflib.get_close_matches(str(name), names, n=1)
    guess = f" (did you mean {near[0]}?)" if near else ""
    return f"none of the names {', '.join(names)}{guess}"


def _folder(name: str) -> Path:
    return Path(str(resources.files("convlstm"))) / "weights" / name


def _is_shipped(name: str) -> bool:
    return all((_folder(name) / file).is_file() for file in (CONFIG, WEIGHTS))
