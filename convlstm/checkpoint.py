"""Checkpoints: a directory with model.safetensors (the tensors) and config.json (what to build them into).

Each file is written under a temporary name and renamed, so that a reader finds the old one or the new one,
whole; the weights come first, so that notes never speak of weights that are not there yet. Loading executes
nothing: tensors are safetensors, the rest is JSON.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from convlstm.files import write_atomically
from convlstm.forecaster import Forecaster
from convlstm.networks import build, config_from_dict, config_to_dict

__all__ = ["load_checkpoint", "read_config", "save_checkpoint"]

WEIGHTS = "model.safetensors"
CONFIG = "config.json"

FLOATING = ("F16", "BF16", "F32", "F64")  # as a safetensors header names them


def save_checkpoint(directory: str | Path, model: Forecaster, notes: Mapping[str, Any] | None = None) -> None:
    """Write a model as a checkpoint, over the one that stands there.

    Args:
        directory: made if it is missing.
        model: a forecaster; of one in torch.compile's wrapper, the forecaster.
        notes: anything else to keep in config.json beside the network (JSON values): data, metrics, command.

    Raises:
        TypeError: a model that is no forecaster.
        ValueError: notes with a key "network", or that JSON has no values for.
    """
    directory, model = Path(directory), getattr(model, "_orig_mod", model)
    if not isinstance(model, Forecaster):
        raise TypeError(
            f"model is a {type(model).__name__}; it needs a forecaster, such as StackedForecaster"
        )
    if notes and "network" in notes:
        raise ValueError("notes has a key 'network', which holds the network's config; choose another name")
    config = {"network": config_to_dict(model.config), **(notes or {})}
    try:
        text = json.dumps(config, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"notes has a value that JSON cannot hold: {error}") from error
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    data = save(tensors, metadata={"format": "pt"})
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / WEIGHTS, lambda path: path.write_bytes(data))
    write_atomically(directory / CONFIG, lambda path: path.write_text(text, encoding="utf-8"))


def read_config(directory: str | Path) -> dict[str, Any]:
    """Return what config.json of a checkpoint holds: "network", and the notes it was saved with.

    Raises:
        FileNotFoundError: no such directory, or no config.json in it.
        ValueError: config.json is no JSON object, or names no network.
    """
    path = Path(directory) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{directory} is no checkpoint: it has no {CONFIG}; give a directory with {WEIGHTS} and {CONFIG}"
        )
    try:
        config = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # JSONDecodeError, UnicodeDecodeError: ValueErrors
        raise ValueError(f"{path} is damaged: it is not JSON ({error})") from error
    if not isinstance(config, dict) or not isinstance(config.get("network"), dict):
        raise ValueError(f"{path} names no network; it needs an object with the key 'network'")
    return config


def load_checkpoint(directory: str | Path, device: torch.device | str = "cpu") -> Forecaster:
    """Build the network of a checkpoint and load its weights, in evaluation mode.

    Args:
        directory: with model.safetensors and config.json, such as a run of train.py.
        device: where the model goes (default the CPU).

    Raises:
        FileNotFoundError: no such directory, or a file of the two is missing.
        ValueError: a damaged file, one that is not safetensors, tensors that do not fit the network, or
            weights that are not finite.
    """
    config = read_config(directory)["network"]
    try:
        # Without memory, until the weights file is known to hold a network of this size.
        with torch.device("meta"):
            model = build(config_from_dict(config))
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:  # torch's own, for absurd sizes
        reason = str(error).splitlines()[0]
        raise ValueError(f"{Path(directory) / CONFIG} does not fit: {reason}") from error
    path = Path(directory) / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{directory} has no {WEIGHTS}; it needs {WEIGHTS} beside {CONFIG}")
    tensors = _read_tensors(path, {name: tuple(t.shape) for name, t in model.state_dict().items()})
    model.to_empty(device=device).load_state_dict(tensors)
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise ValueError(f"{path} has values in {name} that are not finite; it needs finite weights")
    return model.eval()


def _read_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Read the tensors, once the file's header says that they have these names and shapes."""
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            header = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
            problems = [f"{name} is missing" for name in shapes.keys() - header.keys()]
            problems += [f"{name} is not in the network" for name in header.keys() - shapes.keys()]
            problems += [
                f"{name} has shape {header[name][0]}, the network needs {shapes[name]}"
                for name in shapes.keys() & header.keys()
                if header[name][0] != shapes[name]
            ]
            problems += [
                f"{name} has type {kind}, the network needs one of {', '.join(FLOATING)}"
                for name, (_, kind) in header.items()
                if kind not in FLOATING
            ]
            if problems:
                more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
                raise ValueError(f"{path} does not fit {CONFIG}: {'; '.join(sorted(problems)[:3])}{more}")
            return {name: file.get_tensor(name) for name in header}
    except SafetensorError as error:
        with path.open("rb") as file:
            start = file.read(2)
        # torch.save writes a zip of pickles, or in its old format a bare pickle.
        if start == b"PK" or start[:1] == b"\x80":
            raise ValueError(f"{path} is a pickle, which is never loaded; it needs safetensors") from error
        raise ValueError(f"{path} is damaged or not safetensors: {error}") from error
