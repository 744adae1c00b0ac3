"""What Keras writes, read through h5py, without Keras: Keras 3's .keras and .weights.h5, Keras 2's .h5."""

import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from convlstm.importers.archives import Archive

if TYPE_CHECKING:
    import h5py

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"  # in a .keras file
MOST_TIMES_SMALLER = 32  # that a file may be than what it holds
MOST_LINKS = 100_000
MOST_LEVELS = 32
LARGEST_ATTRIBUTE = 64 * 2**20  # bytes
# Keras 2's and Keras 3's; dropped.
_OPTIMIZERS = ("optimizer_weights", "optimizer")


@dataclass
class Tree:
    """What a file of Keras holds; the fields are those of content.Content."""

    tensors: dict[str, Tensor]
    wrapper: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    keras_version: str | None = None


def read_keras(archive: Archive) -> Tree:
    """Read a .keras file, a zip of the model's config, what wrote it and its weights as HDF5.

    Raises:
        ValueError: a damaged file.
        ImportError: h5py is not installed.
    """
    config = _json(CONFIG, archive.read(CONFIG))
    metadata = _json(METADATA, archive.read(METADATA)) if METADATA in archive.entries else {}
    tree = read_hdf5(archive.read(WEIGHTS))
    version = metadata.get("keras_version")
    tree.notes["metadata"] = metadata
    tree.config, tree.keras_version = config, version if isinstance(version, str) else None
    return tree


def read_hdf5(source: Path | bytes) -> Tree:
    """Read an HDF5 file, or the content of one: every array in it, and Keras's attributes.

    Arrays are named by their paths; those under Keras 2's "model_weights" by their paths in it. The notes
    hold layer_names and weight_names ({layer: names}), in Keras's order, the backend, and what was dropped,
    where the file has them.

    Raises:
        ValueError: a damaged file, or one with links, storage or types that weights do not need.
        ImportError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError('reading files of Keras needs h5py; run pip install "convlstm[import]"') from error
    try:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        with h5py.File(io.BytesIO(source) if isinstance(source, bytes) else source, "r") as file:
            return _read_tree(file, size)
    except ValueError:
        raise
    except Exception as error:  # h5py meets damage with whatever error that has
        raise ValueError(f"its HDF5 is damaged: {str(error) or type(error).__name__}") from error


def _read_tree(file: "h5py.File", size: int) -> Tree:
    wrapped = _has(file, "model_weights")
    base = _group(file, "model_weights") if wrapped else file
    budget = MOST_TIMES_SMALLER * size
    tensors = {}
    for path, dataset in _datasets(base):
        budget -= _size(path, dataset)
        if budget < 0:
            raise ValueError(
                f"its arrays up to {path!r:.80} are more than {MOST_TIMES_SMALLER} times its size"
            )
        tensors[path] = _tensor(path, dataset)
    notes: dict[str, Any] = {}
    layers = _names(base, "layer_names")
    if layers is not None:
        notes["layer_names"] = layers
        notes["weight_names"] = {layer: _names(_group(base, layer), "weight_names") or [] for layer in layers}
    attributes = {
        name: next((found for at in (base, file) if (found := _attribute(at, name)) is not None), None)
        for name in ("keras_version", "backend", "model_config")
    }
    version, backend, config = attributes.values()
    if isinstance(backend, str):
        notes["backend"] = backend
    dropped = [name for name in _OPTIMIZERS if _has(file, name)]
    if dropped:
        notes["dropped"] = dropped
    return Tree(
        tensors,
        ("model_weights",) if wrapped else (),
        notes,
        _json("model_config", config) if isinstance(config, str) else None,
        version if isinstance(version, str) else None,
    )


def _has(group: "h5py.Group", name: str) -> bool:
    # Not `name in group`, which follows a link to see whether it leads somewhere.
    return group.id.links.exists(name.encode())


def _child(group: "h5py.Group", name: str) -> Any:
    """Return what a hard link leads to; links to elsewhere are not followed."""
    from h5py import h5l  # pyright: ignore[reportAttributeAccessIssue]

    if group.id.links.get_info(name.encode()).type != h5l.TYPE_HARD:
        raise ValueError(f"its {name!r:.80} is a link to elsewhere; it needs arrays in the file")
    return group[name]


def _group(group: "h5py.Group", path: str) -> "h5py.Group":
    """Return a group below a group."""
    import h5py

    for name in path.split("/"):
        child = _child(group, name)
        if not isinstance(child, h5py.Group):
            raise ValueError(f"its {path!r:.80} is no group")
        group = child
    return group


def _datasets(base: "h5py.Group") -> Iterator[tuple[str, "h5py.Dataset"]]:
    """Walk all arrays below a group, through hard links alone."""
    import h5py
    from h5py import h5o  # pyright: ignore[reportAttributeAccessIssue]

    waiting: list[tuple[str, Any, int]] = [("", base, 0)]
    seen, links = {h5o.get_info(base.id).addr}, 0
    while waiting:
        prefix, group, level = waiting.pop()
        groups = []
        for name in group:
            path = f"{prefix}{name}"
            links += 1
            if links > MOST_LINKS or level > MOST_LEVELS or len(path) > 1000 or not path.isprintable():
                raise ValueError("its tree of groups is too large or too deep, or has names that are no text")
            if not prefix and name in _OPTIMIZERS:
                continue
            child = _child(group, name)
            if isinstance(child, h5py.Group):
                address = h5o.get_info(child.id).addr
                if address in seen:
                    raise ValueError(f"its group {path!r:.80} stands in two places")
                seen.add(address)
                groups.append((f"{path}/", child, level + 1))
            elif isinstance(child, h5py.Dataset):
                yield path, child
            else:
                raise ValueError(f"its {path!r:.80} is a type, not an array or group")
        waiting.extend(reversed(groups))


def _size(path: str, dataset: "h5py.Dataset") -> int:
    """Return an array's size in bytes, once its storage is known to be of a usual kind."""
    import h5py

    creation = dataset.id.get_create_plist()
    layouts = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED)
    if creation.get_layout() not in layouts or creation.get_external_count():
        raise ValueError(f"its array {path!r:.80} is stored elsewhere; it needs arrays in the file itself")
    known = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)
    if any(creation.get_filter(number)[0] not in known for number in range(creation.get_nfilters())):
        raise ValueError(f"its array {path!r:.80} is compressed by something else than gzip")
    if dataset.shape is None or dataset.dtype.kind not in "fiubV":
        raise ValueError(f"its array {path!r:.80} is of type {dataset.dtype}; it needs numbers")
    chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize  # read and unpacked whole
    return max(math.prod(dataset.shape) * dataset.dtype.itemsize, chunk)


