"""A foreign checkpoint file, read without trust: its kind, its tensors by name, what stands beside them."""

import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from torch import Tensor

from convlstm.importers.reading.archives import Archive
from convlstm.importers.reading.inert import Storages, build_tensor
from convlstm.importers.reading.keras_files import CONFIG, WEIGHTS, Tree, read_hdf5, read_keras
from convlstm.importers.reading.plain import Plain
from convlstm.importers.reading.torch_files import read_row, read_zip
from convlstm.importers.reading.unwrapping import unwrap

HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Content:
    """What a checkpoint file holds.

    Attributes:
        path: of the file.
        container: recognised by the file's content, never by its suffix.
        tensors: on the CPU, by their flat names, as in the file once unwrapped; an optimizer's are left out.
        wrapper: where in the file the tensors were, as ("state_dict",); () if bare; ("module",) for a whole
            pickled module.
        notes: what stood beside them, as plain values: str, int, float, bool, None, lists and dicts.
        modules: of whole pickled modules, by their paths: {"class": "torch.nn.modules.conv.Conv2d"} and their
            plain attributes; else {}.
        config: the config of a Keras model, where the file has one.
        keras_version: where the file has one.
    """

    path: Path
    container: Literal["torch", "safetensors", "keras", "hdf5"]
    tensors: dict[str, Tensor]
    wrapper: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)
    modules: dict[str, dict[str, Any]] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    keras_version: str | None = None


def read_content(path: str | Path) -> Content:
    """Read a checkpoint of another project: torch.save's (both formats), safetensors or Keras's.

    Nothing in the file is executed: pickles are read by an interpreter of our own, which knows tensors and
    plain values and keeps everything else as inert records. The kind of file is told by its content.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, one of another kind, or one whose weights are not clearly one model's.
        ImportError: an HDF5 file, and no h5py installed.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a directory; it needs a checkpoint file")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; it needs a checkpoint file")
    try:
        return _read(path)
    except ValueError as error:
        reason = textwrap.shorten(str(error).partition("\n")[0], 400)
        raise ValueError(f"{path} cannot be read: {reason}") from error


def _read(path: Path) -> Content:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(512)
        if not start:
            raise ValueError("it is empty")
        if start.startswith(b"PK\x03\x04"):
            return _read_archive(path)
        if start.startswith(HDF5):
            return _from_tree(path, "hdf5", read_hdf5(path))
        # Safetensors first: the length of its header can look like a pickle's beginning.
        length = int.from_bytes(start[:8], "little")
        if start[8:9] == b"{" and (length <= size or not start.startswith(b"\x80")):
            return _read_safetensors(path, length, size)
        if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
            return _unpickled(path, *read_row(file))
    raise ValueError(_describe(start))


def _read_archive(path: Path) -> Content:
    with Archive(path) as archive:
        pickles = [name for name in archive.entries if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) == 1:
            return _unpickled(path, *read_zip(archive, pickles[0]))
        if CONFIG in archive.entries and WEIGHTS in archive.entries:
            return _from_tree(path, "keras", read_keras(archive))
        names = ", ".join(repr(name) for name in list(archive.entries)[:3]) or "nothing"
        raise ValueError(
            "it is a zip archive of neither torch (one data.pkl) nor Keras "
            f"({CONFIG} and {WEIGHTS}): it has {names}"
        )


def _unpickled(path: Path, value: Any, storages: Storages) -> Content:
    found = unwrap(value)
    plain, attributes = Plain(storages), Plain(storages)
    return Content(
        path=path,
        container="torch",
        tensors={name: build_tensor(record, storages) for name, record in found.tensors.items()},
        wrapper=found.wrapper,
        notes={key: plain.value(item) for key, item in found.beside.items()},
        modules={name: attributes.dict(module, 0) for name, module in found.modules.items()},
    )


def _from_tree(path: Path, container: Literal["keras", "hdf5"], tree: Tree) -> Content:
    if not tree.tensors:
        raise ValueError("it holds no arrays; it needs a model's weights")
    return Content(
        path, container, tree.tensors, tree.wrapper, tree.notes, {}, tree.config, tree.keras_version
    )


def _read_safetensors(path: Path, length: int, size: int) -> Content:
    if length > size - 8:
        raise ValueError(f"its safetensors header claims {length} bytes; the file has {size}")
    try:
        with safe_open(path, framework="pt") as file:
            # Copies: what safetensors gives is the file itself, mapped.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
    except (SafetensorError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its safetensors are damaged: {error}") from error
    for name in tensors:
        if len(name) > 1000 or not name.isprintable():
            raise ValueError(f"a tensor in it has the name {name[:40]!r}, which is too long or not printable")
    return Content(path, "safetensors", tensors, notes={"metadata": metadata} if metadata else {})


def _describe(start: bytes) -> str:
    """Say what a file is that holds no weights, by its beginning."""
    text = start.lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of git-LFS, not the file itself; run git lfs pull where it came from"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, as a download that failed leaves it; download the file itself"
    if start[257:262] == b"ustar":
        return "it is a tar archive, as torch wrote before 0.4 if at all; load and save it again with torch"
    if start.startswith(b"\x1f\x8b"):
        return "it is compressed by gzip; unpack it first"
    return (
        f"it begins with {start[:16]!r}; it needs a file of torch.save, safetensors, or Keras (.keras, .h5)"
    )
