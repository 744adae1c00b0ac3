"""What can be saved: networks that say what they are built from, and the files they are written to.

A saved network is a directory with model.safetensors (the tensors), config.json (what to build them into,
under "network", and notes) and, from `save_pretrained`, README.md (the model card). `convlstm.hub.checkpoint`
reads it back.
"""

import contextlib
import dataclasses
import inspect
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import save
from torch import nn

from convlstm.core.card import is_as_written, model_card
from convlstm.core.files import write_atomically

__all__ = ["CARD", "CONFIG", "WEIGHTS", "Configured", "Savable", "unwrap", "without_memory", "write_network"]

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CARD = "README.md"

# The types of tensors that are saved, as a safetensors header names them.
FLOATING = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}
PLACES = ("device", "dtype")  # arguments of a constructor that say nothing about what it builds


LIBRARY = __name__.partition(".")[0]


class Savable(nn.Module):
    """A network that goes to files and back: built from `arguments`, its tensors all in its state_dict.

    `convlstm.hub.registry` lists the classes that can be built from files. Tensors are
    floating-point numbers.
    """

    def arguments(self) -> dict[str, Any]:
        """Return what the network is built from: every argument of its constructor but device and dtype."""
        raise NotImplementedError

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Self:
        """Build the network that has these `arguments`, which may come from JSON.

        Raises:
            ValueError: an unknown argument, or a value that does not fit.
            TypeError: a missing argument.
        """
        known = cls.constructor()
        _check_known(cls, arguments, known)
        for name, value in arguments.items():
            if isinstance(known[name].default, bool) and not isinstance(value, bool):
                raise ValueError(f"{name} is {value!r}; it needs true or false")
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in arguments.items()})

    @classmethod
    def constructor(cls) -> dict[str, inspect.Parameter]:
        """Return the constructor's parameters, without device and dtype."""
        return {k: v for k, v in inspect.signature(cls).parameters.items() if k not in PLACES}

    def description(self) -> dict[str, Any]:
        """Return {"network": the class's name, ...arguments}, as JSON values.

        Raises:
            TypeError: a class that is not the library's, which nothing could build when it is loaded.
            ValueError: tensors that the network would not have when it is built from its arguments.
        """
        kind = type(self)
        if kind.__module__.partition(".")[0] != LIBRARY:
            base = next(c.__name__ for c in kind.__mro__ if c.__module__.partition(".")[0] == LIBRARY)
            raise TypeError(
                f"model is a {kind.__name__}, a class that loading could not build; it needs a {base} itself"
            )
        text = json.dumps(self.arguments(), default=lambda number: number.item())  # numpy's numbers
        with without_memory():
            anew = kind.from_arguments(json.loads(text))
        mine, built = _kinds(self), _kinds(anew)
        odd = sorted(name for name in mine.keys() | built.keys() if mine.get(name) != built.get(name))
        if odd:
            raise ValueError(
                f"model has {odd[0]} of another kind than a {kind.__name__} is built with: it is pruned, "
                "parametrized, quantized or changed by hand; undo that first"
            )
        return {"network": kind.__name__, **json.loads(text)}

    def save_pretrained(self, directory: str | Path, notes: Mapping[str, Any] | None = None) -> None:
        """Write model.safetensors, config.json and the model card README.md: what the Hugging Face Hub shows.

        The network comes back with `convlstm.from_pretrained`. The tensors keep their type (`bfloat16()`
        halves the file; loading gives float32). Parameters that are tied are written one by one.

        A card that was edited is kept, with a warning; one that is as this method wrote it is replaced.

        Args:
            directory: made if it is missing; a checkpoint that stands there is replaced.
            notes: anything else to keep in config.json (JSON values). The card shows what train.py notes
                (training, command, versions, step, validation: all of config.json of a run will do), a
                license ("mit", an identifier of the Hub), the scores in a test-*.json of a run as "test", and
                what studies/ship.py notes of weights that are shipped (trained, evaluations, rollout).

        Raises:
            TypeError: a class that is not the library's, or notes that are no mapping.
            ValueError: notes that JSON has no values for or whose "network" is another; a license that is no
                identifier; tensors without values, or that are not the network's; a directory that is a file.
        """
        write_network(directory, self, notes, card=True)

    def example(self) -> str:
        """Return how the network named `model` is called, for the card."""
        return "output = model(frames)"


