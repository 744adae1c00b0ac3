"""What users pass, checked and said in words: whole and finite numbers, tensors, states."""

import math
import operator
import textwrap
from contextlib import suppress
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


def positive(name: str, value: Any, least: int = 1) -> int:
    """Return a whole number of at least `least`, numpy's too, as an int; else raise ValueError naming it."""
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name} is {value!r}; it needs a whole number of {least} or more")
    return number


def finite(name: str, value: Any) -> float:
    """Return a finite number as a float; else raise ValueError naming it."""
    number = math.nan
    if isinstance(value, Real) and not isinstance(value, bool):
        with suppress(OverflowError):  # of a whole number that no float holds
            number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} is {value!r}; it needs a finite number")
    return number


def usable_device(device: object) -> torch.device:
    """Return a device that holds tensors, by its name or as it is; else raise ValueError naming it."""
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
    """Return the state of a network that has one, as a tuple, or None; else raise ValueError."""
    if hx is None:
        return None
    if isinstance(hx, Tensor):
        return (hx,)
    raise ValueError(f"hx is a {type(hx).__name__}; this network's state is one tensor h")


def check_pair(hx: object) -> tuple[Tensor, Tensor] | None:
    """Return an LSTM's state if it is a pair of tensors (or None), else raise ValueError."""
    if hx is None:
        return None
    if isinstance(hx, tuple | list) and len(hx) == 2 and all(isinstance(s, Tensor) for s in hx):
        return hx[0], hx[1]
    got = f"a {type(hx).__name__}" + (f" of {len(hx)}" if isinstance(hx, tuple | list) else "")
    raise ValueError(f"hx is {got}; an LSTM's state is a pair of tensors (h, c)")
