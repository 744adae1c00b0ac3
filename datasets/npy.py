"""How files of sequences are read and written: .npy, never pickled, never whole in memory.

Letters: T time, N sequences, H W pixels.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from datasets.moving_mnist import MovingMNIST

_CHUNK = 64


def open_npy(path: str | Path) -> np.ndarray:
    """Return the array in a .npy file, memory-mapped and read-only.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a .npy file, it is empty, truncated, or holds pickled objects.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: there is no file {str(path)!r}")
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise ValueError(
            f"path: {str(path)!r} ({path.stat().st_size:,} bytes) is not a whole .npy file of numbers; numpy "
            f"says: {error}"
        ) from error


def md5_of(path: str | Path) -> str:
    """Return the md5 of a file's bytes, as 32 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def write_npy(
    path: str | Path,
    source: MovingMNIST,
    *,
    overwrite: bool = False,
    progress: Callable[[int], object] = lambda sequences: None,
) -> None:
    """Write all sequences of a source in the layout of the canonical file: uint8 of shape (T, N, H, W).

    The bytes go to a temporary name beside `path`, which is renamed when all is written and removed when
    anything goes wrong.

    Args:
        path: the file to write; its name ends in .npy and its folder exists.
        source: the sequences.
        overwrite: whether a file of this name may be replaced. Default: False.
        progress: is called with the number of sequences just written, again and again.

    Raises:
        ValueError: the name does not end in .npy.
        FileNotFoundError: the folder does not exist.
        FileExistsError: the file exists and may not be replaced, or it is a folder.
        OSError: the disk is full or may not be written.
    """
    path = Path(path)
    check_writable(path, overwrite)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    shape = (source.length, len(source), source.image_size, source.image_size)
    try:
        # Not through a memory map, which kills the process when the disk is full.
        with open(unfinished, "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            start = file.tell()
            for first in range(0, len(source), _CHUNK):
                numbers = torch.arange(first, min(first + _CHUNK, len(source)))
                frames = rearrange(source.frames(numbers), "n t h w -> t n (h w)").contiguous()
                for time, chunk in enumerate(frames):
                    file.seek(start + (time * len(source) + first) * chunk.shape[1])
                    file.write(chunk.numpy().data)
                progress(len(numbers))
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def check_writable(path: Path, overwrite: bool) -> None:
    """Raise what `write_npy` raises before it writes, so that nobody waits for an error."""
    if path.suffix != ".npy":
        raise ValueError(f"path: got {str(path)!r}; the name must end in .npy")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path: there is no folder {str(path.parent)!r}; make it first")
    if path.is_dir():
        raise FileExistsError(f"path: {str(path)!r} is a folder; give the name of a file")
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"path: {str(path)!r} exists; take another name, or have it replaced (overwrite=True, --force)"
        )
