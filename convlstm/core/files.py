"""Files that are written whole or not at all, JSON, and .npy arrays that are opened without trust."""

import json
import math
import os
import textwrap
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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

METRICS = "metrics.jsonl"  # in a run's directory
PARTIAL = ".*.partial"  # files that a killed process may leave behind
LINE = 180  # characters of a line of JSON


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file under a temporary name and rename it to `path`; on an error leave nothing behind.

    The file is on the disk before it is renamed, and so is its new name on return: a power cut leaves the old
    file or the new one.

    Args:
        path: path of the file; a file that is there is replaced.
        write: writes the whole file to the temporary path that it is given.
    """
    # The process ID keeps two processes that write the same file apart.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(temporary)
        _to_disk(temporary)
        os.replace(temporary, path)
        if os.name == "posix":  # Windows cannot open a folder
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
    """Return nested values as JSON can hold them: None for numbers that are not finite, lists for tuples."""
    if isinstance(value, Mapping):
        return {name: jsonable(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(values: Any, *, allow_nan: bool = True) -> str:
    """Return values as indented JSON, with short values and lists of numbers on a line of their own."""

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
    """Write values as `to_json` gives them, by `write_atomically`."""
    text = to_json(values)
    write_atomically(path, lambda file: file.write_text(text))


def read_metrics(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Return each line of a run's metrics.jsonl with its values by name, "step" among them.

    A last line without its end, as a stopped run leaves it, is left out.

    Raises:
        ValueError: a line is damaged.
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
                '"step": repair the line or remove it'
            )
        lines.append((line, values))
    return lines


def open_npy(path: str | Path) -> np.memmap:
    """Return the array in a .npy file, memory-mapped and read-only: only what is used of it is read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, damaged or of another kind, or holds an array of Python objects (a
            pickle, which is never loaded).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; it needs a .npy array")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # NumPy evaluates the header: damage raises errors of many kinds
        # Only the first line: the others give advice for files that one trusts.
        reason = textwrap.shorten(str(error).partition("\n")[0] or type(error).__name__, 120)
        raise ValueError(f"{path} is damaged, or no .npy array of numbers: {reason}") from error