def _tensor(path: str, dataset: "h5py.Dataset") -> Tensor:
    dtype = dataset.dtype
    if dtype.kind == "V" and dtype.itemsize == 2 and _attribute(dataset, "dtype") == "bfloat16":
        # What numpy has no type for, Keras marks by an attribute.
        return torch.from_numpy(np.array(dataset[()]).view(np.int16)).view(torch.bfloat16)
    if dtype.kind == "V" or dtype.itemsize > 8:
        raise ValueError(f"its array {path!r:.80} is of type {dtype}; it needs numbers of up to 64 bits")
    return torch.from_numpy(np.array(dataset[()], dtype=dtype.newbyteorder("=")))


def _attribute(holder: Any, name: str) -> Any:
    """Return an attribute, text as str and arrays as lists; None if there is none."""
    if name not in holder.attrs:
        return None
    found = holder.attrs.get_id(name)
    if math.prod(found.shape) * found.dtype.itemsize > LARGEST_ATTRIBUTE:
        raise ValueError(f"its attribute {name!r} is absurdly large")
    value = holder.attrs[name]
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    return [_text(item) for item in value] if isinstance(value, list) else _text(value)


def _text(value: Any) -> Any:
    return value.decode("utf-8") if isinstance(value, bytes) else value


def _names(holder: Any, name: str) -> list[str] | None:
    """Return a list of names, which Keras cuts into numbered attributes where it is long."""
    found = _attribute(holder, name)
    if found is None:
        parts = []
        while (part := _attribute(holder, f"{name}{len(parts)}")) is not None:
            parts.append(part)
        found = [item for part in parts for item in part] if parts else None
    if found is not None and not (isinstance(found, list) and all(isinstance(item, str) for item in found)):
        raise ValueError(f"its attribute {name!r} is no list of names")
    return found


def _json(name: str, text: str | bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its {name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"its {name} is not a JSON object")
    return value
