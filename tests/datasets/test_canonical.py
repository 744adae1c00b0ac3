from pathlib import Path

import numpy as np
import pytest
import torch

from datasets import CanonicalMovingMNIST
from datasets.canonical import CANONICAL_MD5
from datasets.npy import md5_of


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A file of 5 sequences with 3 frames of 4 x 6 pixels, time first."""
    path = tmp_path / "mnist_test_seq.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (3, 5, 4, 6), dtype=np.uint8))
    return path


def test_sequences_come_in_file_order_with_time_second(stand_in: Path) -> None:
    source = CanonicalMovingMNIST(stand_in, md5=md5_of(stand_in))
    array = torch.from_numpy(np.load(stand_in))
    assert len(source) == 5
    assert source.value_range == (0.0, 255.0)
    for numbers in ([0, 1, 2, 3, 4], [4, 1, 1], torch.tensor([3])):
        batch = source.batch(numbers)
        assert batch.shape == (len(numbers), 3, 1, 4, 6)
        assert batch.dtype == torch.float32
        for sequence, frames, number in zip(batch, source.frames(numbers), numbers, strict=True):
            torch.testing.assert_close(frames, array[:, number], rtol=0, atol=0)
            torch.testing.assert_close(sequence[:, 0], array[:, number] / 255)


def test_the_file_is_memory_mapped(stand_in: Path) -> None:
    source = CanonicalMovingMNIST(stand_in, md5=md5_of(stand_in))
    with open(stand_in, "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x07")
    assert source.frames([4])[0, -1, -1, -1] == 7


def test_another_file_is_refused_with_both_digests(stand_in: Path) -> None:
    assert CANONICAL_MD5 == "be083ec986bfe91a449d63653c411eb2"
    with pytest.raises(ValueError, match=rf"md5 {md5_of(stand_in)} .* it needs {CANONICAL_MD5}"):
        CanonicalMovingMNIST(stand_in)


@pytest.mark.parametrize("kept", [0, 5, 60, 200])
def test_a_truncated_file_is_refused(stand_in: Path, kept: int) -> None:
    md5 = md5_of(stand_in)
    stand_in.write_bytes(stand_in.read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"has md5 .* \({kept} bytes\); it needs .* damaged, incomplete"):
        CanonicalMovingMNIST(stand_in, md5=md5)
    with pytest.raises(ValueError, match=r"is empty|begins with|is damaged"):
        CanonicalMovingMNIST(stand_in, md5=md5_of(stand_in))


@pytest.mark.parametrize("array", [np.zeros((3, 5, 4), np.uint8), np.zeros((3, 5, 4, 6), np.float32)])
def test_an_array_of_another_kind_is_refused(stand_in: Path, array: np.ndarray) -> None:
    np.save(stand_in, array)
    with pytest.raises(ValueError, match=r"needs uint8 of shape \(T, N, H, W\)"):
        CanonicalMovingMNIST(stand_in, md5=md5_of(stand_in))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npy is no file.* is published at http"):
        CanonicalMovingMNIST(tmp_path / "nowhere.npy")


@pytest.mark.parametrize("number", [-1, 5])
def test_numbers_out_of_range_are_refused(stand_in: Path, number: int) -> None:
    with pytest.raises(IndexError, match=f"indices have {number}; they need 0 to 4"):
        CanonicalMovingMNIST(stand_in, md5=md5_of(stand_in)).batch([0, number])
