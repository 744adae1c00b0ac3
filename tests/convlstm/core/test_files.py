"""Files are written whole or not at all; what a .npy file says of itself is not believed."""

import math
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from convlstm.core.files import jsonable, open_npy, write_atomically


@pytest.mark.parametrize("error", [OSError("no space left on device"), KeyboardInterrupt(), SystemExit(143)])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("shape", [(4, 5, 6), (0, 3), ()])
def test_an_array_is_mapped_and_read_only(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).random(shape)
    np.save(tmp_path / "a.npy", array)
    opened = open_npy(tmp_path / "a.npy")
    assert isinstance(opened, np.memmap)
    assert not opened.flags.writeable
    np.testing.assert_array_equal(opened, array)


def npy(header: str, version: bytes = b"\x01\x00", data: bytes = bytes(100)) -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header.encode("latin1") + data


def header(shape: str) -> str:
    return f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n"


def test_a_header_of_python_2_will_do(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(npy(header("(4L, 5L, 5L)")))
    assert open_npy(tmp_path / "a.npy").shape == (4, 5, 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged, or no .npy array of numbers: EOF"),
        (b"PK\x03\x04 no array", "is damaged, or no .npy array of numbers: the magic string is not correct"),
        (b"\x93NUMPY\x01\x00\x76\x00{'descr'", "is damaged, .*: EOF"),
        (npy(header("(4, 5, 6)")), "is damaged"),  # cut short
        (npy(header("(-4, 5, 5)")), "is damaged"),
        (npy(header("(0, 4611686018427387904, 4611686018427387904)")), "is damaged"),
        (npy(header("(" + "1," * 80 + ")")), "is damaged"),
        (npy("{'a':" * 300 + "1" + "}" * 300), "is damaged"),
        (npy(" " * 30_000 + "\n"), "is damaged, .*: Header info length"),
    ],
    ids=range(9),
)
def test_what_is_no_array_is_said_in_a_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        open_npy(path)
    assert str(caught.value).startswith(f"{path} ")
    assert "\n" not in str(caught.value)
    assert "allow_pickle" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 200


def test_objects_and_missing_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"a.npy is damaged, or no .npy array of numbers: .*Python objects"):
        open_npy(tmp_path / "a.npy")
    for path in (tmp_path, tmp_path / "nowhere.npy"):
        with pytest.raises(FileNotFoundError, match=r"is no file; it needs a .npy array"):
            open_npy(path)


def test_what_is_no_number_is_none_in_json() -> None:
    values = {"a": {"mse": [1.0, math.inf, math.nan]}, "b": ("c", 2), "d": None}
    assert jsonable(values) == {"a": {"mse": [1.0, None, None]}, "b": ["c", 2], "d": None}
