"""How files of sequences are written: .npy, never whole in memory.

Letters: T time, N sequences, H W pixels.
"""

import hashlib
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from convlstm.core.files import write_atomically
from datasets.moving_mnist import MovingMNIST

_CHUNK = 64


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
        OSError: the disk has too little space or may not be written.
    """
    path = Path(path)
    check_writable(path, overwrite)
    check_space(path, source)

    def write(unfinished: Path) -> None:
        # Not through a memory map, which kills the process when the disk is full.
        with open(unfinished, "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": _shape(source)}
            np.lib.format.write_array_header_1_0(file, header)
            start = file.tell()
            for first in range(0, len(source), _CHUNK):
                numbers = torch.arange(first, min(first + _CHUNK, len(source)))
                frames = rearrange(source.frames(numbers), "n t h w -> t n (h w)").contiguous()
                for time, chunk in enumerate(frames):
                    file.seek(start + (time * len(source) + first) * chunk.shape[1])
                    file.write(chunk.numpy().data)
                progress(len(numbers))

    write_atomically(path, write)


def _shape(source: MovingMNIST) -> tuple[int, ...]:
    # Not len(), which has no word for numbers beyond all disks.
    return source.length, source.sequences, source.image_size, source.image_size  # (T, N, H, W)


def check_writable(path: Path, overwrite: bool) -> None:
    """Raise what `write_npy` raises for a path, before anything is made that should be written there."""
    if path.suffix != ".npy":
        raise ValueError(f"{path} does not end in .npy, the kind of file that is written")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is no folder, but {path} should go there; make it first")
    if path.is_dir():
        raise FileExistsError(f"{path} is a folder; it needs to be the name of a file")
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{path} exists; take another name, or have it replaced (overwrite=True, --force)"
        )


def check_space(path: Path, source: MovingMNIST) -> None:
    """Raise OSError if the file that `write_npy` would write takes more than the disk has free."""
    needed, free = math.prod(_shape(source)), shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(
            f"{path} needs {needed:,} bytes for {source.sequences:,} sequences, but its disk has {free:,} "
            "free; write fewer or elsewhere"
        )
