"""What an importer receives, and what it returns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from convlstm.core.checks import positive
from convlstm.core.saving import Savable


@dataclass(frozen=True)
class Foreign:
    """A checkpoint of another project: its tensors, and what else the file says."""

    tensors: dict[str, Tensor]
    """The tensors by name, without the prefix."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the user states because the file does not."""
    prefix: str = ""
    """What all names in the file begin with, such as "model."."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What the file holds beside the tensors."""
    modules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The attributes of pickled modules, by path; their class is under "class"."""
    config: Mapping[str, Any] | None = None
    """The config of a Keras model."""
    keras_version: str | None = None
    """The version of Keras that wrote the file."""

    def tensor(self, name: str, least: int = 1) -> Tensor:
        """Return a tensor of `least` axes or more; raise ValueError where the file does not have it."""
        if name not in self.tensors:
            raise ValueError(f"{name} is missing: the file does not hold the whole model")
        tensor = self.tensors[name]
        if tensor.dim() < least:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it needs {least} axes or more")
        return tensor

    def whole_numbers(self, name: str, least: int = 0) -> tuple[int, ...]:
        """Return an option that is a whole number, or several, as a tuple."""
        value = self.options[name]
        numbers = value if isinstance(value, tuple | list) else (value,)
        return tuple(positive(name, number, least) for number in numbers)

    def flag(self, name: str, default: bool) -> bool:
        """Return an option that is true or false."""
        return self.option(name, (True, False), "") if name in self.options else default

    def option(self, name: str, choices: Sequence[Any], why: str) -> Any:
        """Return what the user chose; raise ValueError, with the choices, where nothing was."""
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
    """A foreign model as one of this library, and what was recognized."""

    model: Savable
    source: str
    """The project, and its version where the file has it."""
    layers: tuple[str, ...]
    """A line for each layer or stage."""
    gates: str
    """The order of the gates in the file."""
    input_layout: str = "b t c h w"
    """The axes of the foreign model's input."""
    output_layout: str = "b t c h w"
    """The axes of its output."""
    forecasts: bool = False
    """Whether the model predicts frames after its input, and so takes a horizon."""
    dropped: Mapping[str, str] = field(default_factory=dict)
    """What the file has and the model does not, and why."""
    guesses: tuple[str, ...] = ()
    """What the file does not say, and what was assumed."""


class Source(NamedTuple):
    """A foreign project: how its files are recognized and converted."""

    name: str
    recognizes: Callable[[Foreign], bool]
    convert: Callable[[Foreign], Imported]
    options: Mapping[str, str]
    """The options by name, and what each means."""
