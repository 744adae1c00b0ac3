"""Read what `save_pretrained` and train.py write: a directory with model.safetensors and config.json.

Loading executes nothing: tensors are safetensors, the rest is JSON.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from convlstm.core.checks import check_weights, usable_device
from convlstm.core.registry import construct
from convlstm.core.saving import CONFIG, EVALUATION, WEIGHTS, Savable, without_memory

__all__ = ["load_checkpoint", "read_config", "read_evaluations"]


def read_config(directory: str | Path) -> dict[str, Any]:
    """Return what config.json of a saved network holds: "network", and the notes it was saved with.

    Raises:
        FileNotFoundError: no such directory, or no config.json in it.
        ValueError: config.json is no JSON object, or names no network.
    """
    path = Path(directory) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{directory} is no checkpoint: it has no {CONFIG}; give a directory with {WEIGHTS} and {CONFIG}"
        )
    config = _read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("network"), dict):
        raise ValueError(f"{path} names no network; it needs an object with the key 'network'")
    return config


def read_evaluations(directory: str | Path) -> list[dict[str, Any]]:
    """Return the evaluations of a saved network: those in evaluation.json, or in config.json as once written.

    Raises:
        FileNotFoundError: the directory has neither file.
        ValueError: a file is damaged, or is no evaluation.
    """
    path = Path(directory) / EVALUATION
    found = _read_json(path) if path.is_file() else read_config(directory).get("evaluations", [])
    found = [found] if isinstance(found, dict) else found  # of `python -m convlstm evaluate --json`
    if not isinstance(found, list) or not all(isinstance(values, dict) for values in found):
        raise ValueError(f"{path} is damaged, or no evaluation; it needs a list of objects")
    return found


def load_checkpoint(directory: str | Path, device: torch.device | str = "cpu") -> Savable:
    """Build the saved layer or network and load its weights as float32, in evaluation mode.

    Args:
        directory: with model.safetensors and config.json, such as a run of train.py.
        device: where the network goes (default: the CPU).

    Raises:
        FileNotFoundError: no such directory, or a file of the two is missing.
        ValueError: a damaged file, one that is not safetensors, tensors that do not fit the network, weights
            that are not finite, or a device that is not there.
    """
    device, config = usable_device(device), read_config(directory)["network"]
    path = Path(directory) / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{directory} has no {WEIGHTS}; it needs {WEIGHTS} beside {CONFIG}")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or not safetensors, such as a pickle: {error}") from error
    model = _build(config, max_layers=len(tensors), where=Path(directory) / CONFIG)
    check_weights(f"{path} does not fit {CONFIG}", tensors, model.state_dict())
    model.to_empty(device=device).load_state_dict(tensors)
    return model.eval()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # JSONDecodeError, UnicodeDecodeError: ValueErrors
        raise ValueError(f"{path} is damaged: it is not JSON ({error})") from error


def _build(config: Mapping[str, Any], max_layers: int, where: Path) -> Savable:
    """Build a network without memory, until its weights are known to be of this size."""
    layers = config.get("num_layers")
    if isinstance(layers, int) and layers > max_layers:  # building them all would take forever
        raise ValueError(f"{where} does not fit: num_layers is {layers}, {WEIGHTS} has {max_layers} tensors")
    try:
        with without_memory():
            return construct(config)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:  # torch's own, for absurd sizes
        raise ValueError(f"{where} does not fit: {str(error).splitlines()[0]}") from error
