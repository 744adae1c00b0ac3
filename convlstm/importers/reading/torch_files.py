"""Files of torch.save, read by torch.load with an unpickler that imports and calls nothing they name."""

import io
import math
import os
import pickle
import struct
import zipfile
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

MAGIC = torch.serialization.MAGIC_NUMBER.to_bytes(10, "little")
FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
MAX_STEPS = 1_000_000
"""Most instructions of a pickle. A state dict of 1,000 tensors and its Adam state take 140,000."""
_DTYPES = {str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
_DTYPES = {name: dtype for name, dtype in _DTYPES.items() if not name.startswith("torch.q")}  # quantized


@dataclass(frozen=True)
class Name:
    """The dotted name of a class or function; nothing is looked up under it."""

    text: str


@dataclass(eq=False, slots=True)
class Stub:
    """An object whose class is not known: what the file says of it, without behavior."""

    name: str
    state: Any = None
    entries: dict[Any, Any] | None = None
    """Of a subclass of dict."""


@dataclass
class Storages:
    """Checks the sizes that a pickle claims for its storages, before torch allocates them.

    Args:
        size: bytes of all storages together, at most.
        records: bytes of each record of a zip archive; None for a file of the format before torch 1.6.
    """

    size: int
    records: dict[str, int] | None = None
    named: dict[str, int] = field(default_factory=dict)

    def check(self, key: str, size: int) -> None:
        """Raise ValueError unless the file holds `size` bytes under a key."""
        new = key not in self.named
        self.size -= size if new else 0
        if self.records is not None:
            fits = self.records.get(f"data/{key}") == size
        else:
            fits = size >= 0 and self.size >= 0 and self.named.get(key, size) == size
        if not fits:
            raise ValueError(f"its storage {key!r:.40} is missing or damaged: it needs {size} bytes")
        self.named[key] = size


class Steps(dict):
    """The unpickler's instructions, which may be used `left` times."""

    left = MAX_STEPS

    def __getitem__(self, code: int) -> Any:
        """Return an instruction."""
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"its pickle takes more than {MAX_STEPS} steps to read")
        return super().__getitem__(code)


_Unpickler: Any = vars(pickle)["_Unpickler"]  # the one that is written in Python


