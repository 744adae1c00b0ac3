"""Reads an HDF5 file of Keras in a process of its own: on some damaged files libhdf5 never comes back.

Run as a script, with a path or with the file's content on standard input, it writes a header and the arrays
to standard output; keras_files.py starts it, and reads that. It imports nothing else of the project.
"""

import contextlib
import io
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5l, h5o  # pyright: ignore[reportAttributeAccessIssue]

MOST_TIMES_SMALLER = 32  # that a file may be than what it holds
MOST_LINKS = 100_000
MOST_LEVELS = 32
LARGEST_ATTRIBUTE = 64 * 2**20  # bytes
# Keras 2's and Keras 3's; dropped.
_OPTIMIZERS = ("optimizer_weights", "optimizer")


def read(source: Path | bytes) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Return what a file holds: a header of plain values, and arrays in the order of its "arrays".

    The header has "arrays", each a path, type and shape; "wrapper" and "notes" as in content.Content;
    "model_config" and "keras_version" as text, or None.

    Raises:
        ValueError: links, storage or types that weights do not need, or sizes that are absurd.
        Exception: whatever h5py meets damage with.
    """
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    with h5py.File(io.BytesIO(source) if isinstance(source, bytes) else source, "r") as file:
        wrapped = _has(file, "model_weights")
        base = _group(file, "model_weights") if wrapped else file
        budget = MOST_TIMES_SMALLER * size
        header: dict[str, Any] = {"arrays": [], "wrapper": ["model_weights"] if wrapped else [], "notes": {}}
        arrays = []
        for path, dataset in _datasets(base):
            budget -= _size(path, dataset)
            if budget < 0:
                raise ValueError(f"its arrays up to {path!r:.80} have {MOST_TIMES_SMALLER} times its size")
            kind, array = _array(path, dataset)
            header["arrays"].append((path, kind, array.shape))
            arrays.append(array)
        notes = header["notes"]
        layers = _names(base, "layer_names")
        if layers is not None:
            notes["layer_names"] = layers
            notes["weight_names"] = {
                layer: _names(_group(base, layer), "weight_names") or [] for layer in layers
            }
        for name, target in (("keras_version", header), ("model_config", header), ("backend", notes)):
            values = (_attribute(holder, name) for holder in (base, file))
            target[name] = next((value for value in values if isinstance(value, str)), None)
        dropped = [name for name in _OPTIMIZERS if _has(file, name)]
        if dropped:
            notes["dropped"] = dropped
        header["notes"] = {name: value for name, value in notes.items() if value is not None}
    return header, arrays


def _has(group: h5py.Group, name: str) -> bool:
    # Not `name in group`, which follows a link to see whether it leads somewhere.
    return group.id.links.exists(name.encode())


def _child(group: h5py.Group, name: str) -> Any:
    """Return what a hard link leads to; links to elsewhere are not followed."""
    if group.id.links.get_info(name.encode()).type != h5l.TYPE_HARD:
        raise ValueError(f"its {name!r:.80} is a link to elsewhere; it needs arrays in the file")
    return group[name]


def _group(group: h5py.Group, path: str) -> h5py.Group:
    """Return a group below a group."""
    for name in path.split("/"):
        child = _child(group, name)
        if not isinstance(child, h5py.Group):
            raise ValueError(f"its {path!r:.80} is no group")
        group = child
    return group


def _datasets(base: h5py.Group) -> Iterator[tuple[str, h5py.Dataset]]:
    """Walk all arrays below a group, through hard links alone."""
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


def _size(path: str, dataset: h5py.Dataset) -> int:
    """Return an array's size in bytes, once its storage is known to be of a usual kind."""
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


def _array(path: str, dataset: h5py.Dataset) -> tuple[str, np.ndarray]:
    """Return an array and the name of its type, which numpy need not know."""
    dtype = dataset.dtype
    if dtype.kind == "V" and dtype.itemsize == 2 and _attribute(dataset, "dtype") == "bfloat16":
        return "bfloat16", np.array(dataset[()]).view(np.int16)
    if dtype.kind == "V" or dtype.itemsize > 8:
        raise ValueError(f"its array {path!r:.80} is of type {dtype}; it needs numbers of up to 64 bits")
    return dtype.name, np.array(dataset[()], dtype=dtype.newbyteorder("="))


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


def _limit(size: int) -> None:
    """Bound what reading a file of so many bytes may take, where the system can: seconds of work, memory."""
    try:
        import resource
    except ImportError:
        return
    for kind, most in (
        (resource.RLIMIT_CPU, math.ceil(time.process_time()) + 1 + size // 2**26),
        (resource.RLIMIT_AS, 2**31 + 2 * MOST_TIMES_SMALLER * size),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # where it is lower already
            resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))


def main() -> None:
    """Write the header's length (8 bytes, little-endian), the header as JSON, and the arrays' bytes."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else sys.stdin.buffer.read()
    _limit(len(source) if isinstance(source, bytes) else source.stat().st_size)
    arrays: list[np.ndarray] = []
    try:
        header, arrays = read(source)
    except ValueError as error:
        header = {"error": str(error)}
    except Exception as error:  # h5py meets damage with whatever error that has
        header = {"error": f"its HDF5 is damaged: {str(error) or type(error).__name__}"}
    text = json.dumps(header).encode()
    sys.stdout.buffer.write(len(text).to_bytes(8, "little") + text)
    for array in arrays:
        sys.stdout.buffer.write(np.ascontiguousarray(array).data)


if __name__ == "__main__":
    main()
