"""What an importer is given and what it gives back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from convlstm.core.checks import positive


@dataclass(frozen=True)
class Foreign:
    """What an importer is given: the tensors of a file, and what else it says."""

    tensors: dict[str, Tensor]
    """By name, without the prefix."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the user says that the file does not."""
    prefix: str = ""
    """What all names began with, such as "model."."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What stood beside them: plain values."""
    modules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of whole modules that were pickled: their attributes, by path."""
    config: Mapping[str, Any] | None = None
    """Of a Keras model."""
    keras_version: str | None = None

    def tensor(self, name: str, least: int = 1) -> Tensor:
        """Return a tensor that the model cannot be without, which has so many axes at least."""
        if name not in self.tensors:
            raise ValueError(f"{name} is missing: the file does not hold the whole model")
        tensor = self.tensors[name]
        if tensor.dim() < least:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it needs {least} axes or more")
        return tensor

    def wholes(self, name: str, least: int = 0) -> tuple[int, ...]:
        """Return an option that is one whole number or more."""
        value = self.options[name]
        numbers = value if isinstance(value, tuple | list) else (value,)
        return tuple(positive(name, number, least) for number in numbers)

    def flag(self, name: str, default: bool) -> bool:
        """Return an option that is true or false."""
        return self.option(name, (True, False), "") if name in self.options else default

    def option(self, name: str, choices: Sequence[Any], why: str) -> Any:
        """Return what the user chose; where nothing was, an error that lists the choices."""
        listed = ", ".join(map(repr, choices))
        if name not in self.options:
            either = " or ".join(f"{name}={choice!r}" for choice in choices)
            raise ValueError(
                f"{name} is not in the file: {why}; say "
                f"{either if len(choices) < 4 else f'{name}=..., one of {listed}'} (on the command line: "
                f"--option {name}={choices[0]})"
            )
        by_text = {str(choice): choice for choice in choices}  # 2 on a command line, "2" in a call
        if str(self.options[name]) not in by_text:
            raise ValueError(f"{name} is {self.options[name]!r}; it needs one of {listed}")
        return by_text[str(self.options[name])]


@dataclass(frozen=True)
class Imported:
    """A foreign model as one of ours, and what was recognised."""

    model: nn.Module
    source: str
    """The project, and the version where the file tells."""
    layers: tuple[str, ...]
    """What it is made of, a line per layer or stage."""
    gates: str
    """Order of the gates in the file."""
    input_layout: str = "b t c h w"
    """Axes of the foreign model's input."""
    output_layout: str = "b t c h w"
    """Axes of its output."""
    forecasts: bool = False
    """Whether it gives frames that follow its input, of any number, and so takes a horizon."""
    dropped: Mapping[str, str] = field(default_factory=dict)
    """What was in the file and is not in the model, and why."""
    guesses: tuple[str, ...] = ()
    """What the file does not say, and what was taken for it."""


class Source(NamedTuple):
    """A foreign project: how its files are recognised, and what they become."""

    name: str
    recognises: Callable[[Foreign], bool]
    convert: Callable[[Foreign], Imported]
    options: Mapping[str, str]
    """What a user may say, and what it means."""
