"""What torch.save writes: a zip archive since torch 1.6, before that pickles and raw storages in a row."""

import sys
from io import BufferedReader
from typing import Any

import torch
from torch import Tensor

from convlstm.importers.reading.archives import Archive
from convlstm.importers.reading.inert import StorageRef
from convlstm.importers.reading.pickles import Unpickling

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the old format
PROTOCOL = 1001
MOST_PICKLES = 64 * 2**20  # bytes, of the pickles that the old format begins with


class ZipStorages:
    """The storages in a torch archive, each read when it is first asked for.

    Raises:
        ValueError: an archive from a machine that orders bytes in another way, or of TorchScript.
    """

    def __init__(self, archive: Archive, prefix: str) -> None:
        self.archive, self.prefix = archive, prefix
        self.kept: dict[str, Tensor] = {}
        if f"{prefix}constants.pkl" in archive.entries:
            raise ValueError("it is a TorchScript program; it needs a state_dict, saved by torch.save")
        if f"{prefix}byteorder" in archive.entries:
            _check_order(archive.read(f"{prefix}byteorder").decode("latin-1"))

    def read(self, storage: StorageRef) -> Tensor:
        """Return a whole storage as bytes."""
        if storage.key not in self.kept:
            name = f"{self.prefix}data/{storage.key}"
            size = storage.total * storage.dtype.itemsize
            entry = self.archive.entries.get(name)
            if size and (entry is None or entry.file_size != size):
                stands = "is missing" if entry is None else f"has {entry.file_size} bytes"
                raise ValueError(f"its storage {name!r:.80} {stands}; its pickle needs {size} bytes")
            content = torch.empty(size, dtype=torch.uint8)
            if size:
                self.archive.read_into(name, content.numpy().data)
            self.kept[storage.key] = content
        return self.kept[storage.key]


class RowOfStorages:
    """The storages that follow the pickles of the old format, each read when it is first asked for.

    Args:
        file: the whole file.
        position: where the first storage begins.
        keys: of the storages, in the order of the file.
        storages: by key.

    Raises:
        ValueError: a storage is missing, or has another size than the pickle says.
    """

    def __init__(
        self, file: BufferedReader, position: int, keys: list[Any], storages: dict[str, StorageRef]
    ) -> None:
        self.file = file
        self.kept: dict[str, Tensor] = {}
        self.starts: dict[str, int] = {}
        end = file.seek(0, 2)
        for key in keys:
            storage = storages.get(key) if isinstance(key, str) else None
            if storage is None or key in self.starts:
                raise ValueError("its list of storages does not fit its pickle: the file is damaged")
            file.seek(position)
            count = int.from_bytes(file.read(8), "little", signed=True)
            size = storage.total * storage.dtype.itemsize
            if count != storage.total or position + 8 + size > end:
                raise ValueError(
                    f"its storage {key!r:.40} is truncated or damaged: it needs {storage.total} elements"
                )
            self.starts[key] = position + 8
            position += 8 + size

    def read(self, storage: StorageRef) -> Tensor:
        """Return a whole storage as bytes."""
        if storage.key not in self.kept:
            if storage.key not in self.starts:
                raise ValueError(f"its storage {storage.key!r:.40} is missing: the file is damaged")
            content = torch.empty(storage.total * storage.dtype.itemsize, dtype=torch.uint8)
            self.file.seek(self.starts[storage.key])
            if self.file.readinto(content.numpy().data) < len(content):
                raise ValueError("it became shorter while it was read")
            self.kept[storage.key] = content
        return self.kept[storage.key]


def read_zip(archive: Archive, pickle: str) -> tuple[Any, ZipStorages]:
    """Return what a torch archive holds: values and records, and the storages."""
    storages = ZipStorages(archive, pickle.removesuffix("data.pkl"))
    return Unpickling(archive.read(pickle)).read(), storages


def read_row(file: BufferedReader) -> tuple[Any, RowOfStorages]:
    """Return what a file of torch's old format holds: values and records, and the storages.

    Raises:
        ValueError: a pickle of another kind, or a damaged one.
    """
    file.seek(0)
    start = file.read(MOST_PICKLES)
    first = Unpickling(start)
    if first.read() != MAGIC:
        raise ValueError(
            "it is a pickle that torch.save did not write; it needs a state_dict, saved by torch.save"
        )
    protocol, position = _next(start, first.position)
    if protocol != PROTOCOL:
        raise ValueError(f"it has the protocol {protocol!r:.40} of torch.save; it needs {PROTOCOL}")
    system, position = _next(start, position)
    if not isinstance(system, dict) or not isinstance(system.get("little_endian"), bool):
        raise ValueError("it does not say in which order its bytes are: the file is damaged")
    _check_order("little" if system["little_endian"] else "big")
    body = Unpickling(start, position)
    value = body.read()
    keys, position = _next(start, body.position)
    if not isinstance(keys, list):
        raise ValueError("it has no list of storages: the file is damaged")
    return value, RowOfStorages(file, position, keys, body.storages)


def _next(data: bytes, start: int) -> tuple[Any, int]:
    reader = Unpickling(data, start)
    return reader.read(), reader.position


def _check_order(order: str) -> None:
    if order.strip() != sys.byteorder:
        raise ValueError(
            f"it was written on a machine of {order!r:.20} byte order, and needs {sys.byteorder}; "
            "load it there and save it as safetensors"
        )
