"""Files: written whole or not at all, and .npy arrays opened without trust in what they hold."""

import json
import math
import os
import textwrap
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

__all__ = [
    "METRICS",
    "PARTIAL",
    "jsonable",
    "open_npy",
    "read_metrics",
    "to_json",
    "write_atomically",
    "write_json",
]

METRICS = "metrics.jsonl"  # of a run
PARTIAL = ".*.partial"  # what a killed process may leave of a file
MAGIC = b"\x93NUMPY"  # what every .npy file begins with
LINE = 180  # characters of JSON
MOST_AXES = 32  # of an array, in every version of numpy


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Call write(temporary path) and rename what it wrote to `path`; on an error leave nothing behind.

    It is on the disk before it has its name, and has its name for good on return, whatever loses its power.

    Args:
        path: of the file; one that stands there is replaced once the new one is whole.
        write: writes the whole file to the path that it is given, a hidden name beside `path`.
    """
    # The process's number keeps two that write the same file out of each other's way.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(temporary)
        _to_disk(temporary)
        os.replace(temporary, path)
        if os.name == "posix":  # elsewhere a folder cannot be opened
            _to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def check_output(path: Path) -> None:
    """Raise ValueError where a file cannot be written, before the work that goes into it."""
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent} is no directory, but {path} should go there; make it first")
    if path.is_dir():
        raise ValueError(f"{path} is a directory; give the name of a file")


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def jsonable(value: Any) -> Any:
    """Return nested values as JSON has them: None in place of what is no finite number, lists of tuples."""
    if isinstance(value, Mapping):
        return {name: jsonable(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(values: Any, *, allow_nan: bool = True) -> str:
    """Return values as JSON: what fits into a line, and each list of numbers, on one; all else indented."""

    def lines(value: Any, indent: str) -> str:
        line = json.dumps(value)
        is_flat = isinstance(value, list) and not any(isinstance(item, str | list | dict) for item in value)
        if not isinstance(value, list | dict) or is_flat or len(indent) + len(line) <= LINE:
            return line
        inner = indent + "  "
        if isinstance(value, dict):
            items = [f"{json.dumps(name)}: {lines(item, inner)}" for name, item in value.items()]
        else:
            items = [lines(item, inner) for item in value]
        start, end = "{}" if isinstance(value, dict) else "[]"
        return f"{start}\n{inner}" + f",\n{inner}".join(items) + f"\n{indent}{end}"

    return lines(json.loads(json.dumps(values, allow_nan=allow_nan)), "") + "\n"


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write values as `to_json` gives them, whole or not at all; see `write_atomically`."""
    text = to_json(values)
    write_atomically(path, lambda file: file.write_text(text))


def read_metrics(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Return the lines of a run's metrics.jsonl, and what they hold: values by name, "step" among them.

    A last line that was cut short, as where a run was stopped or goes on, is left out.

    Raises:
        ValueError: a line that no run wrote.
    """
    lines = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict) or not isinstance(values.get("step"), int):
            raise ValueError(
                f"{path}, line {number}, is damaged; it needs a JSON object with a whole number under "
                '"step": mend the line or remove it'
            )
        lines.append((line, values))
    return lines


def open_npy(path: str | Path) -> np.memmap:
    """Return the array in a .npy file, memory-mapped and read-only: no more is read than is used of it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is empty, damaged or of another kind, or an array of Python objects (a pickle,
            which is never loaded).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; it needs a .npy array")
    with path.open("rb") as file:
        start = file.read(len(MAGIC))
        if start != MAGIC:
            begins = f"begins with {start!r}" if start else "is empty"
            raise ValueError(f"{path} {begins}; it needs a .npy array, which begins with {MAGIC!r}")
        file.seek(0)
        try:
            shape, fortran_order, dtype = _read_header(file)
        except Exception as error:  # numpy evaluates a header, and meets damage with whatever error that has
            # The first line alone: what numpy advises in the others is for files that one trusts.
            reason = textwrap.shorten(str(error).partition("\n")[0] or type(error).__name__, 120)
            raise ValueError(f"{path} is damaged, its header cannot be read: {reason}") from error
        offset = file.tell()
    if dtype.hasobject:
        raise ValueError(
            f"{path} holds Python objects (a pickle), which are never loaded; save numbers, as uint8"
        )
    needed, found = math.prod(shape) * dtype.itemsize, path.stat().st_size - offset
    if found < needed:
        raise ValueError(
            f"{path} is damaged: it is cut short, with {found:,} bytes of the {needed:,} that its shape "
            f"{shape} takes; write or copy it again"
        )
    return np.memmap(path, dtype, "r", offset, shape, "F" if fortran_order else "C")


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return the shape of an array, whether it is in Fortran's order, and its type; raise anything."""
    versions = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in versions:
        raise ValueError(f"version {version} of the format is for records")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a header that Python 2 wrote is as good, a damaged one is an error
        shape, fortran_order, dtype = versions[version](file)
    if any(type(n) is not int or n < 0 for n in shape):
        raise ValueError(f"shape is {shape}; it needs whole numbers of 0 or more")
    if len(shape) > MOST_AXES:
        raise ValueError(f"shape has {len(shape)} axes; it needs {MOST_AXES} or fewer")
    if math.prod(n for n in shape if n) * max(dtype.itemsize, 1) >= 2**63:
        raise ValueError(f"shape is {shape}, larger than any memory")
    return shape, fortran_order, dtype
