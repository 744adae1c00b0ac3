from pathlib import Path

import numpy as np
import pytest
import torch

from convlstm.core.files import open_npy
from datasets import MovingMNIST
from datasets.npy import md5_of, write_npy


def make_source(sequences: int) -> MovingMNIST:
    digits = torch.arange(1, 1 + 3 * 4 * 5, dtype=torch.uint8).view(3, 4, 5)
    return MovingMNIST(digits, sequences=sequences, image_size=11, length=6)


@pytest.mark.parametrize("sequences", [1, 64, 130])
def test_what_is_written_is_what_numpy_would_write(tmp_path: Path, sequences: int) -> None:
    source, written = make_source(sequences), []
    write_npy(tmp_path / "ours.npy", source, progress=written.append)
    assert sum(written) == sequences
    np.save(tmp_path / "numpys.npy", source.frames(range(sequences)).transpose(0, 1).contiguous().numpy())
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "numpys.npy").read_bytes()
    assert md5_of(tmp_path / "ours.npy") == md5_of(tmp_path / "numpys.npy")
    assert open_npy(tmp_path / "ours.npy").shape == (6, sequences, 11, 11)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_nothing_and_spares_the_old_file(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "set.npy"
    path.write_bytes(b"old")

    def fail(sequences: int) -> None:
        assert len(list(tmp_path.iterdir())) == 2  # the unfinished file lies beside the old one
        raise error

    with pytest.raises(type(error)):
        write_npy(path, make_source(3), overwrite=True, progress=fail)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"
    write_npy(path, make_source(3), overwrite=True)
    assert open_npy(path).shape == (6, 3, 11, 11)


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "old.npy").write_bytes(b"old")
    (tmp_path / "folder.npy").mkdir()
    for name, error, message in (
        ("old.npy", FileExistsError, "exists; take another name"),
        ("folder.npy", FileExistsError, "is a folder"),
        ("none/set.npy", FileNotFoundError, "none is no folder"),
        ("set.npz", ValueError, r"does not end in \.npy"),
    ):
        with pytest.raises(error, match=message):
            write_npy(tmp_path / name, make_source(3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.npy", "old.npy"]


def test_a_disk_with_too_little_space_is_named_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"set.npy needs 72,600,000,000,000,000,000 bytes .* has .* free"):
        write_npy(tmp_path / "set.npy", make_source(10**17))
    assert list(tmp_path.iterdir()) == []