class Unpickler(_Unpickler):
    """Python's unpickler, with each instruction replaced that could import, call or alter something.

    A name becomes a `Name`, an object a `Stub`; torch's functions that rebuild tensors and OrderedDict have
    stand-ins here. Sets become lists, and keys that are costly to hash become stubs, so that no pickle of a
    few bytes takes forever.
    """

    def __init__(self, file: Any, storages: Storages, **options: Any):
        super().__init__(file, **options)
        self.storages = storages
        own = {code: getattr(type(self), load.__name__) for code, load in _Unpickler.dispatch.items()}
        self.dispatch = Steps(own)

    def find_class(self, module: str, name: str) -> Any:
        """Return a name as it is; torch's subclass turns those of storages into their types."""
        if len(module) + len(name) > 1000:  # a long text, remembered, would be copied again and again
            raise ValueError(f"its pickle has a name of {len(module) + len(name)} characters")
        return Name(f"{module}.{name}")

    def get_extension(self, code: int) -> None:
        """Refuse what Python would look up among the classes that are registered with copyreg."""
        raise ValueError(f"its pickle uses the extension {code}, which no file of torch needs")

    def _instantiate(self, callee: Any, args: Any) -> None:
        """Push what a call would have made."""
        if not isinstance(args, list | tuple):
            raise ValueError("its pickle calls something without arguments")
        name = callee.text if isinstance(callee, Name) else "?"
        if name == "collections.OrderedDict":
            pairs = args[0] if args else ()
            self.dispatch.left -= len(pairs)
            self.append({_key(key): value for key, value in pairs})
        else:
            self.append(_REBUILD[name](*args) if name in _REBUILD else Stub(name))

    def load_reduce(self) -> None:
        """Push what a call would have made."""
        args, callee = self.stack.pop(), self.stack.pop()
        self._instantiate(callee, args)

    load_newobj = load_reduce

    def load_newobj_ex(self) -> None:
        """Push what a call with named arguments would have made."""
        self.stack.pop()
        self.load_reduce()

    def load_build(self) -> None:
        """Give a stub its state; dicts, lists and tensors stay what they are."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Stub):
            target.state = state

    def load_binpersid(self) -> None:
        """Have torch make a storage, once its size is known to be the file's."""
        match pid := self.stack.pop():
            case ("module", kind, *_):  # with the source of a class, which torch would compare
                self.append(kind)
            case ("storage", kind, str(key), _, int(count), *view):
                if isinstance(kind, Name):  # of those that torch's find_class did not know
                    kind = torch.UntypedStorage if kind.text.endswith(".UntypedStorage") else None
                    pid = (pid[0], kind, *pid[2:])
                dtype: Any = torch.uint8 if kind is torch.UntypedStorage else getattr(kind, "dtype", None)
                self.storages.check(key, count * dtype.itemsize)
                match view:
                    case [] | [None]:
                        pass
                    case [(str(), int(start), int(size))] if start >= 0 and 0 <= size <= count - start:
                        pass
                    case _:
                        raise ValueError(f"its storage {key!r:.40} has a view that lies beyond it")
                self.append(self.persistent_load(pid))
            case _:
                raise ValueError("its pickle refers to something outside of it that is no storage of torch")

    def load_bytearray8(self) -> None:
        """Push bytes; Python would allocate as many as the file claims."""
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(self.read(size))

    load_empty_set, load_frozenset = _Unpickler.load_empty_list, _Unpickler.load_list

    def load_appends(self) -> None:
        """Append to a list; what is appended to a stub is left out."""
        values, target = self.pop_mark(), self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Stub):
            raise ValueError(f"its pickle appends to a {type(target).__name__}")

    load_additems = load_appends

    def load_append(self) -> None:
        """Append one value."""
        self._mark(1)
        self.load_appends()

    def load_setitems(self) -> None:
        """Set keys of a dict or a stub."""
        items, target = self.pop_mark(), self.stack[-1]
        if isinstance(target, Stub):
            target.entries = target.entries or {}
            target = target.entries
        if not isinstance(target, dict):
            raise ValueError(f"its pickle sets keys of a {type(target).__name__}")
        target.update(zip(map(_key, items[::2]), items[1::2], strict=True))

    def load_setitem(self) -> None:
        """Set one key."""
        self._mark(2)
        self.load_setitems()

    def load_dict(self) -> None:
        """Push a dict."""
        items = self.pop_mark()
        self.append({_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)})

    def _mark(self, count: int) -> None:
        """Put a mark under the topmost values."""
        values = [self.stack.pop() for _ in range(count)]
        self.load_mark()
        self.stack.extend(reversed(values))


def _key(value: Any) -> Any:
    """Return a key that is quick to hash; tuples may unfold without end, and integers be made to collide."""
    plain = value is None or isinstance(value, str | float) or (isinstance(value, int) and abs(value) < 2**61)
    return value if plain else Stub("key")


def _rebuild_tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
    dtype: Name | None = None,
) -> Tensor:
    """Return a tensor whose elements all lie within its storage, which has as many or more."""
    if not isinstance(storage, torch.storage.TypedStorage):
        raise ValueError("a tensor in it has something else than a storage")
    if metadata:  # the values are not those that are stored
        raise ValueError("a tensor in it is a conjugate or negative view; it needs plain tensors")
    kind, data = str(storage.dtype) if dtype is None else dtype.text, storage._untyped_storage
    if kind not in _DTYPES:
        raise ValueError(f"a tensor in it has the type {kind!r:.60}, which is not read")
    available = data.nbytes() // _DTYPES[kind].itemsize
    few = len(size) == len(stride) <= 16
    if not few or not all(type(n) is int and 0 <= n < 2**48 for n in (offset, *size, *stride)):
        # They are not shown: a nested tuple of a few bytes may unfold to a text without end.
        raise ValueError("a tensor in it has a size, stride or offset that is not a few whole numbers")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and max(count, last + 1) > available:  # where a stride is 0, `count` is what is too large
        raise ValueError(
            f"a tensor in it has size {size}, stride {stride} and offset {offset}, which lies beyond its "
            f"storage of {available} elements"
        )
    return torch.empty(0, dtype=_DTYPES[kind]).set_(data, offset if count else 0, size, stride)