class Configured(Savable):
    """A network that is built from one frozen dataclass, its config."""

    config_type: ClassVar[type[Any]]
    """What the network is built from."""
    config: Any

    def arguments(self) -> dict[str, Any]:
        """Return the fields of the config."""
        return dataclasses.asdict(self.config)

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Self:
        """Build the network whose config has these fields; see `Savable.from_arguments`."""
        return cls(cls.make_config(arguments))  # pyright: ignore[reportCallIssue] (each class's own config)

    @classmethod
    def make_config(cls, fields: Mapping[str, Any]) -> Any:
        """Return the config with these fields, which may come from JSON; raises as `from_arguments`."""
        _check_known(cls, fields, {field.name for field in dataclasses.fields(cls.config_type)})
        return cls.config_type(**fields)


def write_network(
    directory: str | Path, model: Savable, notes: Mapping[str, Any] | None = None, *, card: bool = False
) -> None:
    """Write model.safetensors and config.json; with `card` README.md, too. See `Savable.save_pretrained`."""
    folder, notes, network = _check_folder(directory), _check_notes(notes), model.description()
    if notes.get("network", network) != network:
        raise ValueError("notes has a key 'network', which holds the network's config; choose another name")
    try:
        text = json.dumps({"network": network, **notes}, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"notes has a value that JSON cannot hold: {error}") from error
    tensors = {}
    for name, tensor in model.state_dict().items():
        if tensor.is_meta:
            raise ValueError(
                f"model has no values in {name}, which is on the meta device; load weights first"
            )
        # A copy each: tensors that share memory, as tied weights do, have no place in safetensors.
        tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
    files = {WEIGHTS: save(tensors, metadata={"format": "pt"}), CONFIG: text.encode()}
    edited = False
    if card:
        files[CARD] = _card(model, json.loads(text)).encode()
        edited = (folder / CARD).exists() and not is_as_written((folder / CARD).read_bytes())
    if edited:
        del files[CARD]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"directory is {str(folder)!r}, where a file is in the way; give another") from error
    for name, data in files.items():
        write_atomically(folder / name, lambda path, data=data: path.write_bytes(data))
    if edited:
        warnings.warn(
            f"{folder / CARD} was not written by save_pretrained, or was edited since, and is kept; move it "
            "away for a card of this network",
            stacklevel=3,
        )


def _card(model: Savable, config: dict[str, Any]) -> str:
    return model_card(
        config.pop("network"),
        summary=inspect.cleandoc(type(model).__doc__ or "").partition("\n")[0],
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        example=model.example(),
        notes=config,
    )


def unwrap(model: nn.Module) -> nn.Module:
    """Return the network inside torch.compile, DistributedDataParallel or AveragedModel, else the model."""
    while not isinstance(model, Savable):
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        if not isinstance(inner, nn.Module):
            break
        model = inner
    return model


@contextlib.contextmanager
def without_memory() -> Iterator[None]:
    """Build networks on the meta device, and say nothing that was said when they were first built."""
    with torch.device("meta"), warnings.catch_warnings(action="ignore"):
        yield


def _kinds(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    """What must be the same in a network that is built anew: shapes, and a type that is loaded."""
    return {
        name: (tuple(tensor.shape), "floating" if tensor.dtype in FLOATING else tensor.dtype)
        for name, tensor in model.state_dict().items()
    }


def _check_known(cls: type[Savable], given: Mapping[str, Any], known: Any) -> None:
    unknown = sorted(str(name) for name in given if name not in known)
    if unknown:
        raise ValueError(f"{cls.__name__} has no config field {', '.join(unknown)}")


def _check_notes(notes: object) -> Mapping[str, Any]:
    if notes is not None and not isinstance(notes, Mapping):
        raise TypeError(f"notes is a {type(notes).__name__}; it needs a mapping, such as a dict")
    return notes or {}


def _check_folder(directory: object) -> Path:
    if not isinstance(directory, str | os.PathLike) or not os.fspath(directory):
        raise ValueError(f"directory is {directory!r}; it needs the path of a directory")
    folder = Path(directory)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"directory is {str(folder)!r}, which is a file; it needs a directory")
    return folder
