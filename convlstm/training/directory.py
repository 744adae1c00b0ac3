"""The directory of a run on the disk: its name, its lock, its best network brought back, errors told."""

import contextlib
import errno
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TextIO

import torch

from convlstm.core.files import PARTIAL, write_atomically
from convlstm.core.saving import CONFIG
from convlstm.hub.checkpoint import read_config
from convlstm.training.states import find_state, states_of

LOCK = ".lock"
FAR = 2**30  # bytes, beyond what the lock's file holds
HELD = errno.EAGAIN, errno.EACCES, errno.EDEADLK  # another has the lock; Windows says one of the last two
NO_LOCKS = errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK
BEST = "best"  # of a state: the files of the best network


def new_path(name: str | None, preset: str) -> Path:
    """Return the directory of a run that begins: runs/NAME, or without a name the preset, date and time.

    Raises:
        ValueError: a name that is no folder's, or of a run that is there.
    """
    if name is not None and (name in ("", "..") or Path(name).name != name):
        raise ValueError(f"name is {name!r}; it needs the name of a folder, which is made under runs/")
    path = Path("runs") / (name or f"{preset}-{datetime.now():%Y%m%d-%H%M%S}")
    if path.exists():
        go_on = f", or go on with it: --resume {path}" if states_of(path) else ""
        raise ValueError(f"name: {path} exists; choose another --name{go_on}")
    return path


@contextlib.contextmanager
def made(path: Path, new: bool) -> Iterator[None]:
    """Make the directory; remove it again if no state was saved in it."""
    parents = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = True
    try:
        path.mkdir()
    except FileExistsError as error:
        fresh = False
        if new:
            raise ValueError(f"name: {path} exists; choose another --name") from error
    try:
        yield
    finally:
        if fresh and not states_of(path):
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):  # another run may have been made beside it
                for folder in parents:
                    folder.rmdir()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep others out of the directory, and remove what a killed process left half-written.

    The lock is the operating system's and ends with the process, however it ends. Where a file system has no
    locks, as some that clusters share, that is said and the run goes on.
    """
    with (path / LOCK).open("a+") as file:
        try:
            _lock(file)
        except OSError as error:
            if error.errno in NO_LOCKS:
                print(f"{path}: its file system has no locks; start no second run in it", file=sys.stderr)
            elif error.errno in HELD:
                file.seek(0)
                raise ValueError(
                    f"{path} is being trained by {file.read() or 'another process'}; stop it, or wait"
                ) from error
            else:
                raise
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        for left in list(path.rglob(PARTIAL)):
            left.unlink()
        yield


def _lock(file: TextIO) -> None:
    """Take the lock of an open file for as long as it is open, or raise OSError at once."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(FAR)  # Windows keeps others from reading what is locked
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class _Told(OSError):
    """An error that tells how to go on."""


@contextlib.contextmanager
def way_on(path: Path, what: str = "") -> Iterator[None]:
    """Have an error of the system tell what went wrong, and which state of a run there is to go on from."""
    try:
        yield
    except OSError as error:
        kept = states_of(path)
        if isinstance(error, _Told) or not (kept or what):
            raise
        left = f"; {kept[0]} is whole: go on with --resume {path}" if kept else ""
        raise _Told((f"{what} ({error})" if what else str(error)) + left) from error


def mend(path: Path) -> None:
    """Write the checkpoint of a run anew from its newest whole state, where config.json has other settings.

    It may be damaged and still be JSON, as where one digit is another.
    """
    if not states_of(path):
        return
    state = find_state(path)[1]
    if BEST not in state:  # not of a run; `restore` says so
        return
    files = state[BEST]
    own = json.loads(files[CONFIG].numpy().tobytes())
    try:
        config = read_config(path)
    except (ValueError, FileNotFoundError):
        config = {}
    if any(config.get(name) != own.get(name) for name in ("network", "training")):
        restore_files(path, files)


def restore_files(path: Path, files: Mapping[str, torch.Tensor]) -> None:
    """Write the files of the best network, as a state has them, where they are not the same."""
    for name, content in files.items():
        data = content.numpy().tobytes()
        if not (path / name).exists() or (path / name).read_bytes() != data:
            print(
                f"{path / name} is not as it was when the state was saved; it is written anew",
                file=sys.stderr,
            )
            write_atomically(path / name, lambda temporary, data=data: temporary.write_bytes(data))
