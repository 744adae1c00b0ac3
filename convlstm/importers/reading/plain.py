"""What a pickle held beside its tensors, as plain values: numbers, text, lists and dicts."""

import math
from typing import Any

import numpy as np

from convlstm.importers.reading.inert import Name, Storages, Stub, TensorRef, build_tensor

MOST_VALUES = 100_000  # of all notes of a file
MOST_LEVELS = 32
MOST_ELEMENTS = 1_000  # of an array that becomes a list
LEFT_OUT = "..."  # stands for what lies deeper, or is more, or refers to what it lies in

_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_ARRAYS = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
# Objects that are no more than their attributes.
_NAMESPACES = ("argparse.Namespace", "types.SimpleNamespace")


class Plain:
    """Turns the values and records of a pickle into plain values.

    Objects of unknown classes become {"class": its name} with their arguments, attributes and items; arrays
    and tensors of up to 1,000 elements become lists; what is more than a note should be becomes "...".
    """

    def __init__(self, storages: Storages) -> None:
        self.storages = storages
        self.values = 0

    def value(self, value: Any, level: int = 0) -> Any:
        """Return a plain copy of a value."""
        self.values += 1
        if self.values > MOST_VALUES or level > MOST_LEVELS:
            return LEFT_OUT
        match value:
            case None | bool() | int() | float() | str():
                return value
            case bytes():
                self.values += len(value)
                return value.decode("latin-1") if len(value) <= MOST_ELEMENTS else f"{len(value)} bytes"
            case list() | tuple():
                return [self.value(item, level + 1) for item in value[: MOST_VALUES + 1 - self.values]]
            case dict():
                return self.dict(value, level)
            case Name():
                return value.text
            case TensorRef():
                count = math.prod(value.size)
                if count > MOST_ELEMENTS or value.dtype.is_complex:
                    return f"a tensor of size {list(value.size)}"
                self.values += count
                return build_tensor(value, self.storages).tolist()
            case Stub():
                return self.stub(value, level)
            case _:
                return LEFT_OUT

    def dict(self, value: dict[Any, Any], level: int) -> dict[Any, Any]:
        """Return a plain copy of a dict: no keys that are not plain, no state of an optimizer."""
        result = {}
        optimizer = "param_groups" in value
        for key, item in value.items():
            if self.values > MOST_VALUES:
                break
            if optimizer and key == "state":
                continue
            name = key.text if isinstance(key, Name) else key
            name = name if isinstance(name, str | int | float | None) else LEFT_OUT
            result[name] = self.value(item, level + 1)
        return result

    def stub(self, stub: Stub, level: int) -> Any:
        """Return what is known of an object."""
        if stub.name in _SCALARS + _ARRAYS:
            array = _array(stub)
            self.values += 0 if isinstance(array, str) else array.size
            return array if isinstance(array, str) else array.tolist()
        if is_module(stub):
            return {"class": stub.name}
        state = [part for part in _parts(stub.state) if isinstance(part, dict)]
        self.values += sum(len(part) for part in state)  # which other objects may share
        attributes = {key: item for part in state for key, item in part.items() if item is not None}
        if stub.entries is not None:
            return self.dict(stub.entries, level)
        if stub.name in _NAMESPACES:
            return self.dict({key: item for part in state for key, item in part.items()}, level)
        known = {"class": stub.name, "args": list(stub.args), "items": stub.items} | attributes
        return self.dict({key: item for key, item in known.items() if item}, level)


def is_module(value: Any) -> bool:
    """Tell whether a value is an object that torch.nn.Module would be the base of."""
    return (
        isinstance(value, Stub)
        and isinstance(value.state, dict)
        and all(isinstance(value.state.get(key), dict) for key in ("_parameters", "_modules"))
    )


def _parts(state: Any) -> tuple[Any, ...]:
    """Return an object's attributes, and its slots where it has some."""
    return state if isinstance(state, tuple) else (state,)


def _array(stub: Stub) -> np.ndarray | str:
    """Return numpy's array or scalar, if it is small and of numbers, else words for it."""
    match stub:
        case Stub(args=(Stub() as kind, bytes(data))):
            shape: Any = ()
        case Stub(state=(_, tuple(shape), Stub() as kind, bool(fortran), bytes(data))):
            if fortran and len(shape) > 1:
                return LEFT_OUT
        case _:
            return LEFT_OUT
    match kind:
        case Stub(name="numpy.dtype", args=(str(code), *_), state=(_, "<" | ">" | "|" | "=" as order, *_)):
            pass
        case _:
            return LEFT_OUT
    if code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
        return LEFT_OUT
    dtype = np.dtype(code).newbyteorder(order)
    if not all(type(n) is int and 0 <= n <= MOST_ELEMENTS for n in shape) or len(shape) > 32:
        return f"an array of {code}"
    if math.prod(shape) > MOST_ELEMENTS or math.prod(shape) * dtype.itemsize != len(data):
        return f"an array of {code}"
    return np.frombuffer(data, dtype).reshape(shape)
