"""What a foreign pickle is read into: plain values, and records of everything else. Nothing here runs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

MOST_AXES = 16  # of a tensor

_DTYPES = {
    str(dtype): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e4m3fnuz,
        torch.float8_e5m2,
        torch.float8_e5m2fnuz,
        torch.complex128,
        torch.complex64,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint64,
        torch.uint32,
        torch.uint16,
        torch.uint8,
        torch.bool,
    )
}
_STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
# Untyped storages count bytes.
STORAGE_TYPES = (
    {f"torch.{name}Storage": dtype for name, dtype in _STORAGES.items()}
    | {f"torch.cuda.{name}Storage": dtype for name, dtype in _STORAGES.items()}
    | {"torch.storage.UntypedStorage": torch.uint8, "torch.UntypedStorage": torch.uint8}
)


@dataclass(frozen=True)
class Name:
    """The dotted name of a class or function; nothing was looked up under it."""

    text: str


@dataclass(eq=False, repr=False, slots=True)
class Stub:
    """An object of a class that is not known: what the file says of it, and no behaviour."""

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] | None = None  # of a subclass of list, set or deque
    entries: dict[Any, Any] | None = None  # of a subclass of dict


@dataclass(frozen=True, eq=False)
class StorageRef:
    """A storage that the file holds elsewhere, or a part of one.

    `total` elements of `dtype` are stored under `key`; this is the part of `numel` elements from `start` on.
    """

    key: str
    dtype: torch.dtype
    total: int
    start: int
    numel: int


@dataclass(frozen=True, eq=False)
class TensorRef:
    """A tensor, before its storage is read; its places are known to lie within the storage."""

    storage: StorageRef
    dtype: torch.dtype
    offset: int  # in elements of dtype, from the beginning of the whole storage
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Storages(Protocol):
    """Gives the bytes of a storage."""

    def read(self, storage: StorageRef) -> Tensor:
        """Return the whole storage that `storage` is or is part of, as bytes (uint8, one axis)."""
        ...


def build_tensor(record: TensorRef, storages: Storages) -> Tensor:
    """Return the tensor; tensors of one storage share its memory."""
    flat = storages.read(record.storage).view(record.dtype)
    return torch.as_strided(flat, record.size, record.stride, record.offset)


def make(callable_: Any, args: Any) -> Any:
    """Return what a pickle's call would have made: a known value, or a stub.

    Raises:
        ValueError: the call makes a tensor, and its parts do not fit together.
    """
    if not isinstance(args, tuple):
        raise ValueError(f"its pickle calls something with a {type(args).__name__} for arguments")
    name = callable_.text if isinstance(callable_, Name) else "?"
    maker = _MAKERS.get(name)
    if maker is None:
        return Stub(name, args)
    try:
        return maker(*args)
    except (TypeError, AttributeError) as error:  # arguments of another number or kind
        raise ValueError(f"its pickle calls {name} with arguments that do not fit") from error


def key_of(value: Any) -> Any:
    """Return a key that is quick to hash and compare, whatever the file holds."""
    if value is None or isinstance(value, str | bytes | float | Name):
        return value
    # Python's hash of an integer is its remainder by 2^61 - 1: longer ones could be made to collide.
    if isinstance(value, int) and abs(value) < 2**62:
        return value
    return Stub("key", (value,))


def fill(target: dict[Any, Any], pairs: Any) -> dict[Any, Any]:
    """Put a sequence of (key, value) into a dict."""
    for pair in _sequence(pairs):
        if len(_sequence(pair)) != 2:
            raise ValueError("its pickle builds a dict of something else than pairs")
        target[key_of(pair[0])] = pair[1]
    return target


def _sequence(value: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"its pickle has a {type(value).__name__} where a sequence must stand")
    return value


def _dict(pairs: Any = ()) -> dict[Any, Any]:
    return dict(pairs) if isinstance(pairs, dict) else fill({}, pairs)


def _encode(text: str, encoding: str) -> bytes:
    """Bytes, as protocol 2 writes them: text and the name of its encoding."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError("its pickle has bytes in another encoding than latin-1")
    return text.encode("latin-1")


