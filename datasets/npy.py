"""Moving MNIST in .npy files: read the canonical test set, and write sets of your own.

Letters: B batch, T time, N sequences, H W pixels.
"""

import hashlib
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from convlstm.core.files import check_output, open_npy, write_atomically
from datasets.moving_mnist import MovingMNIST
from datasets.source import GrayBytes, check_indices

CANONICAL_MD5 = "be083ec986bfe91a449d63653c411eb2"
CANONICAL_URL = "http://www.cs.toronto.edu/~nitish/unsupervised_video/mnist_test_seq.npy"
CHUNK = 64  # sequences that are written at a time


def md5_of(path: str | Path) -> str:
    """Return the md5 of a file's bytes, as 32 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


class CanonicalMovingMNIST(GrayBytes):
    """The 10,000 Moving MNIST test sequences that published results are about, in file order.

    Of the 20 frames of a sequence, the first 10 are the context and the last 10 the target. The digits are
    those of MNIST's test set. Srivastava, Mansimov and Salakhutdinov, "Unsupervised Learning of Video
    Representations using LSTMs", ICML 2015.

    Args:
        path: where ``mnist_test_seq.npy`` lies: uint8 of shape (20, 10000, 64, 64), time first. It is
            memory-mapped: a batch reads what it needs.
        md5: what the file's md5 must be. Default: that of the published file. With another one, any file of
            shape (T, N, H, W) and type uint8 is read as a source.

    Attributes:
        value_range: (0.0, 255.0), the pixel values that 0 and 1 stand for.
        unit: "", pixel values have none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, truncated or not the right one.
    """

    def __init__(self, path: str | Path, md5: str = CANONICAL_MD5) -> None:
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is no file; it needs mnist_test_seq.npy, which is published at {CANONICAL_URL}"
            )
        found = md5_of(path)
        if found != md5:
            raise ValueError(
                f"{path} has md5 {found} ({path.stat().st_size:,} bytes); it needs {md5}, so it is damaged, "
                f"incomplete or another file: fetch it again from {CANONICAL_URL}"
            )
        self._frames = open_npy(path)  # (T, N, H, W)
        if self._frames.ndim != 4 or self._frames.dtype != np.uint8:
            raise ValueError(
                f"{path} is {self._frames.dtype} of shape {self._frames.shape}; it needs uint8 of shape "
                "(T, N, H, W)"
            )

    def __len__(self) -> int:
        """Return the number of sequences."""
        return self._frames.shape[1]

    def frames(
        self, indices: torch.Tensor | Sequence[int], device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """Return what `batch` returns as bytes: uint8 of shape (B, T, H, W)."""
        numbers = check_indices(indices, len(self)).numpy()
        frames = torch.from_numpy(np.asarray(self._frames[:, numbers]))  # (T, B, H, W)
        return rearrange(frames, "t b h w -> b t h w").to(device)


def write_npy(
    path: str | Path,
    source: MovingMNIST,
    *,
    overwrite: bool = False,
    progress: Callable[[int], object] = lambda sequences: None,
) -> None:
    """Write all sequences of a source in the layout of the canonical file: uint8 of shape (T, N, H, W).

    They are never in memory together. A file that is not whole is removed when anything goes wrong.

    Args:
        path: the file to write; its name ends in .npy and its folder exists.
        source: the sequences.
        overwrite: whether a file of this name may be replaced. Default: False.
        progress: is called with the number of sequences just written, again and again.

    Raises:
        ValueError: the name does not end in .npy, is that of a folder, or names a folder that does not exist.
        FileExistsError: the file exists and may not be replaced.
        OSError: the disk has too little space or may not be written.
    """
    path = Path(path)
    if path.suffix != ".npy":
        raise ValueError(f"{path} does not end in .npy, the kind of file that is written")
    check_output(path)
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{path} exists; take another name, or have it replaced (overwrite=True, --force)"
        )
    shape = source.length, source.sequences, source.image_size, source.image_size  # (T, N, H, W)
    needed, free = math.prod(shape), shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(
            f"{path} needs {needed:,} bytes for {source.sequences:,} sequences, but its disk has {free:,} "
            "free; write fewer or elsewhere"
        )

    def write(unfinished: Path) -> None:
        # Not through a memory map, which kills the process when the disk is full.
        with open(unfinished, "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            start = file.tell()
            for first in range(0, len(source), CHUNK):
                numbers = torch.arange(first, min(first + CHUNK, len(source)))
                frames = rearrange(source.frames(numbers), "n t h w -> t n (h w)").contiguous()
                for time, chunk in enumerate(frames):
                    file.seek(start + (time * len(source) + first) * chunk.shape[1])
                    file.write(chunk.numpy().data)
                progress(len(numbers))

    write_atomically(path, write)
