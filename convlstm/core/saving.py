"""What can be saved: networks that say what they are built from, and the files they go to.

A saved network is a directory with model.safetensors (the tensors) and config.json (what to build them into,
under "network", and notes on how it was trained). `save_pretrained` adds README.md (the model card) and, of
a network that was evaluated, evaluation.json. `convlstm.from_pretrained` reads the directory back.
"""

import contextlib
import dataclasses
import inspect
import json
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import save
from torch import nn

from convlstm.core.card import is_as_written, model_card
from convlstm.core.checks import check_weights
from convlstm.core.files import to_json, write_atomically

__all__ = ["Configured", "Savable", "save_checkpoint"]

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CARD = "README.md"
EVALUATION = "evaluation.json"

NETWORKS: dict[str, type["Savable"]] = {}
"""Every class that a checkpoint may name; `convlstm.core.registry` adds to it."""


class Savable(nn.Module):
    """A network that goes to files and back: built from `arguments`, its tensors all in its state_dict.

    Tensors are floating-point numbers. Decorate a subclass with `convlstm.register_model`.
    """

    _loader: ClassVar[Callable[..., "Savable"]]
    """Loads any saved network; `convlstm.hub`, which knows where networks are, sets it."""
    _task: ClassVar[str | None] = None
    """What the Hub calls what it does, for the card."""

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
        parameters = inspect.signature(cls).parameters
        return {name: p for name, p in parameters.items() if name not in ("device", "dtype")}

    def description(self) -> dict[str, Any]:
        """Return {"network": the class's name, ...arguments}, as JSON values.

        Raises:
            TypeError: the class is not registered.
            ValueError: the network has other tensors than one that is built from its arguments.
        """
        kind = type(self)
        if NETWORKS.get(kind.__name__) is not kind:
            raise TypeError(
                f"model is a {kind.__name__}, a class that loading could not build; decorate it with "
                "@convlstm.register_model, where it is saved and where it is loaded"
            )
        text = json.dumps(self.arguments(), default=lambda number: number.item())  # numpy's numbers
        with without_memory():
            rebuilt = kind.from_arguments(json.loads(text))
        own, expected = (
            {name: (t.shape, t.is_floating_point()) for name, t in model.state_dict().items()}
            for model in (self, rebuilt)
        )
        different = [name for name in sorted(own | expected) if own.get(name) != expected.get(name)]
        if different:
            raise ValueError(
                f"model has {different[0]} of another kind than a {kind.__name__} is built with: it is "
                "pruned, parametrized, quantized or changed by hand; undo that first"
            )
        return {"network": kind.__name__, **json.loads(text)}

    @classmethod
    def from_pretrained(
        cls,
        name_or_directory: str | Path,
        *,
        device: torch.device | str = "cpu",
        revision: str | None = None,
    ) -> Self:
        """Load a saved network of this class, in evaluation mode, its weights as float32.

        The arguments and errors are those of `convlstm.from_pretrained`, which loads networks of any class. A
        network of another class raises ValueError.

        Example:
            >>> network = convlstm.StackedForecaster.from_pretrained("moving_mnist_mini")
        """
        model = Savable._loader(name_or_directory, device=device, revision=revision)
        if not isinstance(model, cls):
            raise ValueError(
                f"{name_or_directory} has a {type(model).__name__}; {cls.__name__}.from_pretrained needs a "
                f"{cls.__name__}: use {type(model).__name__}.from_pretrained or convlstm.from_pretrained"
            )
        return model

    def save_pretrained(
        self,
        directory: str | Path,
        notes: Mapping[str, Any] | None = None,
        evaluations: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Write model.safetensors, config.json and the model card README.md: what the Hugging Face Hub shows.

        `convlstm.from_pretrained` loads the network again. The tensors keep their type (`bfloat16()` halves
        the file; loading gives float32). Tied parameters are written one by one. A card that you edited is
        kept, with a warning.

        Args:
            directory: created if it is missing; a network that is saved there is replaced.
            notes: anything else to keep in config.json (JSON values). All of a run's config.json will do. The
                card shows a license ("mit", an identifier of the Hub), rollout (the name of a picture there)
                and command, step and validation as train.py notes them.
            evaluations: results of `convlstm.evaluate`, as `to_dict` gives them, to show on the card and to
                keep in evaluation.json (default: none).

        Raises:
            TypeError: the class is not registered.
            ValueError: notes has a value that JSON cannot hold, or another "network"; or the network has
                other tensors than its class builds, or weights that are not finite. Nothing is written then.

        Example:
            >>> layer = convlstm.ConvLSTM(1, 8, kernel_size=3)
            >>> layer.save_pretrained("layer")
            >>> layer = convlstm.ConvLSTM.from_pretrained("layer")
        """
        save_checkpoint(directory, self, notes, evaluations=evaluations, card=True)

    def example(self) -> str:
        """Return how the network named `model` is called, for the card."""
        return "output = model(frames)"


class Configured(Savable):
    """A network that is built from the fields of a frozen dataclass, its config.

    Args:
        config: an instance of `config_type`.
        fields: the fields of the config, in place of it.

    Raises:
        TypeError: config is of another type, or comes with fields.
        ValueError: a field that the config does not have, or a value that does not fit.
    """

    config_type: ClassVar[type[Any]]
    """What the network is built from."""
    config: Any

    def __init__(self, config: Any = None, **fields: Any):
        super().__init__()
        kind = type(self)
        if config is None:
            config = kind.make_config(fields)
        elif fields:
            raise TypeError(
                f"{kind.__name__} got a config and {', '.join(fields)}; give a config or its fields, not both"
            )
        elif type(config) is not kind.config_type:
            raise TypeError(
                f"config is a {type(config).__name__}; {kind.__name__} needs a {kind.config_type.__name__}, "
                "or its fields as keyword arguments"
            )
        self.config = config

    def arguments(self) -> dict[str, Any]:
        """Return the fields of the config."""
        return dataclasses.asdict(self.config)

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Self:
        """Build the network whose config has these fields; see `Savable.from_arguments`."""
        return cls(**arguments)

    @classmethod
    def make_config(cls, fields: Mapping[str, Any]) -> Any:
        """Return the config with these fields, which may come from JSON; raises as `from_arguments`."""
        _check_known(cls, fields, [field.name for field in dataclasses.fields(cls.config_type)])
        return cls.config_type(**fields)


def save_checkpoint(
    directory: str | Path,
    model: Savable,
    notes: Mapping[str, Any] | None = None,
    *,
    evaluations: Sequence[Mapping[str, Any]] = (),
    card: bool = False,
) -> None:
    """Write model.safetensors and config.json; with `card` all of what `Savable.save_pretrained` writes."""
    folder, network = Path(directory), model.description()
    if (notes or {}).get("network", network) != network:
        raise ValueError("notes has a key 'network', which holds the network's config; choose another name")
    try:
        config = to_json({"network": network, **(notes or {})}, allow_nan=False)
        scores = to_json(list(evaluations), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"notes has a value that JSON cannot hold: {error}") from error
    # A copy each: tensors that share memory, as tied weights do, have no place in safetensors.
    tensors = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in model.state_dict().items()}
    check_weights("model could not be loaded again", tensors, tensors)
    # The weights come first, so that notes never speak of weights that are not there yet.
    files = {WEIGHTS: save(tensors, metadata={"format": "pt"}), CONFIG: config.encode()}
    edited = card and (folder / CARD).exists() and not is_as_written((folder / CARD).read_bytes())
    if card:
        text = model_card(
            name=type(model).__name__,
            summary=inspect.cleandoc(type(model).__doc__ or "").partition("\n")[0],
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            example=model.example(),
            task=model._task,
            notes=json.loads(config),
            evaluations=evaluations,
        )
        files |= {} if edited else {CARD: text.encode()}
        files |= {EVALUATION: scores.encode()} if evaluations else {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write_atomically(folder / name, lambda path, data=data: path.write_bytes(data))
    if card and not evaluations:
        (folder / EVALUATION).unlink(missing_ok=True)  # of the weights that were there before
    if edited:
        warnings.warn(
            f"{folder / CARD} was not written by save_pretrained, or was edited since, and is kept; move it "
            "away for a card of this network",
            stacklevel=3,
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
    """Build networks on the meta device, without the warnings that came when they were first built."""
    with torch.device("meta"), warnings.catch_warnings(action="ignore"):
        yield


def _check_known(cls: type[Savable], given: Mapping[str, Any], known: Collection[str]) -> None:
    unknown = sorted(str(name) for name in given if name not in known)
    if unknown:
        raise ValueError(
            f"{cls.__name__} has no config field {', '.join(unknown)}; it has {', '.join(known)}"
        )