def _integers(what: str, values: Any) -> tuple[int, ...]:
    if len(_sequence(values)) > MOST_AXES or any(type(n) is not int or n < 0 for n in values):
        raise ValueError(f"a tensor in it has a {what} that is not a few whole numbers of 0 or more")
    return tuple(values)


def _tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
    *,
    dtype: torch.dtype | None = None,
) -> TensorRef:
    if not isinstance(storage, StorageRef):
        raise ValueError("a tensor in it has something else than a storage")
    if metadata:  # conjugate or negative views: the values are not those that are stored
        raise ValueError("a tensor in it is a conjugate or negative view; it needs plain tensors")
    kept = storage.dtype.itemsize
    dtype = storage.dtype if dtype is None else dtype
    size, stride = _integers("size", size), _integers("stride", stride)
    (offset,) = _integers("offset", (offset,))
    if len(size) != len(stride):
        raise ValueError(f"a tensor in it has {len(size)} sizes and {len(stride)} strides")
    available = storage.numel * kept // dtype.itemsize
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else offset - 1
    if max(count, last + 1) > available or max((0, *size, *stride)) >= 2**48:
        raise ValueError(
            f"a tensor in it has size {size}, stride {stride} and offset {offset}, which lies beyond "
            f"its storage of {available} elements"
        )
    if storage.start * kept % dtype.itemsize:
        raise ValueError("a tensor in it begins within an element")
    start = storage.start * kept // dtype.itemsize
    return TensorRef(storage, dtype, start + offset if count else 0, size, stride)


def _tensor_of_type(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Name,
    metadata: Any = None,
) -> TensorRef:
    if dtype.text not in _DTYPES:
        raise ValueError(f"a tensor in it has the type {dtype.text!r:.60}, which is not read")
    return _tensor(storage, offset, size, stride, False, None, metadata, dtype=_DTYPES[dtype.text])


def _device(kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str) or not isinstance(index, int | None):
        raise ValueError("its pickle has a device that is no name and number")
    return kind if index is None else f"{kind}:{index}"


def _attribute(holder: Any, name: Any) -> Name | Stub:
    """The name of an attribute of something that is itself named, as torch.tanh is pickled."""
    if isinstance(holder, Name) and isinstance(name, str) and len(holder.text) + len(name) < 1000:
        return Name(f"{holder.text}.{name}")
    return Stub("builtins.getattr", (holder, name))


def _list(values: Any = ()) -> list[Any]:
    return list(_sequence(values))


def _first(value: Any, *_: Any) -> Any:
    return value


def _remade(function: Any, _: Any, args: Any, *__: Any) -> Any:
    """Make what `function` makes; the class and attributes that torch would give it are left away."""
    # Of the makers of tensors alone: a call that calls another would go as deep as the file likes.
    known = isinstance(function, Name) and function.text in _TENSOR_MAKERS
    return make(function, args) if known else Stub("?", (function, args))


_TENSOR_MAKERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
}
_MAKERS: dict[str, Callable[..., Any]] = {
    **_TENSOR_MAKERS,
    "torch._tensor._rebuild_from_type": _remade,
    "torch._tensor._rebuild_from_type_v2": _remade,
    "torch.Size": _list,
    "torch.device": _device,
    "collections.OrderedDict": _dict,
    "collections.defaultdict": lambda factory=None, pairs=(): _dict(pairs),
    "_codecs.encode": _encode,
}
for _module in ("builtins", "__builtin__"):  # as Python 3 and Python 2 name it
    _MAKERS |= {f"{_module}.dict": _dict, f"{_module}.getattr": _attribute}
    _MAKERS |= {f"{_module}.{kind}": _list for kind in ("set", "frozenset", "list", "tuple")}
