"""The test file that the field scores on, ``mnist_test_seq.npy``. Letters: B batch, T time, H W pixels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from convlstm.core.files import open_npy
from datasets.npy import md5_of
from datasets.source import check_indices, unit_range

CANONICAL_MD5 = "be083ec986bfe91a449d63653c411eb2"
CANONICAL_URL = "http://www.cs.toronto.edu/~nitish/unsupervised_video/mnist_test_seq.npy"


class CanonicalMovingMNIST:
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

    value_range = (0.0, 255.0)
    unit = ""

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
        """The number of sequences."""
        return self._frames.shape[1]

    def batch(
        self, indices: torch.Tensor | Sequence[int], device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """Return the sequences with these numbers: float32 of shape (B, T, 1, H, W) in [0, 1].

        Args:
            indices: the numbers of the sequences, integers of shape (B,), each from 0 to len - 1.
            device: where the result is to be. Default: the CPU.

        Raises:
            ValueError: `indices` is empty, or not integers of shape (B,).
            IndexError: a number out of range.
        """
        return unit_range(self.frames(indices, device))  # (B, T, 1, H, W)

    def frames(
        self, indices: torch.Tensor | Sequence[int], device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """Return what `batch` returns as bytes: uint8 of shape (B, T, H, W)."""
        numbers = check_indices(indices, len(self)).numpy()
        frames = torch.from_numpy(np.asarray(self._frames[:, numbers]))  # (T, B, H, W)
        return rearrange(frames, "t b h w -> b t h w").to(device)
