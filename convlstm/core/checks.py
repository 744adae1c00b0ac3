"""Checks of what users pass; every error names the argument, what it got and what it needs."""

import importlib
import math
import operator
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


def positive(name: str, value: Any, least: int = 1, most: float = math.inf) -> int:
    """Return a whole number (Python's or NumPy's) as an int.

    Raises:
        ValueError: `value` is not a whole number from `least` (default 1) to `most` (default: no limit).
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        needs = f"{least} or more" if most == math.inf else f"{least:,} to {most:,}"
        raise ValueError(f"{name} is {value!r}; it needs a whole number of {needs}")
    return number


def finite(
    name: str, value: Any, *, least: float = -math.inf, most: float = math.inf, above: float = -math.inf
) -> float:
    """Return a finite number as a float.

    Raises:
        ValueError: `value` is not a finite number, or is less than `least`, more than `most`, or not above
            `above`.
    """
    number = math.nan
    if isinstance(value, Real) and not isinstance(value, bool):
        with suppress(OverflowError):  # a whole number above the largest float
            number = float(value)
    if math.isfinite(number) and least <= number <= most and number > above:
        return number
    bounds = {"above": above, "at least": least, "at most": most}
    needs = [f"{words} {bound:,g}" for words, bound in bounds.items() if math.isfinite(bound)]
    raise ValueError(f"{name} is {value!r}; it needs a finite number" + ", ".join(["", *needs]))


def choice(name: str, value: Any, choices: Sequence[Any]) -> Any:
    """Return a value that is among the choices; else raise ValueError."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it needs one of {tuple(choices)}")
    return value


def check_choices(config: Any, **choices: Sequence[Any]) -> None:
    """Raise ValueError unless each named field of a dataclass is among its choices."""
    for name, known in choices.items():
        choice(name, getattr(config, name), known)


def set_fields(config: Any, **values: Any) -> None:
    """Set fields of a frozen dataclass in its `__post_init__`, such as lists of JSON as tuples."""
    for name, value in values.items():
        object.__setattr__(config, name, value)


def shortened(texts: Sequence[str], separator: str = ", ") -> str:
    """Join texts for a message: the first five, and the number of the others."""
    rest = len(texts) - 5
    return separator.join([*texts[:5], *([f"and {rest} more"] if rest > 0 else [])])


def check_weights(message: str, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless tensors have the names and shapes of the wanted ones, and finite values.

    Args:
        message: how the error begins.
        tensors: of a file.
        wanted: the network's state_dict.
    """
    problems = [f"{name} is missing" for name in wanted.keys() - tensors.keys()]
    problems += [f"{name} is not in the network" for name in tensors.keys() - wanted.keys()]
    for name in wanted.keys() & tensors.keys():
        shape, needed = tuple(tensors[name].shape), tuple(wanted[name].shape)
        if shape != needed:
            problems.append(f"{name} has shape {shape}, the network needs {needed}")
        elif not tensors[name].is_floating_point():
            problems.append(f"{name} has type {tensors[name].dtype}, the network needs a floating type")
        elif not tensors[name].float().isfinite().all():
            problems.append(f"{name} has values that are not finite")
    if problems:
        raise ValueError(f"{message}: {shortened(sorted(problems), '; ')}")


def import_extra(module: str, extra: str, what: str) -> Any:
    """Import a module of an extra of this library; raise ImportError that says what needs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        needs = f'{what} needs {package}, which is not installed: pip install "convlstm[{extra}]"'
        raise ImportError(needs) from error


def usable_device(device: object) -> torch.device:
    """Return a device, given as such or by its name; raise ValueError if it cannot hold tensors."""
    try:
        found = torch.device(device)  # pyright: ignore[reportCallIssue, reportArgumentType] (what it is for)
        if found.type != "meta":
            torch.empty(1, device=found)
            return found
        reason = "it holds no numbers"
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        reason = textwrap.shorten(str(error).partition("\n")[0], 120)
    raise ValueError(f"device is {str(device)!r}; it needs one of this machine, such as cpu ({reason})")


def check_tensor(name: str, value: object) -> None:
    """Raise TypeError unless an argument is a tensor."""
    if isinstance(value, PackedSequence):
        raise TypeError(
            f"{name} is a PackedSequence; it needs a padded tensor, which "
            "torch.nn.utils.rnn.pad_packed_sequence makes of it"
        )
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; it needs a tensor, as torch.as_tensor makes")


def check_single(hx: object) -> tuple[Tensor] | None:
    """Return the state of an RNN or GRU as a tuple, or None for None; else raise ValueError."""
    if hx is None:
        return None
    if isinstance(hx, Tensor):
        return (hx,)
    raise ValueError(f"hx is a {type(hx).__name__}; this network's state is one tensor h")


def check_states(hx: object, names: Sequence[str]) -> tuple[Tensor, ...] | None:
    """Return the states of an LSTM, or None for None; raise ValueError unless they are a tensor per name."""
    if hx is None:
        return None
    if isinstance(hx, tuple | list) and len(hx) == len(names) and all(isinstance(s, Tensor) for s in hx):
        return tuple(hx)
    got = f"a {type(hx).__name__}" + (f" of {len(hx)}" if isinstance(hx, tuple | list) else "")
    raise ValueError(f"hx is {got}; this LSTM's state is {len(names)} tensors ({', '.join(names)})")