def _rebuild_typed(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    """Return a tensor of a type that has no storages of its own."""
    grad, hooks, dtype, *metadata = rest
    return _rebuild_tensor(storage, offset, size, stride, grad, hooks, any(metadata), dtype)


def _rebuild_from_type(function: Name, kind: Any, args: Any, state: Any) -> Tensor:
    """Return a tensor without the attributes, and the subclass, that it had."""
    if function.text not in _TENSORS:  # a call that calls another would go as deep as the file likes
        raise ValueError(f"a tensor in it is made by {function.text!r:.60}, which is not read")
    return _TENSORS[function.text](*args)


_TENSORS: dict[str, Any] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_typed,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
}
_REBUILD = _TENSORS | {
    "torch._tensor._rebuild_from_type": _rebuild_from_type,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    **dict.fromkeys(("builtins.set", "__builtin__.set"), lambda values=(): values),  # a list, as it is
}


def _load_beside(file: Any, storages: Storages, **options: Any) -> Any:
    """Load a pickle before or after the main one of the old format; the last lists the storages."""
    value = Unpickler(file, storages, **options).load()
    if isinstance(value, list):
        texts = [key for key in value if isinstance(key, str)]
        if len(texts) < len(value) or set(texts) != storages.named.keys():
            raise ValueError("its list of storages does not fit its pickle: the file is damaged")
    elif not isinstance(
        value, int
    ):  # torch shows what it does not expect, and a tuple may unfold without end
        return {}  # of the system that saved it, which torch leaves unread
    return value


def read_old(content: bytes) -> Any:
    """Return what a file of the format before torch 1.6 holds: tensors, plain values, names and stubs.

    Raises:
        ValueError: a damaged file; torch, too, raises whatever it meets damage with.
    """
    if MAGIC not in content[:64]:
        raise ValueError(
            "it is a pickle that torch.save did not write; it needs a state_dict, saved by torch.save"
        )
    return _load(io.BytesIO(content), Storages(len(content)))


def read_zip(archive: zipfile.ZipFile, folder: str) -> Any:
    """Return what a zip archive of torch holds: tensors, plain values, names and stubs.

    torch does not compare checksums and may understand a damaged archive in another way than zipfile does.
    It is therefore given a copy, which holds what zipfile could read.

    Args:
        archive: the file; the sizes of its entries are known to be plausible.
        folder: its only folder, with a slash at the end.

    Raises:
        ValueError: as in `read_old`.
    """
    if f"{folder}constants.pkl" in archive.namelist():
        raise ValueError("it is a TorchScript program; it needs a state_dict, saved by torch.save")
    copy, records = io.BytesIO(), {}
    with zipfile.ZipFile(copy, "w") as copied:
        for name in archive.namelist():
            if (record := name.removeprefix(folder)) in ("data.pkl", "version", "byteorder") or (
                record.startswith("data/")
            ):
                content = archive.read(name)
                records[record] = len(content)
                copied.writestr(f"archive/{record}", content)
    copy.seek(0)
    return _load(copy, Storages(sum(records.values()), records))


def _load(file: io.BytesIO, storages: Storages) -> Any:
    if os.environ.get(FORCED, "0").lower() in ("1", "y", "yes", "true"):
        raise ValueError(f"{FORCED} is set, and so torch takes no unpickler but its own; unset it to import")
    module = SimpleNamespace(__name__=__name__, Unpickler=Unpickler, load=_load_beside)
    with torch.device("cpu"):
        return torch.load(
            file,
            map_location="cpu",
            pickle_module=module,
            weights_only=False,
            mmap=False,
            encoding="latin1",
            storages=storages,
        )
