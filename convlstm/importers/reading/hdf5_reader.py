"""Reads an HDF5 file of Keras in a process of its own: on some damaged files libhdf5 never comes back.

`keras_files.py` runs this script with the file on standard input. It writes a NumPy archive of the arrays and
of a header to standard output, and imports nothing else of the project.
"""

import io
import json
import math
import sys
import time
from typing import Any

import h5py
import numpy as np

try:
    import resource
except ImportError:  # Windows
    resource = None

MAX_COMPRESSION = 32
"""How many times larger the arrays may be than the file."""
OPTIMIZERS = ("optimizer_weights", "optimizer")
"""What Keras 2 and 3 keep for training alone."""


def read(content: bytes) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Return a header of plain values, and the arrays in the order of its "arrays".

    Raises:
        ValueError: arrays that are no numbers, are not in the file itself, or are absurdly large.
        Exception: whatever h5py meets damage with.
    """
    left = MAX_COMPRESSION * len(content)
    header: dict[str, Any] = {"arrays": [], "dropped": []}
    arrays, holders = [], []

    def visit(path: str, found: Any) -> None:
        nonlocal left
        if path == "model_weights":  # as Keras 2 has it
            holders.insert(0, found)
        if path in OPTIMIZERS:
            header["dropped"].append(path)
        if not isinstance(found, h5py.Dataset) or path.startswith(tuple(f"{name}/" for name in OPTIMIZERS)):
            return
        dtype, kind = found.dtype, found.dtype.name
        if found.is_virtual or found.external:
            raise ValueError(f"its array {path!r:.80} is stored elsewhere; it needs arrays in the file")
        if dtype.kind == "V" and dtype.itemsize == 2 and attribute(found, "dtype") == "bfloat16":
            kind = "bfloat16"
        elif found.shape is None or dtype.kind not in "fiub" or dtype.itemsize > 8:
            raise ValueError(f"its array {path!r:.80} is of type {dtype}; it needs numbers of up to 64 bits")
        left -= (
            max(found.size or 0, math.prod(found.chunks or ())) * dtype.itemsize
        )  # a chunk is unpacked whole
        if left < 0:
            raise ValueError(f"its arrays up to {path!r:.80} have {MAX_COMPRESSION} times its size")
        array = np.array(found[()])
        array = array.view(np.int16) if kind == "bfloat16" else array.astype(dtype.newbyteorder("="))
        header["arrays"].append((path.removeprefix("model_weights/"), kind))
        arrays.append(array)

    with h5py.File(io.BytesIO(content), "r") as file:
        holders.append(file)
        file.visititems(visit)  # does not follow links to elsewhere
        for name in ("keras_version", "model_config", "layer_names"):
            values = (attribute(holder, name) for holder in holders)
            header[name] = next((value for value in values if value is not None), None)
    return header, arrays


def attribute(holder: Any, name: str) -> Any:
    """Return an attribute, text as str and arrays as lists; None if there is none."""
    value = holder.attrs.get(name)
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    values = value if isinstance(value, list) else [value]
    values = [item.decode() if isinstance(item, bytes) else item for item in values]
    return values if isinstance(value, list) else values[0]


def answer(content: bytes) -> bytes:
    """Return an archive of the header, as JSON, and of the arrays; or of a header that says what is wrong."""
    arrays: list[np.ndarray] = []
    try:
        header, arrays = read(content)
        text = json.dumps(header)
    except ValueError as error:
        text = json.dumps({"error": str(error)})
    except Exception as error:  # h5py meets damage with whatever error that has
        text = json.dumps({"error": f"its HDF5 is damaged: {str(error) or type(error).__name__}"})
    output = io.BytesIO()
    np.savez(output, *arrays, header=np.frombuffer(text.encode(), np.uint8))
    return output.getvalue()


def limit(size: int) -> None:
    """Bound what reading a file of so many bytes may take, where the system can: seconds of work, memory."""
    if resource is None:
        return
    for kind, most in (
        (resource.RLIMIT_CPU, math.ceil(time.process_time()) + 1 + size // 2**26),
        (resource.RLIMIT_AS, 2**31 + 3 * MAX_COMPRESSION * size),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    file = sys.stdin.buffer.read()
    limit(len(file))
    sys.stdout.buffer.write(answer(file))
