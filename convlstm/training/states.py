"""States: what a run resumes from, one file each, whole or recognized as damaged.

A state's name ends in the checksum of its bytes, so that name and content appear in one rename. The newest
three are kept. Loading executes nothing.
"""

import hashlib
import io
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convlstm.core.files import write_atomically
from convlstm.core.saving import CONFIG
from convlstm.hub.checkpoint import read_config

FOLDER = "states"
KEPT = 3
BEST = "best"  # of a state: the bytes of the files of the best network, by name
_NAME = re.compile(r"(\d{8,})-([0-9a-f]{32})\.pt")


def save_state(run: Path, step: int, state: Mapping[str, Any]) -> Path:
    """Write a state of a run, then remove all but the newest `KEPT`.

    Args:
        run: the run's directory.
        step: optimizer steps done.
        state: tensors, numbers, strings, and lists and dicts of them.

    Returns:
        The file.

    Raises:
        OSError: it could not be written, as where the disk is full; the states before are as they were.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    with buffer.getbuffer() as data:  # no copy: it may be large
        path = folder / f"{step:08}-{_checksum(data)}.pt"
        write_atomically(path, lambda temporary: temporary.write_bytes(data))
    older = [other for other in states_of(run) if _step_of(other) != step]
    kept = [path, *older[: KEPT - 1]]
    for other in states_of(run):
        if other not in kept:
            other.unlink(missing_ok=True)
    return path


def states_of(run: Path) -> list[Path]:
    """Return the files of a run's states, the newest first, damaged ones included."""
    named = [path for path in (run / FOLDER).glob("*.pt") if _NAME.fullmatch(path.name)]
    return sorted(named, key=_step_of, reverse=True)


def load_state(run: Path) -> dict[str, Any]:
    """Return the newest whole state of a run; remove newer ones that are damaged, and name them on stderr.

    Raises:
        ValueError: there is no whole state, or it holds more than tensors and plain values.
    """
    damaged = []
    for path in states_of(run):
        data = path.read_bytes()
        if not path.stem.endswith(_checksum(data)):
            damaged.append(path)
            continue
        try:
            # On the CPU, where Adam keeps its count of steps; each part copies its own to where it lies.
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises whatever an unknown content leads to
            raise ValueError(
                f"{path} is no state: it needs a file that train.py wrote, of tensors and plain values alone"
            ) from error
        for bad in damaged:
            bad.unlink()
            text = f"{bad} is damaged (its checksum differs): removed; going on from {path.name}"
            print(text, file=sys.stderr)
        return state
    if damaged:
        names = ", ".join(path.name for path in damaged)
        raise ValueError(f"{run}: all of its states are damaged (their checksums differ): {names}")
    raise ValueError(f"resume is {str(run)!r}, which has no states: nothing to continue")


def restore_settings(run: Path) -> None:
    """Restore the best network's files from the newest state if config.json has other settings.

    A damaged config.json may still be valid JSON: one digit may have become another.
    """
    if not states_of(run):
        return
    files = load_state(run).get(BEST)
    if not files:  # not the state of a run; `RunDirectory.restore` says so
        return
    saved = json.loads(files[CONFIG].numpy().tobytes())
    try:
        config = read_config(run)
    except (ValueError, FileNotFoundError):
        config = {}
    if any(config.get(name) != saved.get(name) for name in ("network", "training")):
        restore_files(run, files)


def restore_files(run: Path, files: Mapping[str, Tensor]) -> None:
    """Write the files of the best network from a state where those on the disk differ."""
    for name, content in files.items():
        data = content.numpy().tobytes()
        if not (run / name).exists() or (run / name).read_bytes() != data:
            print(
                f"{run / name} is not as it was when the state was saved; it is written anew", file=sys.stderr
            )
            write_atomically(run / name, lambda temporary, data=data: temporary.write_bytes(data))


def _step_of(state: Path) -> int:
    return int(state.name.partition("-")[0])


def _checksum(data: bytes | memoryview) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
